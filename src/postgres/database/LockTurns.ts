/**
 * Waits for locks, but not for ever, and not without a word. Each wait is cut into turns: after a turn in vain the holder is
 * looked for, and a warning names it.
 */
import { Duration, Effect, Schema } from "effect"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import { Contention, type Reason } from "../../StoreError.ts"
import { decodeRows } from "./DecodeRows.ts"
import type { PostgresDatabase, Runnable } from "./PostgresDatabase.ts"
import { isLockTimeout, reasonOf } from "./Reasons.ts"

/** How long to wait before the holder is looked for, and again before each next look. */
export const turnMillis = 5000

/** How long a statement waits for a strong lock of a table: what comes after it waits behind it, and must not for long. */
export const momentMillis = 300

/** Locks, and who has them. */
export interface Locks {
  /** The statement that takes them. */
  readonly taking: Runnable
  /** A statement whose rows name who has them, in the column `text`. */
  readonly holders: Runnable
}

export interface Wanted extends Locks {
  /** For people: what is waited for, such as "the lock of all migrations". */
  readonly of: string
  /** How long all this may take where the session has no `lock_timeout`. */
  readonly atMost: Duration.Duration
}

/** Who has locks that could not be had. */
export interface Holders {
  readonly text: string
  readonly reason: Reason
}

const Limit = Schema.Struct({ millis: Schema.Int })
const Holder = Schema.Struct({ text: Schema.String })

/** Who has the locks, for people. */
export const nameHolders = ({ query }: PostgresDatabase["Service"], holders: Runnable): Effect.Effect<string, Reason> =>
  Effect.map(Effect.flatMap(query(holders), decodeRows(Holder, "pg_locks", [])), (found) =>
    found.length === 0 ? "a transaction that has just ended" : found.map(({ text }) => text).join("; ")
  )

/**
 * Waits for the locks for so long, in the transaction that the caller is in, and keeps them to its end. Returns who has them if
 * they could not be had. `lock_timeout` is changed.
 */
export const turn = Effect.fnUntraced(function* (
  database: PostgresDatabase["Service"],
  { holders, taking }: Locks,
  millis: number
): Effect.fn.Return<Holders | undefined, Reason> {
  const { query, sql } = database
  yield* query(sql`SELECT pg_catalog.set_config('lock_timeout', ${String(millis)}::text, true)`)
  const attempt = sql
    .withTransaction(query(taking))
    .pipe(Effect.catchTag("SqlError", (error) => Effect.fail(reasonOf(error))))
  const reason = yield* Effect.match(attempt, { onFailure: (reason) => reason, onSuccess: () => undefined })
  if (reason === undefined) return undefined
  if (!isLockTimeout(reason)) return yield* reason
  return { text: yield* nameHolders(database, holders), reason }
})

/** Locks that could not be had in time. */
export const notHad = (of: string, { reason, text }: Holders): Contention =>
  new Contention({
    message: `${of} could not be had: waiting for ${text}; end it, or try again`,
    cause: reason.cause
  })

/** Says who has the locks. */
export const warn = (of: string, { text }: Holders): Effect.Effect<void> =>
  Effect.logWarning(`${of} is held by another session: waiting for ${text}`)

/**
 * Takes the locks, to the end of the transaction that the caller is in. Fails with a `Contention` that names the holders once
 * `lock_timeout` is over, or the limit that is given where that is not set.
 */
export const take = Effect.fnUntraced(function* (
  database: PostgresDatabase["Service"],
  { atMost, of, ...locks }: Wanted
): Effect.fn.Return<void, Reason> {
  const { query, sql } = database
  const [limit] = yield* Effect.flatMap(
    query(sql`SELECT setting::pg_catalog.int4 AS millis FROM pg_catalog.pg_settings WHERE name = 'lock_timeout'::text`),
    decodeRows(Limit, "pg_settings", [])
  )
  const before = limit?.millis ?? 0
  const endMillis = (yield* monotonicMillis) + (before === 0 ? Duration.toMillis(atMost) : before)
  let warned = ""
  while (true) {
    const leftMillis = Math.ceil(endMillis - (yield* monotonicMillis))
    const found = yield* turn(database, locks, Math.max(1, Math.min(turnMillis, leftMillis)))
    if (found === undefined) break
    if ((yield* monotonicMillis) >= endMillis) return yield* notHad(of, found)
    if (found.text !== warned) yield* warn(of, found)
    warned = found.text
  }
  yield* query(sql`SELECT pg_catalog.set_config('lock_timeout', ${String(before)}::text, true)`)
})
