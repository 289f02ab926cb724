import * as Memory from "effect-strata/memory"
import {
  Decision,
  DurableStateStore,
  Entity,
  EventStore,
  OffsetStore,
  Projection,
  Spool,
  SpoolStore,
  Transactor
} from "effect-strata/testing"

Decision.suite("memory", Memory.layer)
DurableStateStore.suite("memory", Memory.layer)
Entity.suite("memory", Memory.layer)
EventStore.suite("memory", Memory.layer)
OffsetStore.suite("memory", Memory.layer)
Projection.suite("memory", Memory.layer)
Spool.suite("memory", Memory.layer)
SpoolStore.suite("memory", Memory.layer)
Transactor.suite("memory", Memory.layer)
