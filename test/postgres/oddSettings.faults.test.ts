/** A database whose every setting of sessions is another one than usual, with the locale of Turkish: the stores do not notice. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted } from "effect"
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
import { postgresUrl } from "../support/database.ts"
import { database } from "../support/databases.ts"
import { execute } from "./harness.ts"

/** What a statement or a result could depend on, each with a value that nobody expects. */
const settings = [
  "DateStyle = 'SQL, DMY'",
  "IntervalStyle = 'sql_standard'",
  "TimeZone = 'Asia/Kathmandu'",
  "bytea_output = 'escape'",
  "extra_float_digits = -15",
  "standard_conforming_strings = off",
  "escape_string_warning = off",
  "transform_null_equals = on",
  "quote_all_identifiers = on",
  "plan_cache_mode = force_generic_plan",
  "search_path = 'nowhere, \"$user\"'",
  "lock_timeout = '20s'",
  "statement_timeout = '60s'",
  "idle_in_transaction_session_timeout = '60s'"
]

const layerWith = (options: Postgres.Options) =>
  Layer.unwrap(
    Effect.gen(function* () {
      const url = yield* database(postgresUrl, "template0", "LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR'")
      const name = new URL(url).pathname.slice(1)
      yield* execute(settings.map((setting) => `ALTER DATABASE ${name} SET ${setting}`))
      return Layer.provide(
        Postgres.layer({ schema: "strata", ...options }),
        PgClient.layer({ url: Redacted.make(url) })
      )
    })
  )

const layer = layerWith({})
const divided = layerWith({ partitions: { size: 50n } })

const name = "postgres, odd settings"

Decision.suite(name, layer)
DurableStateStore.suite(name, layer)
Entity.suite(name, layer)
EventStore.suite(name, layer)
OffsetStore.suite(name, layer)
Projection.suite(name, layer)
Spool.suite(name, layer)
SpoolStore.suite(name, layer)
Transactor.suite(name, layer)

Decision.suite(`${name}, with partitions`, divided)
EventStore.suite(`${name}, with partitions`, divided)
