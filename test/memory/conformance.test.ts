import * as Memory from "effect-strata/memory"
import { EventStore, OffsetStore, Spool, SpoolStore, Transactor } from "effect-strata/testing"

EventStore.suite("memory", Memory.layer)
OffsetStore.suite("memory", Memory.layer)
Spool.suite("memory", Memory.layer)
SpoolStore.suite("memory", Memory.layer)
Transactor.suite("memory", Memory.layer)
