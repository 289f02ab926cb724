/**
 * Messages that another transaction has locked: which ones they are, and a warning that says which transaction it is. A
 * statement asks only where it has left messages out.
 */
import { Effect, Schema } from "effect"
import type { Statement } from "effect/sql"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import { keyText, type Lease } from "../../SpoolMessage.ts"
import type { Reason } from "../../StoreError.ts"
import { transactionText } from "../database/TransactionText.ts"
import { leasesAsRows } from "./LeasedRows.ts"
import { code } from "./MessageState.ts"
import type { SpoolTable } from "./SpoolTable.ts"

/** For how long a transaction must have been open before there is a warning. Short ones are everyday life. */
const shortestWorthTelling = "1 second"

/**
 * Messages with the transactions that have locked them. `message` has their ids and the text of their `xmax`, which is the id
 * of the transaction, or of its savepoint, that has locked the row. Without a holder it has just ended.
 */
const withHolders = ({ sql }: SpoolTable, message: Statement.Fragment) => sql`
  SELECT message.queue, message.id, message.xid,
    CASE WHEN coalesce(activity.xact_start, prepared.prepared) > clock_timestamp() - ${shortestWorthTelling}::interval
        OR activity.state = 'idle' -- it has ended since; roles that may not see how old it is do not see this either
      THEN NULL ELSE ${transactionText("NULL")} END AS holder
  FROM (${message}) AS message
  LEFT JOIN pg_locks AS held ON held.locktype = 'transactionid' AND held.mode = 'ExclusiveLock' AND held.granted
    AND held.transactionid::text = message.xid
  LEFT JOIN pg_stat_activity AS activity ON activity.pid = held.pid
  LEFT JOIN pg_prepared_xacts AS prepared ON prepared.transaction::text = message.xid
  ORDER BY message.place`

/** A message that is locked. `holder` describes the transaction, if it has been open for long enough. */
const Locked = Schema.Struct({
  queue: Schema.NullOr(Schema.String),
  id: Schema.String,
  xid: Schema.String,
  holder: Schema.NullOr(Schema.String)
})

/** Warns of the transactions that have locked these messages: of each once in a minute. */
const warn = Effect.fnUntraced(function* (
  { lockWarnings, name }: SpoolTable,
  locked: ReadonlyArray<typeof Locked.Type>,
  what: "settled" | "renewed" | "recovered"
) {
  const now = yield* monotonicMillis
  const byTransaction = Map.groupBy(locked, ({ xid }) => xid)
  for (const [xid, [first, ...others]] of byTransaction) {
    if (first === undefined || first.holder === null || !lockWarnings.isDue(xid, now)) continue
    const more = others.length === 0 ? "" : ` and ${others.length} more`
    yield* Effect.logWarning(
      `message "${first.id}"${more} of ${name} cannot be ${what} yet: locked by ${first.holder}; trying again`
    )
  }
})

/**
 * The texts of the keys of the messages whose leases are held, among those that a statement has left out: they are locked, or
 * were.
 */
export const lockedOf = (
  spool: SpoolTable,
  leases: ReadonlyArray<Lease>,
  what: "settled" | "renewed"
): Effect.Effect<ReadonlySet<string>, Reason> =>
  Effect.gen(function* () {
    const { sql, table } = spool
    const message = sql`
      SELECT message.*, lease.place FROM ${leasesAsRows(spool, leases)} CROSS JOIN LATERAL (
        SELECT queue, id, xmax::text AS xid FROM ${table}
        WHERE id::text = lease.id AND ${sql.literal(spool.isOfQueues ? "queue" : "coalesce(queue, '')")} = lease.queue AND state + 0 = ${code.active} AND lease_owner = lease.owner AND attempts = lease.attempt
        OFFSET 0
      ) AS message`
    const locked = yield* spool.rows(withHolders(spool, message), Locked)
    yield* warn(spool, locked, what)
    return new Set(locked.map(keyText))
  })

/** Warns of the transactions that have locked active messages for which the condition holds. */
export const warnOfUnrecovered = (
  spool: SpoolTable,
  condition: Statement.Fragment,
  limit: number
): Effect.Effect<void, Reason> =>
  Effect.gen(function* () {
    const { sql, table } = spool
    const message = sql`
      SELECT queue, id, xmax::text AS xid, row_number() OVER () AS place FROM ${table}
      WHERE state = ${code.active} AND ${condition} LIMIT ${limit}`
    yield* warn(spool, yield* spool.rows(withHolders(spool, message), Locked), "recovered")
  })
