import { Layer } from "effect"
import * as Postgres from "effect-strata/postgres"
import { OffsetStore, Transactor } from "effect-strata/testing"
import { layerSchema } from "../support/database.ts"

const layer = Layer.provide(Postgres.layer(), layerSchema())

OffsetStore.suite("postgres", layer)
Transactor.suite("postgres", layer)
