import { Layer } from "effect"
import * as Postgres from "effect-strata/postgres"
import { EventStore, OffsetStore, Spool, SpoolStore, Transactor } from "effect-strata/testing"
import { layerSchema } from "../support/database.ts"

const layer = Layer.provide(Postgres.layer(), layerSchema())

EventStore.suite("postgres", layer)
OffsetStore.suite("postgres", layer)
Spool.suite("postgres", layer)
SpoolStore.suite("postgres", layer)
Transactor.suite("postgres", layer)
