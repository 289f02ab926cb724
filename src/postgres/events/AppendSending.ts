/**
 * Sends appends to the server, and tells what came of each of them.
 *
 * **Details**
 *
 * An append is one round trip, unless it has to wait. A plain one needs only shared locks: it is an INSERT that does
 * nothing if it cannot have them at once. The function of `resources/postgres/0066_events_append.sql` does all others, and
 * also a plain append that has to wait.
 */
import { Effect, Exit, Result } from "effect"
import type { Append } from "../../Event.ts"
import { DuplicateEvent, type StoredEvent } from "../../EventStore.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import { Contention, type Reason } from "../../StoreError.ts"
import type { Work } from "../database/Coalescing.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { isNotifyRefusal, isRefusal, isUniqueViolation } from "../database/Reasons.ts"
import { Wakeups } from "../wakeups/Wakeups.ts"
import { type Request, requestOf, storedEvents } from "./AppendRequest.ts"
import { Archived, completed, type Failure, type RequestResult, resultsOf } from "./AppendResults.ts"
import * as AppendStatements from "./AppendStatements.ts"
import { moved, type Moved } from "./ArchivedEnd.ts"
import * as ArchivedEvents from "./ArchivedEvents.ts"
import * as CompactLog from "./CompactLog.ts"
import { toStoredEvent } from "./EventRow.ts"
import { type Description, EventTable } from "./EventTable.ts"
import * as Partitions from "./Partitions.ts"
import * as RowNotifications from "./RowNotifications.ts"

/** What an append gives its caller. */
export type Stored = Effect.Effect<ReadonlyArray<StoredEvent>, Failure>

/** Tells the readers of the log that a commit has stored events. */
type Announcement = Effect.Effect<void>

/** How many tags an append may have that takes their locks one by one without counting them. */
const mostTags = 64

/** Whether an INSERT is enough, which does nothing if it would have to wait. */
const isInserted = ({ kind, tags }: Request): boolean =>
  kind === "plain" || (kind === "tagged" && tags.length <= mostTags)

/**
 * A program that does not take the locks can still write an id between the function's look and its INSERT. The next
 * attempt sees that event. Inside a transaction there is no next attempt: the error has ended the transaction.
 */
const retried = <A>(call: Effect.Effect<A, Reason>, inTransaction: Effect.Effect<boolean>) =>
  Effect.catchIf(
    Effect.retry(call, {
      times: 2,
      while: (reason: Reason) => Effect.map(inTransaction, (inside) => !inside && isUniqueViolation(reason))
    }),
    isUniqueViolation,
    (reason) =>
      Effect.flatMap(inTransaction, (inside) =>
        inside
          ? new Contention({
              message: `another transaction has stored the same event: ${reason.message}; run the transaction again`,
              cause: reason.cause
            })
          : Effect.fail(reason)
      )
  )

/** The trigger can come after the table was inspected, as a Go service starts. Then the server refuses what has no room. */
const refusedBy =
  ({ append }: Request) =>
  (reason: Reason): InvalidInput | Reason =>
    isNotifyRefusal(reason) ? (RowNotifications.refusalOf(append) ?? reason) : reason

/** Why the table has no room for what is to be appended, if it has none. */
const refusalOf = ({ compact, notifies }: Description, append: Append): InvalidInput | undefined =>
  (notifies ? RowNotifications.refusalOf(append) : undefined) ?? (compact ? CompactLog.refusalOf(append) : undefined)

/** Sends requests of one kind. */
type Send = (
  requests: ReadonlyArray<Request>,
  table: Description
) => Effect.Effect<ReadonlyArray<RequestResult>, Reason>

/** Sends the requests of a batch: a request that cannot be appended fails, and does not concern the others. */
const attemptBy = (send: Send, inspect: EventTable["Service"]["inspect"]) => {
  /** Sends the requests that the table has room for. */
  const sendFitting = (requests: ReadonlyArray<Request>, table: Description) => {
    const known = requests.map(({ append }) => {
      const refusal = refusalOf(table, append)
      return refusal === undefined ? "none yet" : Exit.fail(refusal)
    })
    return completed(requests, known, (rest) => send(rest, table))
  }

  /** Sends one half after the other, so that in the end a request that the server refuses fails alone. */
  const attemptHalves = (requests: ReadonlyArray<Request>) => {
    const middle = requests.length >> 1
    const [first, second] = [requests.slice(0, middle), requests.slice(middle)]
    return Effect.flatMap(attempt(first), (results) => {
      // The transaction that a request has to wait for may end between the two: no later request may overtake it.
      const blocked = new Set(first.flatMap(({ shared }, index) => (results[index] === undefined ? shared : [])))
      const known = second.map(({ shared }) => (shared.some((key) => blocked.has(key)) ? undefined : "none yet"))
      return Effect.map(completed(second, known, attempt), (others) => [...results, ...others])
    })
  }

  const attempt = (requests: ReadonlyArray<Request>): Effect.Effect<ReadonlyArray<RequestResult>> =>
    // The table is inspected here, after the order is settled: no append overtakes another one that waits for the answer.
    Effect.flatMap(inspect, (table) =>
      table.notifies || table.compact ? sendFitting(requests, table) : send(requests, table)
    ).pipe(
      Effect.catch((reason) =>
        // The server writes nothing of a statement that it refuses.
        requests.length > 1 && isRefusal(reason)
          ? attemptHalves(requests)
          : Effect.succeed(requests.map((request) => Exit.fail(refusedBy(request)(reason))))
      )
    )

  return attempt
}

export interface AppendSending {
  /** How appends of many fibers are sent, outside of their transactions. */
  readonly outside: Work<Request, ReadonlyArray<StoredEvent>, Failure>
  /** Sends an append in the transaction of its caller, where it waits for other transactions if it has to. */
  readonly inside: (request: Request) => Stored
}

export const make = Effect.gen(function* () {
  const { inTransaction, sql } = yield* PostgresDatabase
  const { callFunction, insertMany, insertOne, isSame, metadataOf } = yield* AppendStatements.make
  const archive = yield* ArchivedEvents.make
  const { inspect } = yield* EventTable
  const { announce } = yield* Wakeups

  const announceNow: Announcement = Effect.sync(() => announce("events"))
  const announceAfterCommit: Announcement = sql.afterCommit(announceNow)

  /** Sends plain requests. Stores nothing if another transaction holds a lock. */
  const insert: Send = (requests, table) =>
    Effect.flatMap(insertMany(requests, table), (rows): Effect.Effect<ReadonlyArray<RequestResult>> => {
      if (rows.length === 0) return Effect.succeed(requests.map(() => undefined))
      const byId = new Map(rows.map((row) => [row.id, row]))
      const results = requests.map((request) => Exit.succeed(storedEvents(request, (id) => byId.get(id))))
      return Effect.as(announceAfterCommit, results)
    })

  /** The same for one event. While the server works, this process parses what the caller will get. */
  const insertAlone = (
    request: Request,
    table: Description,
    announcement: Announcement,
    blocked: () => Stored
  ): Stored => {
    queueMicrotask(request.content)
    return Effect.flatMap(Effect.mapError(insertOne(request, table), refusedBy(request)), (stamp) => {
      if (stamp === undefined) return blocked()
      const events = storedEvents(request, () => stamp)
      return Effect.as(announcement, events)
    })
  }

  /**
   * Gives events that were there before the metadata that they have: those of the request may name another trace. Where it
   * cannot be read, the requests with such events fail, and no others.
   */
  const asStored = (results: ReadonlyArray<RequestResult>, known: ReadonlyMap<string, bigint>) =>
    Effect.map(Effect.result(metadataOf([...known.values()])), (found): ReadonlyArray<RequestResult> =>
      results.map((result) => {
        if (result === undefined || Exit.isFailure(result) || !result.value.some(({ id }) => known.has(id))) {
          return result
        }
        if (Result.isFailure(found)) return Exit.fail(found.failure)
        return Exit.succeed(
          result.value.map((event) => {
            const metadata = found.success.get(event.id)
            return metadata === undefined ? event : toStoredEvent({ ...event, metadata })
          })
        )
      })
    )

  /**
   * What comes of a request some of whose events may be archived already: they are compared with what the files have, and the others
   * are sent.
   */
  const withoutArchived = Effect.fnUntraced(function* (
    request: Request,
    { versions }: Archived,
    patience: "waits" | "never waits"
  ): Effect.fn.Return<RequestResult, Reason | Moved> {
    const { append, datas, ids, metadatas } = request
    const rows = yield* archive.at([...versions.values()])
    const stored = new Map<string, StoredEvent>()
    for (const row of rows) {
      const place = ids.indexOf(row.id)
      const event = append.events[place]
      if (event === undefined) continue
      const { aggregateId, eventType } = event
      const [data = null, metadata = null] = [datas[place], metadatas[place]]
      if (!(yield* isSame({ aggregateId, eventType, data, metadata }, row))) {
        return Exit.fail(new DuplicateEvent({ id: row.id }))
      }
      stored.set(row.id, yield* archive.eventOf(row))
    }
    if (stored.size < versions.size) return yield* Effect.fail(moved)
    const places = [...ids.keys()].filter((place) => !stored.has(ids[place] ?? ""))
    const [sent] =
      places.length === 0
        ? [Exit.succeed([])]
        : yield* check(
            [
              requestOf(
                { ...append, events: places.flatMap((place) => append.events[place] ?? []) },
                places.map((place) => ids[place] ?? "")
              )
            ],
            patience
          )
    if (sent === undefined || Exit.isFailure(sent)) return sent
    for (const event of sent.value) stored.set(event.id, event)
    return Exit.succeed(ids.flatMap((id) => stored.get(id) ?? []))
  })

  /** What was archived is restored by now: the function says anew. An id whose event somebody has dropped stays taken. */
  const askAgain = Effect.fnUntraced(function* (
    request: Request,
    { versions }: Archived,
    patience: "waits" | "never waits"
  ): Effect.fn.Return<RequestResult, Reason> {
    const dropped = yield* archive.dropped([...versions.values()])
    const [id] = [...versions].find(([, version]) => version === dropped) ?? []
    if (id !== undefined) return Exit.fail(new DuplicateEvent({ id }))
    const [result] = yield* check([request], patience)
    return result
  })

  /** Replaces the results of requests with archived events. One that fails does not concern the others, which may be written. */
  const withArchived = (
    requests: ReadonlyArray<Request>,
    results: ReadonlyArray<RequestResult>,
    found: ReadonlyArray<RequestResult | Archived>,
    patience: "waits" | "never waits"
  ): Effect.Effect<ReadonlyArray<RequestResult>> =>
    Effect.forEach(requests, (request, index): Effect.Effect<RequestResult> => {
      const archived = found[index]
      if (!(archived instanceof Archived)) return Effect.succeed(results[index])
      return withoutArchived(request, archived, patience).pipe(
        Effect.catchTag("Moved", () => askAgain(request, archived, patience)),
        Effect.catch((reason) => Effect.succeed(Exit.fail(reason)))
      )
    })

  /** Sends requests of any kind. */
  const check = (
    requests: ReadonlyArray<Request>,
    patience: "waits" | "never waits"
  ): Effect.Effect<ReadonlyArray<RequestResult>, Reason> => {
    const call = callFunction(requests, patience)
    return Effect.flatMap(requests.length === 1 ? retried(call, inTransaction) : call, (rows) => {
      const found = resultsOf(requests, rows)
      const results = found.map((result) => (result instanceof Archived ? undefined : result))
      const hasStored = rows.some(({ outcome }) => outcome === "stored")
      const told = hasStored ? Effect.as(announceAfterCommit, results) : Effect.succeed(results)
      const known = new Map(
        rows.flatMap((row): ReadonlyArray<readonly [string, bigint]> =>
          row.outcome === "known" ? [[row.id, row.version]] : []
        )
      )
      const stored =
        known.size === 0 || results.every((result) => result === undefined || Exit.isFailure(result))
          ? told
          : Effect.flatMap(told, (results) => asStored(results, known))
      return found.every((result) => !(result instanceof Archived))
        ? stored
        : Effect.flatMap(stored, (results) => withArchived(requests, results, found, patience))
    })
  }

  /** Sends requests of one kind. */
  const send: Send = (requests, table) =>
    requests[0] === undefined || !isInserted(requests[0])
      ? check(requests, "never waits")
      : Effect.flatMap(insert(requests, table), (results) =>
          // The INSERT does not say which of them has to wait: the function does.
          requests.length > 1 && results[0] === undefined ? check(requests, "never waits") : Effect.succeed(results)
        )

  const attempt = attemptBy(send, inspect)

  /** Sends a request that may have to wait. */
  const patiently = (request: Request): Stored =>
    Effect.flatMap(
      Effect.mapError(check([request], "waits"), refusedBy(request)),
      ([result]) => result ?? Effect.succeed([])
    )

  /**
   * Sends one request. Nearly all appends come one at a time, and go without the arrays of the others. `check` sends what needs
   * the function.
   */
  const alone = (
    request: Request,
    announcement: Announcement,
    blocked: () => Stored,
    check: (request: Request) => Stored
  ): Stored =>
    Effect.flatMap(inspect, (table) => {
      const refusal = refusalOf(table, request.append)
      if (refusal !== undefined) return Effect.fail(refusal)
      const isLarge = table.partitioned && request.ids.length >= Partitions.manyEvents
      if (isLarge || !isInserted(request)) return check(request)
      return request.ids.length === 1
        ? insertAlone(request, table, announcement, blocked)
        : Effect.flatMap(
            Effect.mapError(insert([request], table), refusedBy(request)),
            ([result]) => result ?? blocked()
          )
    })

  const sending: AppendSending = {
    outside: {
      alone: (request, blocked) =>
        alone(request, announceNow, blocked, (request) =>
          Effect.flatMap(
            Effect.mapError(check([request], "never waits"), refusedBy(request)),
            ([result]) => result ?? blocked()
          )
        ),
      attempt,
      patiently
    },
    // The function waits at once: a call that never waits would keep the locks after the one that it cannot have, and the
    // next call would wait for that one with them. Two appends upon the same tag would share it, and each wait for the other.
    inside: (request) => alone(request, announceAfterCommit, () => patiently(request), patiently)
  }
  return sending
})
