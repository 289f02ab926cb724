import { Layer } from "effect"
import * as Pglite from "effect-strata/pglite"
import * as Postgres from "effect-strata/postgres"
import { OffsetStore, Transactor } from "effect-strata/testing"

const layer = Layer.provide(Postgres.layer(), Pglite.layer())

OffsetStore.suite("pglite", layer)
Transactor.suite("pglite", layer, { interleaving: false })
