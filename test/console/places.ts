/** Where a console is tested: on tables of its own of a server, and on a Postgres inside the process. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, type Scope } from "effect"
import * as Pglite from "effect-strata/pglite"
import * as Postgres from "effect-strata/postgres"
import { freshSchema } from "../postgres/harness.ts"
import { postgresUrl } from "../support/database.ts"

export interface Place {
  readonly pool: Layer.Layer<PgClient.PgClient>
  readonly options: Postgres.Options
}

/** The same client for the stores and for the console, as an application has it. */
const shared = Effect.fnUntraced(function* <E>(client: Layer.Layer<PgClient.PgClient, E>) {
  return Layer.succeedContext(yield* Effect.orDie(Layer.build(Layer.fresh(client))))
})

export const poolOf = (url: string) => PgClient.layer({ url: Redacted.make(url), maxConnections: 8 })

export const onServer: Effect.Effect<Place, never, Scope.Scope> = Effect.gen(function* () {
  const schema = yield* freshSchema()
  return { pool: yield* shared(poolOf(postgresUrl)), options: { schema } }
})

export const embedded: Effect.Effect<Place, never, Scope.Scope> = Effect.gen(function* () {
  return { pool: yield* shared(Pglite.layer()), options: {} }
})

/** The stores of a place, migrated, until the scope closes. */
export const storesOf = ({ options, pool }: Place) =>
  Effect.orDie(Layer.build(Layer.fresh(Layer.provide(Postgres.layer({ ...options, largeIntegers: "bigint" }), pool))))
