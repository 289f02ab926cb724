/**
 * The part of `SpoolStore` on Postgres that senders use. Messages that arrive at once from many fibers, outside of a
 * transaction, are stored in one statement.
 */
import { DateTime, Duration, Effect, Exit, Option, Schema } from "effect"
import type { Operations } from "../../internal/Operation.ts"
import { MessageExists, Messages, NewMessage, stateOf } from "../../SpoolStore.ts"
import { Closed, type Reason } from "../../StoreError.ts"
import * as Coalescing from "../database/Coalescing.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { codeOf, nullable } from "./MessageRow.ts"

const Id = Schema.Struct({ id: Schema.String })

/** How long messages that go together wait for a transaction that is storing the id of one of them. */
const patience = "50ms"

/** A message, and its payload as it is sent. */
interface Prepared {
  readonly message: NewMessage
  readonly payload: string | null
}

const prepare = (message: NewMessage): Prepared => ({
  message,
  payload: message.payload === undefined ? null : JSON.stringify(message.payload)
})

const isWaiting = (message: NewMessage) => {
  const state = stateOf(message)
  return state === "incoming" || state === "deferred"
}

interface Job extends Coalescing.Job, Prepared {}

export const make = Effect.fnUntraced(function* ({
  announce,
  announceNew,
  operation
}: {
  readonly announce: Effect.Effect<void>
  /** For messages that are the last of those that are ready. */
  readonly announceNew: Effect.Effect<void>
  readonly operation: Operations
}) {
  const { inTransaction, names, query, sql, tables } = yield* PostgresDatabase
  const table = tables.spool
  const decodeIds = decodeRows(Id, names.spool, ["id"])

  // Every message of a batch has a time of its own, so that the batch keeps its order. Rows go in by id, so that two batches
  // with the same ids cannot block each other in a circle.
  const insert = (messages: ReadonlyArray<Prepared>, limited: boolean) => {
    const rows = messages
      .map(({ message, payload }, place) => ({ message, payload, place }))
      .sort((a, b) => (a.message.id < b.message.id ? -1 : 1))
    const all = <A>(part: (message: NewMessage) => A) => rows.map(({ message }) => part(message))
    const timeOf = (time: DateTime.Utc | undefined) => (time === undefined ? null : DateTime.formatIso(time))
    // For the transaction of this statement: in a longer one it would not end with it.
    const limit = limited ? sql`, set_config('lock_timeout', ${patience}, true)` : sql.literal("")
    return sql`
      INSERT INTO ${table} (id, queue, state, attempts, max_attempts, next_retry, created, updated, last_error, size,
        priority, headers, retry_policy_name, payload)
      SELECT new.id, queue, state, attempts, max_attempts,
        coalesce(next_retry, start.at + delay * interval '1 millisecond'),
        coalesce(created, start.at + place * interval '1 microsecond'), start.at,
        last_error, coalesce(size, octet_length(payload), 0), priority, headers, retry_policy_name, payload::jsonb
      FROM (SELECT clock_timestamp() AS at ${limit} OFFSET 0) AS start, unnest(
        ${all(({ id }) => id)}::text[],
        ${rows.map(({ place }) => place)}::int[],
        ${nullable(all(({ queue }) => queue ?? null))}::text[],
        ${all((message) => codeOf(stateOf(message)))}::int[],
        ${all(({ attempts }) => attempts ?? 0)}::int[],
        ${all(({ maxAttempts }) => maxAttempts)}::int[],
        ${nullable(all(({ nextRetry }) => timeOf(nextRetry)))}::timestamptz[],
        ${nullable(all(({ delay }) => Duration.toMillis(Duration.fromInputUnsafe(delay ?? 0))))}::float8[],
        ${nullable(all(({ created }) => timeOf(created)))}::timestamptz[],
        ${all(({ lastError }) => lastError ?? "")}::text[],
        ${nullable(all(({ size }) => size ?? null))}::bigint[],
        ${all(({ priority }) => priority)}::int[],
        ${all(({ headers }) => JSON.stringify(headers ?? {}))}::jsonb[],
        ${all(({ retryPolicyName }) => retryPolicyName ?? "")}::text[],
        ${nullable(rows.map(({ payload }) => payload))}::text[]
      ) AS new (id, place, queue, state, attempts, max_attempts, next_retry, delay, created, last_error, size, priority,
        headers, retry_policy_name, payload)
      ON CONFLICT (id) DO NOTHING RETURNING id`
  }

  /** What is stored already, for each message. */
  const store = Effect.fnUntraced(function* (messages: ReadonlyArray<Prepared>, limited = false) {
    if (messages.length === 0) return []
    const stored = new Set((yield* Effect.flatMap(query(insert(messages, limited)), decodeIds)).map(({ id }) => id))
    const waiting = messages.filter(({ message }) => stored.has(message.id) && isWaiting(message))
    if (waiting.length > 0)
      yield* waiting.every(({ message }) => message.created === undefined) ? announceNew : announce
    return messages.map(({ message: { id } }) => (stored.has(id) ? undefined : new MessageExists({ id })))
  })

  /** With a limit to the wait for others. What waits for longer goes alone, and so does what may fail by another's fault. */
  const attempt = (jobs: ReadonlyArray<Job>) => {
    return Effect.map(Effect.exit(store(jobs, jobs.length > 1)), (exit) =>
      jobs.map((_, index) => {
        if (Exit.isSuccess(exit)) return resultOf(exit.value[index])
        const reason = Option.getOrUndefined(Exit.findErrorOption(exit))
        return jobs.length === 1 || reason === undefined || reason._tag === "Unavailable"
          ? Exit.failCause(exit.cause)
          : undefined
      })
    )
  }

  const resultOf = (exists: MessageExists | undefined): Exit.Exit<void, MessageExists | Reason> =>
    exists === undefined ? Exit.void : Exit.fail(exists)

  const alone = (message: Prepared) => Effect.flatMap(store([message]), ([exists]) => resultOf(exists))

  const coalesced = yield* Coalescing.make<Job, void, MessageExists | Reason>(
    { alone, attempt, patiently: alone },
    new Closed({
      message: "the scope of this SpoolStore has ended before the message was stored; keep its layer alive"
    })
  )

  const storeMeta = operation.fn("storeMeta", NewMessage, (message) =>
    Effect.flatMap(inTransaction, (inside) => {
      const prepared = prepare(message)
      if (inside) return alone(prepared)
      const size = prepared.payload?.length ?? 0
      return coalesced({ ...prepared, kind: "store", shared: [], exclusive: [message.id], size })
    })
  )

  const storeMany = operation.fn("storeMany", Messages, ({ messages }) =>
    Effect.map(store(messages.map(prepare)), (all) => all.flatMap((exists) => exists ?? []))
  )

  return {
    storeMeta,
    storeMany: (messages: (typeof Messages)["~type.make.in"]["messages"]) => storeMany({ messages })
  }
})
