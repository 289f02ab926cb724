import { Layer } from "effect"
import * as Pglite from "effect-strata/pglite"
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

const layer = Layer.provide(Postgres.layer(), Pglite.layer())

Decision.suite("pglite", layer, { interleaving: false })
DurableStateStore.suite("pglite", layer, { interleaving: false })
Entity.suite("pglite", layer, { interleaving: false })
EventStore.suite("pglite", layer, { interleaving: false })
OffsetStore.suite("pglite", layer)
Projection.suite("pglite", layer, { interleaving: false })
Spool.suite("pglite", layer, { interleaving: false })
SpoolStore.suite("pglite", layer, { interleaving: false })
Transactor.suite("pglite", layer, { interleaving: false })
