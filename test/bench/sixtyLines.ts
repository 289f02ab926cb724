/**
 * A reader of sixty lines that gives every event of the log once, in order: what a good engineer would write for one purpose,
 * who knows that a version can be missing because its transaction is still open. It has a connection of its own, and knows
 * nothing of filters, of other subscribers, of a log that was replaced, or of what holds it up.
 */
import { PgClient } from "@effect/sql-pg"
import { Effect, Redacted } from "effect"
import { Reactivity } from "effect/reactivity"

export const applicationName = "sixty-lines"

const pageEvents = 512
const poll = "10 millis"
/** So long it waits for an answer before it takes the connection for dead. */
const patience = "3 seconds"

/** How many of the versions follow on the cursor without a gap. */
const contiguous = (versions: ReadonlyArray<number>, cursor: number): number => {
  const gap = versions.findIndex((version, index) => version !== cursor + 1 + index)
  return gap < 0 ? versions.length : gap
}

const isDisjoint = (some: ReadonlySet<string>, others: ReadonlySet<string>) =>
  [...some].every((one) => !others.has(one))

/** Tells the ids of all events above the cursor, for ever. A lost connection is followed by another one. */
export const read = (url: string, schema: string, tell: (id: string) => void): Effect.Effect<never> => {
  let cursor = 0
  const connected = Effect.gen(function* () {
    const sql = yield* PgClient.makeClient({ url: Redacted.make(url), applicationName })
    const pageFrom = (first: number) =>
      Effect.timeout(
        sql<{ version: bigint; id: string }>`
          SELECT version, id FROM ${sql(schema)}.events WHERE version > ${first} ORDER BY version LIMIT ${pageEvents}`,
        patience
      )
    const writers = Effect.map(
      Effect.timeout(
        sql<{ holder: string }>`
          SELECT virtualtransaction AS holder FROM pg_locks
          WHERE relation = ${`${schema}.events`}::regclass AND mode = 'RowExclusiveLock' AND granted`,
        patience
      ),
      (rows) => new Set(rows.map(({ holder }) => holder))
    )
    /** The version up to which all is final, once none of the holders is left. */
    let fence: { readonly version: number; readonly holders: ReadonlySet<string> } | undefined
    while (true) {
      const isFinal = fence !== undefined && isDisjoint(fence.holders, yield* writers)
      const rows = yield* pageFrom(cursor)
      const versions = rows.map(({ version }) => Number(version))
      const upTo = isFinal ? versions.filter((version) => version <= (fence?.version ?? 0)).length : 0
      const count = Math.max(upTo, contiguous(versions, cursor))
      for (const { id } of rows.slice(0, count)) tell(id)
      cursor = versions[count - 1] ?? cursor
      if (isFinal || count === rows.length) fence = undefined
      const highest = versions.at(-1)
      if (count < rows.length && highest !== undefined) fence ??= { version: highest, holders: yield* writers }
      if (rows.length < pageEvents) yield* Effect.sleep(poll)
    }
  })
  return connected.pipe(
    Effect.scoped,
    Effect.provide(Reactivity.layer),
    Effect.catchCause(() => Effect.sleep("50 millis")),
    Effect.forever
  )
}
