/**
 * Publishes on the primary how far the log is settled, for readers on its standbys: see `MarkTable`.
 *
 * **Details**
 *
 * It does something only while somebody reads from a standby: a reader asks for a mark, and gets the last one if that is young.
 * All readers of a layer share a publication, which takes two or three short statements.
 *
 * The row is written after the log was settled up to its version. So in the primary's write-ahead log the commits of all these
 * events come before that of the row, and a statement that sees the row, on whatever standby, sees the events. What was settled
 * on one server is never written to another one: after a failover its log may end earlier, and draw these versions again.
 */
import { Deferred, Effect, FiberSet, Stream } from "effect"
import * as LastSeen from "../../events/LastSeen.ts"
import * as Outage from "../../internal/Outage.ts"
import { onRealClock } from "../../internal/RealTime.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { readCommitted } from "../database/Isolation.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as LockHolders from "./LockHolders.ts"
import * as MarkTable from "./MarkTable.ts"
import * as Settling from "./Settling.ts"

type Published = typeof MarkTable.Published.Type

/** How old the last publication may be before a reader has another one made. */
const markEveryMillis = 1000

export interface MarkPublisher {
  /** The last mark, as far as this process knows. */
  readonly published: () => Published | undefined
  /**
   * Begins a publication, unless one is under way or the last one is young. It gives the time at which the last one has begun, and
   * its end: that can be as late as the layer's `settleTimeout`.
   */
  readonly ask: () => Publication
  /** Begins a publication, unless one is under way. */
  readonly askNow: () => Publication
}

interface Publication {
  readonly sinceMillis: number
  readonly ended: Effect.Effect<void>
}

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { query, settleTimeout, sql, withoutTransaction } = database
  const settling = yield* Settling.make
  const table = MarkTable.tableOf(database)
  const serverColumns = sql.literal(LockHolders.serverColumns(database))
  const decode = decodeRows(MarkTable.Published, MarkTable.nameOf(database), [])
  // A publication is in no transaction: what one has written itself may still be rolled back.
  const fork = yield* withoutTransaction(FiberSet.makeRuntime<never, unknown, never>())
  const outage = Outage.make({
    waits: "the mark that readers of standbys go by cannot be written",
    next: "they read from the primary what is beyond the last one",
    over: "the mark is written again"
  })
  let published: Published | undefined
  let last: Publication = { sinceMillis: Number.NEGATIVE_INFINITY, ended: Effect.void }
  let isRunning = false

  const take = ([row]: ReadonlyArray<Published>) => {
    if (row !== undefined) published = row
  }

  /** Writes the mark, unless this is another server by now. What another process has settled may be higher. */
  const write = ({ server, version }: Published): Effect.Effect<void, Reason> =>
    Effect.map(
      Effect.flatMap(
        query(sql`
          WITH written AS (
            INSERT INTO ${table} AS mark (version, server)
            SELECT ${version}::bigint, now.server FROM (SELECT ${serverColumns}) AS now
            WHERE now.server = ${server}::text AND NOT now.standby AND ${sql.literal(readCommitted)}
            ON CONFLICT (single) DO UPDATE SET version = excluded.version, server = excluded.server
            WHERE mark.version < excluded.version OR mark.server <> excluded.server
            RETURNING mark.version, mark.server
          )
          SELECT version, server FROM written
          UNION ALL
          SELECT version, server FROM (${MarkTable.current(database)}) AS stored WHERE NOT EXISTS (SELECT FROM written)`),
        decode
      ),
      take
    )

  /** Settles the log above the last mark, and writes each mark that this gives. */
  const publish = Effect.gen(function* () {
    if (published === undefined) take(yield* Effect.flatMap(query(sql`${MarkTable.current(database)}`), decode))
    const from = (after: bigint) =>
      Stream.runForEach(settling.marks(LastSeen.of(after), true), ({ seen: { server }, version }) =>
        server === undefined || (server === published?.server && version <= published.version)
          ? Effect.void
          : write({ version, server })
      )
    yield* Effect.catchTag(from(published?.version ?? 0n), "LogReplaced", () => from(0n))
  })

  const start = (): Publication => {
    const ended = Deferred.makeUnsafe<void>()
    last = { sinceMillis: performance.now(), ended: Deferred.await(ended) }
    isRunning = true
    fork(
      onRealClock(Effect.timeoutOption(Effect.andThen(publish, outage.end), settleTimeout)).pipe(
        // The log was replaced while it was settled: the next publication begins anew.
        Effect.catchTag("LogReplaced", () => Effect.void),
        Effect.catch(outage.warn),
        Effect.ensuring(
          Effect.sync(() => {
            isRunning = false
            Deferred.doneUnsafe(ended, Effect.void)
          })
        )
      )
    )
    return last
  }

  const askNow = () => (isRunning ? last : start())

  const publisher: MarkPublisher = {
    published: () => published,
    askNow,
    ask: () => (performance.now() - last.sinceMillis < markEveryMillis ? last : askNow())
  }
  return publisher
})
