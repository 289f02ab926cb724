import { Layer } from "effect"
import * as Postgres from "effect-strata/postgres"
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
import { layerSchema } from "../support/database.ts"

const layer = Layer.provide(Postgres.layer(), layerSchema())

Decision.suite("postgres", layer)
DurableStateStore.suite("postgres", layer)
Entity.suite("postgres", layer)
EventStore.suite("postgres", layer)
OffsetStore.suite("postgres", layer)
Projection.suite("postgres", layer)
Spool.suite("postgres", layer)
SpoolStore.suite("postgres", layer)
Transactor.suite("postgres", layer)
