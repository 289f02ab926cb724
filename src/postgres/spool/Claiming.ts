/**
 * Claims: how workers get messages. A claim is one round trip, by the function `.._claim` of the database, which skips
 * messages that other transactions have locked.
 */
import { DateTime, Effect } from "effect"
import { millisOf } from "../../internal/Fields.ts"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import { type Claim, reservedOf } from "../../SpoolArguments.ts"
import type { CorruptRow } from "../../StoreError.ts"
import { bareColumns, type Columns } from "./MessageRow.ts"
import { code } from "./MessageState.ts"
import type { QueueStart } from "./QueueStarts.ts"
import { eachMessageOf, inQueue, noLease, type SpoolTable, touched } from "./SpoolTable.ts"

// Statements

const select = (spool: SpoolTable, claim: Claim, start: QueueStart | undefined) => (columns: Columns) => {
  // A fixed statement is remembered with the columns that it was first put together with.
  const put: SpoolTable["fixed"] = columns === bareColumns ? spool.sql : spool.fixed
  return put`
    SELECT ${columns.sent} FROM (
      SELECT ${columns.read} FROM ${spool.claimFunction}(
        ${claim.queue ?? ""}::text, ${claim.limit}::int, ${reservedOf(claim)}::int, ${claim.owner}::text,
        ${millisOf(claim.lease)}::float8, ${start?.priority ?? null}::int,
        ${start === undefined ? null : DateTime.formatIso(start.created)}::timestamptz
      ) AS message ORDER BY priority, message.created, id COLLATE "C" OFFSET 0
    ) AS message`
}

const bounceCorrupt = (spool: SpoolTable, { owner, queue }: Claim, corrupt: ReadonlyArray<CorruptRow>) => spool.sql`
  UPDATE ${spool.table} AS message SET ${touched}, state = ${code.bounce}, ${noLease}, last_error = corrupt.reason
  FROM unnest(
    ${corrupt.map(({ key }) => key)}::text[],
    ${corrupt.map(({ message }) => message)}::text[]
  ) AS corrupt (id, reason)
  WHERE message.id::text = corrupt.id AND ${inQueue(spool, queue)} AND state + 0 = ${code.active} AND lease_owner = ${owner}`

// Operations

/** Logs what is wrong with rows that do not fit the model. */
export const warnOf = (corrupt: ReadonlyArray<CorruptRow>): Effect.Effect<void> =>
  Effect.forEach(corrupt, ({ message }) => Effect.logWarning(message), { discard: true })

export const claim = Effect.fnUntraced(function* (spool: SpoolTable, input: Claim) {
  const { limit, queue = "" } = input
  const { inTransaction, query, queueStarts } = spool
  const now = yield* monotonicMillis
  const { corrupt, messages } = yield* eachMessageOf(spool, select(spool, input, queueStarts.at(queue, now)))
  if (messages.length > 0) spool.found()

  // Only a first attempt tells where the incoming messages begin: a message that has been claimed before may have been
  // deferred.
  const first = messages.find(({ attempts }) => attempts === 1)
  // A claim that got fewer than it wanted has seen the whole queue. A claim in a transaction may be rolled back, and
  // then the messages are where they were.
  if (first === undefined || messages.length < limit || (yield* inTransaction)) queueStarts.forget(queue)
  else queueStarts.move(queue, first, now)

  // No handler can be given a corrupt message. It bounces, so that it is not claimed for ever.
  if (corrupt.length > 0) {
    yield* query(bounceCorrupt(spool, input, corrupt))
    yield* warnOf(corrupt)
  }
  return messages
})
