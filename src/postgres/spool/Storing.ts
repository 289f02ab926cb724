/**
 * How senders get messages into the table. Messages that arrive at once from many fibers, outside of a transaction, are
 * coalesced: one statement stores them, and each keeps its own result.
 */
import { DateTime, Effect, Exit, Option, type Scope } from "effect"
import { toText } from "../../internal/ExactJson.ts"
import { millisOf } from "../../internal/Fields.ts"
import { isWaiting, MessageExists, type Messages, type NewMessage, stateOf } from "../../SpoolMessage.ts"
import { Closed, type Reason } from "../../StoreError.ts"
import * as Coalescing from "../database/Coalescing.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { codeOf } from "./MessageState.ts"
import { nullableArray, type SpoolTable } from "./SpoolTable.ts"

/** How long coalesced messages wait for a transaction that is storing the id of one of them, in Postgres's notation. */
const lockTimeout = "50ms"

/** A message, and its payload as it is sent. */
interface Prepared {
  readonly message: NewMessage
  readonly payload: string | null
}

const prepare = (message: NewMessage): Prepared => ({
  message,
  payload: message.payload === undefined ? null : toText(message.payload)
})

const isoOf = (time: DateTime.Utc | undefined) => (time === undefined ? null : DateTime.formatIso(time))

// Each message of a batch has a time of its own, a microsecond after the one before, so that claims keep the order of the
// batch. The rows are inserted in the order of their ids, so that two batches with the same ids cannot block each other in a
// circle. `lock_timeout` lasts to the end of a transaction, so only a statement in a transaction of its own is limited.
const insert = ({ sql, table }: SpoolTable, messages: ReadonlyArray<Prepared>, limited: boolean) => {
  const rows = messages
    .map(({ message, payload }, place) => ({ message, payload, place }))
    .sort((a, b) => (a.message.id < b.message.id ? -1 : 1))
  const all = <A>(part: (message: NewMessage) => A) => rows.map(({ message }) => part(message))
  const limit = limited ? sql`, set_config('lock_timeout', ${lockTimeout}, true)` : sql.literal("")
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
      ${nullableArray(all(({ queue }) => queue ?? null))}::text[],
      ${all((message) => codeOf(stateOf(message)))}::int[],
      ${all(({ attempts }) => attempts ?? 0)}::int[],
      ${all(({ maxAttempts }) => maxAttempts)}::int[],
      ${nullableArray(all(({ nextRetry }) => isoOf(nextRetry)))}::timestamptz[],
      ${nullableArray(all(({ delay }) => millisOf(delay ?? 0)))}::float8[],
      ${nullableArray(all(({ created }) => isoOf(created)))}::timestamptz[],
      ${all(({ lastError }) => lastError ?? "")}::text[],
      ${nullableArray(all(({ size }) => size ?? null))}::bigint[],
      ${all(({ priority }) => priority)}::int[],
      ${all(({ headers }) => JSON.stringify(headers ?? {}))}::jsonb[],
      ${all(({ retryPolicyName }) => retryPolicyName ?? "")}::text[],
      ${nullableArray(rows.map(({ payload }) => payload))}::text[]
    ) AS new (id, place, queue, state, attempts, max_attempts, next_retry, delay, created, last_error, size, priority,
      headers, retry_policy_name, payload)
    ON CONFLICT (id) DO NOTHING RETURNING id`
}

/** Stores messages in one statement, and returns for each the error if its id is stored already. */
const storeAll = Effect.fnUntraced(function* (spool: SpoolTable, messages: ReadonlyArray<Prepared>, limited = false) {
  if (messages.length === 0) return []
  const stored = new Set(yield* spool.ids(insert(spool, messages, limited)))
  const waiting = messages.filter(({ message }) => stored.has(message.id) && isWaiting(stateOf(message)))
  if (waiting.length > 0) {
    // A message that brings its own time of creation may be older than messages that wait.
    yield* waiting.every(({ message }) => message.created === undefined) ? spool.announceNewest : spool.announce
  }
  return messages.map(({ message: { id } }) => (stored.has(id) ? undefined : new MessageExists({ id })))
})

export const storeMany = (spool: SpoolTable, { messages }: Messages) =>
  Effect.map(storeAll(spool, messages.map(prepare)), (all) => all.flatMap((exists) => exists ?? []))

// Coalescing

type Failure = MessageExists | Reason

interface Job extends Coalescing.Job, Prepared {}

const resultOf = (exists: MessageExists | undefined): Exit.Exit<void, Failure> =>
  exists === undefined ? Exit.void : Exit.fail(exists)

/** Stores one message, and waits for a transaction that is storing its id. */
const storeAlone = (spool: SpoolTable, prepared: Prepared): Effect.Effect<void, Failure> =>
  Effect.flatMap(storeAll(spool, [prepared]), ([exists]) => resultOf(exists))

/**
 * Stores messages together, with a limit to how long they wait for other transactions. The result is `undefined` for each
 * message that has to be stored alone: where the wait was too long, or where one message may have made all of them fail.
 */
const storeTogether = (spool: SpoolTable, jobs: ReadonlyArray<Job>) =>
  Effect.map(Effect.exit(storeAll(spool, jobs, jobs.length > 1)), (exit) =>
    jobs.map((_, index) => {
      if (Exit.isSuccess(exit)) return resultOf(exit.value[index])
      const reason = Option.getOrUndefined(Exit.findErrorOption(exit))
      return jobs.length === 1 || reason === undefined || reason._tag === "Unavailable"
        ? Exit.failCause(exit.cause)
        : undefined
    })
  )

/** Returns how one message is stored: at once in the caller's transaction, else coalesced with others until the scope ends. */
export const make = (
  spool: SpoolTable
): Effect.Effect<(message: NewMessage) => Effect.Effect<void, Failure>, never, PostgresDatabase | Scope.Scope> => {
  const alone = (prepared: Prepared) => storeAlone(spool, prepared)
  const closed = new Closed({
    message: "the scope of this SpoolStore has ended before the message was stored; keep its layer alive"
  })
  const attempt = (jobs: ReadonlyArray<Job>) => storeTogether(spool, jobs)
  const coalescing = Coalescing.make<Job, void, Failure>({ alone, attempt, patiently: alone }, closed)
  return Effect.map(coalescing, (coalesced) => (message) => {
    const prepared = prepare(message)
    return spool.whether({
      inside: () => alone(prepared),
      outside: () => {
        const size = prepared.payload?.length ?? 0
        return coalesced({ ...prepared, kind: "store", shared: [], exclusive: [message.id], size })
      }
    })
  })
}
