/** How what a reader has seen of the log is compared with what is there: `events/LastSeen` has the rule. */
import { Duration, Effect, Schema } from "effect"
import { LogReplaced } from "../../Event.ts"
import * as Hole from "../../events/Hole.ts"
import * as LastSeen from "../../events/LastSeen.ts"
import { realMillis, realSleep } from "../../internal/RealTime.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase, type Query } from "../database/PostgresDatabase.ts"
import * as LockHolders from "./LockHolders.ts"

/** One row for each event that was found, or one without an event. */
const Found = Schema.Struct({
  ...LockHolders.ServerColumns.fields,
  highest: Schema.NullOr(Schema.BigInt),
  version: Schema.NullOr(Schema.BigInt),
  id: Schema.NullOr(Schema.String)
})

/** The wait before another look at the transactions that may still commit the event at a cursor. */
const lookIntervalMillis = 50

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { names, query, settleTimeout, sql, tables } = database
  const { check, list, report } = yield* LockHolders.make
  const decode = decodeRows(Found, names.events, [])
  const serverColumns = sql.literal(LockHolders.serverColumns(database))
  const timeoutMillis = Duration.toMillis(settleTimeout)

  /** Compares in one statement, on the connection that `run` has. */
  const compare = Effect.fnUntraced(function* (
    run: Query,
    seen: LastSeen.Seen
  ): Effect.fn.Return<LastSeen.Seen | LogReplaced, Reason> {
    const versions = LastSeen.versionsOf(seen).map(String)
    const rows = yield* run(sql`
      SELECT state.*, version, id
      FROM (SELECT ${serverColumns}, (SELECT max(version) FROM ${tables.events}) AS highest) AS state
      LEFT JOIN ${tables.events} AS events ON version = ANY(${versions}::text[]::bigint[])`)
    const found = yield* decode(rows)
    const [first] = found
    if (first === undefined) return seen
    yield* check(run, first)
    const ids = new Map<bigint, string>()
    for (const { id, version } of found) if (id !== null && version !== null) ids.set(version, id)
    return LastSeen.compare(seen, { server: first.server, end: first.highest ?? 0n, ids })
  })

  /**
   * Waits for the transactions that hold the lock now: one of them may have drawn the version of a cursor, and told it
   * before its commit. Says whether all of them have ended.
   */
  const untilCommitted = Effect.fnUntraced(function* (
    version: bigint,
    forever: boolean
  ): Effect.fn.Return<boolean, Reason> {
    const since = yield* realMillis
    let isReported = false
    let { holders } = yield* list(query)
    while (holders.size > 0) {
      const isLate = (yield* realMillis) - since >= timeoutMillis
      if (isLate && !isReported) yield* report(query, holders, version)
      if (isLate && !forever) return false
      isReported ||= isLate
      yield* realSleep(Math.min(lookIntervalMillis, timeoutMillis))
      holders = Hole.remaining(holders, (yield* list(query)).holders)
    }
    return true
  })

  return {
    compare,

    /**
     * What the reader remembers from now on. Fails with `LogReplaced` if the log is not the one that was seen. Undefined if
     * after `settleTimeout` a transaction may still commit the event at the cursor: a reader that waits `forever` waits.
     */
    agree: Effect.fnUntraced(function* (
      seen: LastSeen.Seen,
      forever: boolean
    ): Effect.fn.Return<LastSeen.Seen | undefined, LogReplaced | Reason> {
      const first = yield* compare(query, seen)
      if (!(first instanceof LogReplaced)) return first
      if (seen.server !== undefined || first.latest >= seen.version) return yield* first
      if (!(yield* untilCommitted(seen.version, forever))) return undefined
      const second = yield* compare(query, seen)
      return second instanceof LogReplaced ? yield* second : second
    })
  }
})
