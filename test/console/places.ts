/** Where a console is tested: on tables of its own of a server, and on a Postgres inside the process. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Redacted, type Scope } from "effect"
import { freshSchema } from "../postgres/harness.ts"
import { postgresUrl } from "../support/database.ts"
import { embedded, type Place, shared } from "./serving.ts"

export const poolOf = (url: string) => PgClient.layer({ url: Redacted.make(url), maxConnections: 8 })

export const onServer: Effect.Effect<Place, never, Scope.Scope> = Effect.gen(function* () {
  const schema = yield* freshSchema()
  return { pool: yield* shared(poolOf(postgresUrl)), options: { schema } }
})

export const places = [
  ["a server", onServer],
  ["a Postgres inside the process", embedded]
] as const
