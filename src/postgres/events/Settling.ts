/**
 * How far the log is certain.
 *
 * A version is drawn from a sequence before the commit that makes its event visible. So a number that is missing among
 * those that can be seen is either in flight, and must not be passed, or dead: rolled back, and must not be waited for.
 */
import { Duration, Effect, Option, Schema, Stream } from "effect"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as LockHolders from "./LockHolders.ts"

const Highest = Schema.Struct({ version: Schema.NullOr(Schema.BigInt) })

/** The waits between two looks, in milliseconds: most transactions are over after the first. */
const shortestWait = 5
const longestWait = 50

/** How long to wait before asking for the events before the first hole, which reads the log from there on. */
const patience = 20

interface Waiting {
  /** All events up to here are final and have been told of. */
  readonly settled: bigint
  readonly highest: bigint
  readonly holders: ReadonlySet<string>
  readonly wait: number
  readonly since: number
  readonly reported: boolean
}

type Step = readonly [marks: Array<bigint>, next: Option.Option<Waiting | undefined>]

export const make = Effect.gen(function* () {
  const { inTransaction, names, query, settleTimeout, sql, tables } = yield* PostgresDatabase
  const { look, report } = yield* LockHolders.make
  const events = tables.events
  const decodeHighest = decodeRows(Highest, names.events, [])
  const limit = Duration.toMillis(settleTimeout)

  /** The highest version known to be final, so that holes below it, dead ones, are not looked at again. */
  let final: { readonly version: bigint; readonly server: string } | undefined

  const highestVersion = Effect.map(
    Effect.flatMap(query(sql`SELECT max(version) AS version FROM ${events}`), decodeHighest),
    ([row]) => row?.version ?? 0n
  )

  /** The end of the row of versions without a hole that begins after `after`. */
  const prefix = (after: bigint, highest: bigint) =>
    Effect.map(
      Effect.flatMap(
        query(sql`
          SELECT previous AS version FROM (
            SELECT version, lag(version, 1, ${after}::bigint) OVER (ORDER BY version) AS previous
            FROM ${events} WHERE version > ${after} AND version <= ${highest}
          ) AS events WHERE version <> previous + 1 ORDER BY version LIMIT 1`),
        decodeHighest
      ),
      ([row]) => row?.version ?? highest
    )

  const done = (settled: bigint, highest: bigint): Step => [highest > settled ? [highest] : [], Option.none()]

  const begin = Effect.fnUntraced(function* (after: bigint): Effect.fn.Return<Step, Reason> {
    const highest = yield* highestVersion
    // Never before the highest version has been read.
    const { holders, server } = yield* look(query)
    // Another server, or a log that has become shorter: a failover, a restore. What was known is of another log.
    if (final !== undefined && (final.server !== server || final.version > highest)) final = undefined
    const known = final?.version ?? 0n
    if (highest <= after || highest <= known || holders.size === 0) {
      // In a transaction, its own events can be seen and are not final.
      if (!(yield* inTransaction) && holders.size === 0) final = { version: highest, server }
      return done(after, highest)
    }
    const since = yield* monotonicMillis
    const settled = known > after ? known : after
    const waiting = { settled, highest, holders, wait: shortestWait, since, reported: false }
    return [known > after ? [known] : [], Option.some(waiting)]
  })

  const proceed = Effect.fnUntraced(function* (waiting: Waiting, forever: boolean): Effect.fn.Return<Step, Reason> {
    const { highest, settled, since } = waiting
    yield* Effect.sleep(Math.min(waiting.wait, limit))
    const { holders: now, server } = yield* look(query)
    const holders = LockHolders.remaining(waiting.holders, now)
    if (holders.size === 0) {
      if (!(yield* inTransaction)) final = { version: highest, server }
      return done(settled, highest)
    }
    const waited = (yield* monotonicMillis) - since
    const next = { ...waiting, holders, wait: Math.min(waiting.wait * 2, longestWait) }
    if (waited < Math.min(patience, limit)) return [[], Option.some(next)]
    // Whoever is left may have drawn higher versions only. What is before the first hole does not wait for them.
    const certain = yield* prefix(settled, highest)
    if (certain === highest) return done(settled, highest)
    const marks = certain > settled ? [certain] : []
    if (waited >= limit && !waiting.reported) yield* report(query, holders, certain + 1n)
    if (waited < limit || forever) {
      return [marks, Option.some({ ...next, settled: certain, reported: waited >= limit })]
    }
    return [marks, Option.none()]
  })

  return {
    highestVersion,

    /**
     * Versions up to which the log is final, each higher than the one before: several where a transaction is waited for
     * and there are events before the place where it may still append. The last one is the highest version that was
     * committed when it began, or, after `settleTimeout` and unless it shall wait `forever`, the end of what is certain.
     * None where there is nothing new.
     */
    marks: (after: bigint, forever = false): Stream.Stream<bigint, Reason> =>
      Stream.paginate(undefined, (waiting: Waiting | undefined) =>
        waiting === undefined ? begin(after) : proceed(waiting, forever)
      )
  }
})
