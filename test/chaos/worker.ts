/** Handles messages in transactions, of which some fail after they have written. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Random } from "effect"
import { Spool } from "effect-strata"
import { leaseMillis } from "./agreed.ts"
import { jobs, main, schema, stop, worked } from "./child.ts"

const work = jobs.run(
  (fate, { id }) =>
    Effect.gen(function* () {
      const sql = yield* PgClient.PgClient
      yield* sql`INSERT INTO ${sql(schema)}.handled (id) VALUES (${id})`
      worked()
      // Some take longer than a lease lasts.
      const isSlow = (yield* Random.next) < 0.03
      yield* Effect.sleep(isSlow ? 1.5 * leaseMillis : yield* Random.nextIntBetween(0, 60))
      if (fate === "stubborn" && (yield* Random.nextBoolean)) return yield* Effect.fail(new Error("not yet"))
      if (fate === "hopeless") return yield* Effect.fail(Spool.permanent("never"))
      return
    }),
  { transactional: true, concurrency: 4, lease: leaseMillis }
)

main(Effect.raceFirst(work, stop), 8)
