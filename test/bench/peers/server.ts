/** A schema of its own for a peer. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Redacted } from "effect"

/** Where it is, as long as the scope lasts. */
export const ownSchema = Effect.gen(function* () {
  const sql = yield* PgClient.PgClient
  const { url } = sql.config
  if (url === undefined) return yield* Effect.die("the bench connects by URL")
  const schema = `strata_peer_${crypto.randomUUID().slice(0, 8)}`
  yield* Effect.acquireRelease(sql`CREATE SCHEMA ${sql(schema)}`, () =>
    Effect.orDie(sql`DROP SCHEMA ${sql(schema)} CASCADE`)
  )
  return { url: Redacted.value(url), schema }
})
