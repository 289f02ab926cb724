/** How what a reader has seen of the log is compared with what is there: `events/LastSeen` has the rule. */
import { Duration, Effect, Schema } from "effect"
import { LogReplaced } from "../../Event.ts"
import * as Hole from "../../events/Hole.ts"
import * as LastSeen from "../../events/LastSeen.ts"
import { realMillis, realSleep } from "../../internal/RealTime.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase, type Query } from "../database/PostgresDatabase.ts"
import * as ArchivedEnd from "./ArchivedEnd.ts"
import * as ArchivedEvents from "./ArchivedEvents.ts"
import * as CompactLog from "./CompactLog.ts"
import * as LockHolders from "./LockHolders.ts"
import * as Partitions from "./Partitions.ts"

/** One row for each event that was found, or one without an event. */
const Found = Schema.Struct({
  ...LockHolders.ServerColumns.fields,
  highest: Schema.NullOr(Schema.BigInt),
  /** Whether the log has partitions, and the version below which it is archived then. */
  partitioned: Schema.Boolean,
  archivedEnd: Schema.NullOr(Schema.BigInt),
  version: Schema.NullOr(Schema.BigInt),
  id: Schema.NullOr(Schema.String)
})

/** The wait before another look at the transactions that may still commit the event at a cursor. */
const lookIntervalMillis = 50

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { names, query, settleTimeout, sql, tables } = database
  const { check, list, report } = yield* LockHolders.make
  const { isKnownPartitioned, isPartitionedNow, learn } = yield* Partitions.make
  const { at } = yield* ArchivedEvents.make
  const archived = ArchivedEnd.make(database)
  const isCompact = CompactLog.isCompact(database)
  const decode = decodeRows(Found, names.events, [])
  const serverColumns = sql.literal(LockHolders.serverColumns(database))
  const timeoutMillis = Duration.toMillis(settleTimeout)

  const ofPlainTable = (versions: ReadonlyArray<bigint>) => ({
    highest: sql`(SELECT max(version) FROM ${tables.events})`,
    partitioned: isPartitionedNow,
    archivedEnd: sql.literal("0::bigint"),
    events: sql`SELECT version, id FROM ${tables.events} WHERE version = ANY(${versions.map(String)}::text[]::bigint[])`
  })

  /** What was seen of archived events is in the table of ids. */
  const ofPartitions = (versions: ReadonlyArray<bigint>, ids: ReadonlyArray<string>, compact: boolean) => ({
    highest: archived.highest,
    partitioned: sql.literal("true"),
    archivedEnd: archived.end,
    events: sql`
      ${ofPlainTable(versions).events}
      UNION ALL
      ${archived.withIds(ids, compact)}`
  })

  const find = Effect.fnUntraced(function* (run: Query, seen: LastSeen.Seen) {
    const versions = LastSeen.versionsOf(seen)
    const seenIds = LastSeen.idsOf(seen)
    while (true) {
      const isPartitioned = isKnownPartitioned()
      const { archivedEnd, events, highest, partitioned } = isPartitioned
        ? ofPartitions(versions, seenIds, yield* isCompact)
        : ofPlainTable(versions)
      const askedMillis = yield* realMillis
      const rows = yield* run(sql`
        SELECT state.*, version, id
        FROM (
          SELECT ${serverColumns}, ${highest} AS highest, ${partitioned} AS partitioned, ${archivedEnd} AS "archivedEnd"
        ) AS state
        LEFT JOIN (${events}) AS events ON true`)
      const found = yield* decode(rows)
      const [first] = found
      if (first === undefined) return undefined
      learn(first.partitioned, askedMillis)
      // The log has got partitions since somebody has asked.
      if (first.partitioned && !isPartitioned) continue
      yield* check(run, first)
      const ids = new Map<bigint, string>()
      for (const { id, version } of found) if (id !== null && version !== null) ids.set(version, id)
      return { server: first.server, end: first.highest ?? 0n, ids, archivedEnd: first.archivedEnd ?? 0n }
    }
  })

  /** Compares in one statement, on the connection that `run` has. What else is at a version that is archived, its file tells. */
  const compare = Effect.fnUntraced(function* (
    run: Query,
    seen: LastSeen.Seen
  ): Effect.fn.Return<LastSeen.Seen | LogReplaced, Reason> {
    const found = yield* find(run, seen)
    if (found === undefined) return seen
    const { archivedEnd, ids } = found
    const missing = LastSeen.missingBelow(seen, archivedEnd, ids)
    if (missing.length > 0) {
      const rows = yield* Effect.catchTag(at(missing.map(({ version }) => version)), "Moved", () =>
        Effect.succeed(undefined)
      )
      if (rows === undefined) return yield* compare(run, seen)
      for (const { id, version } of rows) ids.set(version, id)
    }
    const now = LastSeen.compare(seen, found)
    return now instanceof LogReplaced ? now : LastSeen.knownBelow(now, archivedEnd, seen)
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
