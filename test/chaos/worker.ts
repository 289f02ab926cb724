/** Handles messages in transactions, of which some fail after they have written, and others outside, which take longer. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Random } from "effect"
import { Spool } from "effect-strata"
import { leaseMillis } from "./agreed.ts"
import { errands, jobs, main, schema, stop, worked } from "./child.ts"

const work = jobs.run(
  (fate, { id }) =>
    Effect.gen(function* () {
      const sql = yield* PgClient.PgClient
      yield* sql`INSERT INTO ${sql(schema)}.handled (id) VALUES (${id})`
      worked()
      yield* Effect.sleep(yield* Random.nextIntBetween(0, 60))
      if (fate === "stubborn" && (yield* Random.nextBoolean)) return yield* Effect.fail(new Error("not yet"))
      if (fate === "hopeless") return yield* Effect.fail(Spool.permanent("never"))
      return
    }),
  { transactional: true, concurrency: 4, lease: leaseMillis }
)

const runErrands = errands.run(
  (_, { id }) =>
    Effect.gen(function* () {
      const sql = yield* PgClient.PgClient
      yield* Effect.sleep(1.2 * leaseMillis)
      yield* sql`INSERT INTO ${sql(schema)}.handled (id) VALUES (${id})`
    }),
  { concurrency: 20, lease: leaseMillis }
)

main(Effect.raceAllFirst([work, runErrands, stop]), 8)
