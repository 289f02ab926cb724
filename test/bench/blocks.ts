/** What a statement reads: the blocks that the server looks at, cached or not. */
import { PgClient } from "@effect/sql-pg"
import { Console, Effect } from "effect"
import { now } from "./harness.ts"

/** The blocks that statements of this database have looked at. */
const blocks = Effect.gen(function* () {
  const sql = yield* PgClient.PgClient
  yield* sql`SELECT pg_stat_force_next_flush()`.unprepared
  const [row] = yield* sql<{ readonly blocks: string }>`
    SELECT sum(heap_blks_hit + heap_blks_read + coalesce(idx_blks_hit + idx_blks_read, 0))::text AS blocks
    FROM pg_statio_user_tables`.unprepared
  return Number(row?.blocks)
})

/** Reads so many times, after once to warm up, and writes a line with the events, blocks and time of a read. */
export const measured = Effect.fnUntraced(function* <R>(
  name: string,
  times: number,
  read: (n: number) => Effect.Effect<number, unknown, R>
) {
  const spent: Array<number> = []
  let rows = yield* read(0)
  const before = yield* blocks
  for (let n = 1; n <= times; n++) {
    const start = yield* now
    rows = yield* read(n)
    spent.push((yield* now) - start)
  }
  const each = ((yield* blocks) - before) / times
  const median = spent.toSorted((a, b) => a - b)[times >> 1] ?? Number.NaN
  yield* Console.log(
    `${name.padEnd(46)} ${rows.toString().padStart(5)} events ${each.toFixed(0).padStart(9)} blocks ${median.toFixed(2).padStart(9)} ms`
  )
})
