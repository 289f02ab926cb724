/**
 * How senders get messages into the table. Messages that arrive at once from many fibers, outside of a transaction, are
 * coalesced: one statement stores them, and each keeps its own result.
 */
import { DateTime, Effect, Exit, Option, type Scope } from "effect"
import { toText } from "../../internal/ExactJson.ts"
import { millisOf } from "../../internal/Fields.ts"
import { type Messages } from "../../SpoolArguments.ts"
import { isWaiting, keyText, type NewMessage, stateOf } from "../../SpoolMessage.ts"
import { Closed, type Reason } from "../../StoreError.ts"
import * as Coalescing from "../database/Coalescing.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { valueRows } from "../database/ValueRows.ts"
import { codeOf } from "./MessageState.ts"
import { type SpoolTable } from "./SpoolTable.ts"
import { type Prepared, type Taken, whatHasTaken } from "./TakenIds.ts"

/** How long coalesced messages wait for a transaction that is storing the id of one of them, in Postgres's notation. */
const lockTimeout = "50ms"

const prepare = (message: NewMessage): Prepared => ({
  message,
  payload: message.payload === undefined ? null : toText(message.payload)
})

const isoOf = (time: DateTime.Utc | undefined) => (time === undefined ? null : DateTime.formatIso(time))

// Each message of a batch has a time of its own, a microsecond after the one before, so that claims keep the order of the
// batch. The rows are inserted in the order of their keys, so that two batches with the same keys cannot block each other in a
// circle. `lock_timeout` lasts to the end of a transaction, so only a statement in a transaction of its own is limited.
const insert = ({ isOfQueues, sql, table }: SpoolTable, messages: ReadonlyArray<Prepared>, limited: boolean) => {
  const rows = messages
    .map(({ message, payload }, place) => ({ key: keyText(message), message, payload, place }))
    .sort((a, b) => (a.key < b.key ? -1 : 1))
  const all = <A>(part: (message: NewMessage) => A) => rows.map(({ message }) => part(message))
  const limit = limited ? sql`, set_config('lock_timeout', ${lockTimeout}, true)` : sql.literal("")
  const remembers = isOfQueues && messages.some(({ message }) => message.rememberId !== undefined)
  const remember = (part: string) => sql.literal(remembers ? part : "")
  const values = valueRows(sql, [
    ["text", all(({ id }) => id)],
    ["int", rows.map(({ place }) => place)],
    ["text", all(({ queue }) => queue ?? null)],
    ["int", all((message) => codeOf(stateOf(message)))],
    ["int", all(({ attempts }) => attempts ?? 0)],
    ["int", all(({ maxAttempts }) => maxAttempts)],
    ["timestamptz", all(({ nextRetry }) => isoOf(nextRetry))],
    ["float8", all(({ delay }) => millisOf(delay ?? 0))],
    ["timestamptz", all(({ created }) => isoOf(created))],
    ["text", all(({ lastError }) => lastError ?? "")],
    ["bigint", all(({ size }) => size ?? null)],
    ["int", all(({ priority }) => priority)],
    ["jsonb", all(({ headers }) => JSON.stringify(headers ?? {}))],
    ["text", all(({ retryPolicyName }) => retryPolicyName ?? "")],
    ["text", rows.map(({ payload }) => payload)],
    ...(remembers
      ? [["float8", all(({ rememberId }) => (rememberId === undefined ? null : millisOf(rememberId)))] as const]
      : [])
  ])
  return sql`
    INSERT INTO ${table} (id, queue, state, attempts, max_attempts, next_retry, created, updated, last_error, size,
      priority, headers, retry_policy_name, payload${remember(", remember")})
    SELECT new.id, queue, state, attempts, max_attempts,
      coalesce(next_retry, start.at + delay * interval '1 millisecond'),
      coalesce(created, start.at + place::float8 * interval '1 microsecond'), start.at,
      last_error, coalesce(size, octet_length(payload), 0), priority, headers, retry_policy_name, payload::jsonb
      ${remember(", remember * interval '1 millisecond'")}
    FROM (SELECT clock_timestamp() AS at ${limit} OFFSET 0) AS start, ${values}
      AS new (id, place, queue, state, attempts, max_attempts, next_retry, delay, created, last_error, size, priority,
      headers, retry_policy_name, payload${remember(", remember")})
    ON CONFLICT (${sql.literal(isOfQueues ? "queue, id" : "id")}) DO NOTHING RETURNING queue, id`
}

/** Stores messages in one statement, and returns the texts of the keys of those whose ids were not taken. */
const storeFree = Effect.fnUntraced(function* (spool: SpoolTable, messages: ReadonlyArray<Prepared>, limited: boolean) {
  const stored = new Set(yield* spool.keys(insert(spool, messages, limited)))
  const waiting = messages.filter(({ message }) => stored.has(keyText(message)) && isWaiting(stateOf(message)))
  if (waiting.length > 0) {
    // A message that brings its own time of creation may be older than messages that wait.
    yield* waiting.every(({ message }) => message.created === undefined) ? spool.announceNewest : spool.announce
  }
  return stored
})

/** Stores messages, and returns for each the error if its id is taken. */
const storeAll: (
  spool: SpoolTable,
  messages: ReadonlyArray<Prepared>,
  limited?: boolean
) => Effect.Effect<ReadonlyArray<Taken | undefined>, Reason> = Effect.fnUntraced(function* (
  spool,
  messages,
  limited = false
) {
  const errors = new Map<string, Taken>()
  // An id can be free again between two statements: then its message is stored in another round.
  for (let rest = messages; rest.length > 0;) {
    const stored = yield* storeFree(spool, rest, limited)
    const taken = rest.filter(({ message }) => !stored.has(keyText(message)))
    for (const error of yield* whatHasTaken(spool, taken)) errors.set(keyText(error), error)
    rest = taken.filter(({ message }) => !errors.has(keyText(message)))
  }
  return messages.map(({ message }) => errors.get(keyText(message)))
})

export const storeMany = (spool: SpoolTable, { messages }: Messages) =>
  Effect.map(storeAll(spool, messages.map(prepare)), (all) => all.flatMap((taken) => taken ?? []))

// Coalescing

type Failure = Taken | Reason

interface Job extends Coalescing.Job, Prepared {}

const resultOf = (taken: Taken | undefined): Exit.Exit<void, Failure> =>
  taken === undefined ? Exit.void : Exit.fail(taken)

/** Stores one message, and waits for a transaction that is storing its id. */
const storeAlone = (spool: SpoolTable, prepared: Prepared): Effect.Effect<void, Failure> =>
  Effect.flatMap(storeAll(spool, [prepared]), ([taken]) => resultOf(taken))

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
        return coalesced({ ...prepared, kind: "store", shared: [], exclusive: [keyText(message)], unordered: [], size })
      }
    })
  })
}
