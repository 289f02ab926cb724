/**
 * How events get into the table.
 *
 * **Details**
 *
 * An append is one round trip, unless it has to wait. One that expects nothing and brings no ids needs only shared locks:
 * it is an INSERT that does nothing if it cannot have them at once. All others, and that one then, go through the function
 * of `resources/postgres/0002_events.sql`.
 *
 * Outside a transaction, appends that come at once are coalesced into one statement, so one commit. None of them waits
 * there for a lock: if it did, it would keep the others from their results, and the locks of the others from those who
 * hold what it waits for, in a circle.
 */
import { Context, DateTime, Effect, Exit, Option, Predicate, Schema, type Scope } from "effect"
import type { Statement } from "effect/sql/Statement"
import { type Append, DuplicateEvent, expectedOf, type StoredEvent, VersionConflict } from "../../EventStore.ts"
import { idGenerator } from "../../internal/Ids.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import { Closed, Contention, type Reason, Unexpected } from "../../StoreError.ts"
import * as Coalescing from "../database/Coalescing.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify, reference } from "../database/Identifier.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { isRefusal, isUniqueViolation } from "../database/Reasons.ts"
import { toStoredEvent } from "./EventRow.ts"
import * as RowNotifications from "./RowNotifications.ts"

const isTime = (value: unknown): value is Date => value instanceof Date && !Number.isNaN(value.getTime())

/** What the database adds to an event. */
const stamp = { version: Schema.BigInt, createdAt: Schema.declare(isTime, { expected: "a time" }) }
const Stamp = Schema.Struct(stamp)

const written = { id: Schema.String, ...stamp }
const Written = Schema.Struct(written)

// Whether a row is that, as nearly all are. The schemas take ten times as long, and say what is wrong with one.

const isStamp = (row: unknown): row is typeof Stamp.Type =>
  Predicate.isObject(row) && typeof row.version === "bigint" && isTime(row.createdAt)

const isWritten = (row: unknown): row is typeof Written.Type =>
  isStamp(row) && "id" in row && typeof row.id === "string"

/** What came of an event, or of an append. See `resources/postgres/0002_events.sql`. */
const Outcome = Schema.Union([
  Schema.Struct({ outcome: Schema.Literals(["stored", "known"]), ...written }),
  Schema.Struct({ outcome: Schema.Literals(["blocked", "isolation"]), request: Schema.Int }),
  Schema.Struct({ outcome: Schema.Literal("duplicate"), request: Schema.Int, id: Schema.String }),
  Schema.Struct({
    outcome: Schema.Literal("conflict"),
    request: Schema.Int,
    id: Schema.String,
    version: Schema.NullOr(Schema.BigInt)
  })
])

type Failure = VersionConflict | DuplicateEvent | InvalidInput | Reason
type Stored = Effect.Effect<ReadonlyArray<StoredEvent>, Failure>
type Result = Exit.Exit<ReadonlyArray<StoredEvent>, Failure>
/** `undefined` stands for one that would have to wait for somebody else. */
type Results = ReadonlyArray<Result | undefined>

interface Texts {
  readonly datas: ReadonlyArray<string>
  readonly metadatas: ReadonlyArray<string>
}

type Content = Pick<StoredEvent, "data" | "metadata">

/** An append that is ready to be sent. Its kind says whether it needs the function. */
interface Request extends Coalescing.Job, Texts {
  readonly kind: "plain" | "checked"
  readonly append: Append
  readonly ids: ReadonlyArray<string>
  /** Parsed when first asked for. */
  readonly content: () => ReadonlyArray<Content>
}

/** No metadata, as go-sync-kit stores it. */
const nothing = "null"

const requestOf = (append: Append, ids: ReadonlyArray<string>): Request => {
  const datas: Array<string> = []
  const metadatas: Array<string> = []
  const aggregates = new Set<string>()
  const given: Array<string> = []
  let size = 0
  for (const { aggregateId, data, id, metadata } of append.events) {
    const dataText = JSON.stringify(data)
    const metadataText = metadata === undefined ? nothing : JSON.stringify(metadata)
    datas.push(dataText)
    metadatas.push(metadataText)
    aggregates.add(aggregateId)
    if (id !== undefined) given.push(`\0${id}`)
    size += dataText.length + metadataText.length
  }
  const aggregateIds = [...aggregates]
  const unconditional = aggregateIds.every((id) => expectedOf(append, id) === "any")
  // Of several aggregates one can be free and another not: then nobody must overtake on the first.
  const sharing = unconditional && aggregateIds.length === 1
  let content: ReadonlyArray<Content> | undefined
  return {
    kind: unconditional && given.length === 0 ? "plain" : "checked",
    shared: sharing ? aggregateIds : [],
    exclusive: sharing ? given : [...aggregateIds, ...given],
    size,
    append,
    ids,
    datas,
    metadatas,
    content: () => (content ??= contentOf({ datas, metadatas }))
  }
}

/** The content of events, parsed from what is sent: nobody shares its parts with the caller. */
const contentOf = ({ datas, metadatas }: Texts): ReadonlyArray<Content> =>
  datas.map((text, index) => {
    const data: Schema.Json = JSON.parse(text)
    const metadataText = metadatas[index] ?? nothing
    const metadata: Schema.JsonObject | null = metadataText === nothing ? null : JSON.parse(metadataText)
    return { data, metadata }
  })

/** The events as they are read. */
const storedEvents = (
  { append, content, ids }: Request,
  rowOf: (id: string) => typeof Stamp.Type | undefined
): ReadonlyArray<StoredEvent> => {
  const stored: Array<StoredEvent> = []
  let createdAt: DateTime.Utc | undefined
  for (const [index, { data, metadata }] of content().entries()) {
    const event = append.events[index]
    const id = ids[index] ?? ""
    const row = rowOf(id)
    if (row === undefined || event === undefined) continue
    const { aggregateId, eventType } = event
    // The same for all of them, as a rule: that of the transaction.
    if (createdAt?.epochMilliseconds !== row.createdAt.getTime()) createdAt = DateTime.fromDateUnsafe(row.createdAt)
    const streamName = `stream_${aggregateId}`
    // Its parts have been checked as those of the input and of the row.
    stored.push(
      toStoredEvent({ version: row.version, id, aggregateId, eventType, data, metadata, createdAt, streamName })
    )
  }
  return stored
}

export const make = Effect.fnUntraced(function* ({
  appended,
  inspect
}: {
  /** Called once after each commit that stored something. */
  readonly appended: () => void
  /**
   * Whether the table notifies of each row. Asked before each statement: in here, so that nobody who has the answer
   * overtakes one who waits for it.
   */
  readonly inspect: Effect.Effect<boolean, Reason>
}) {
  const { fixed, inTransaction, names, query, schema, sql, tables, whether } = yield* PostgresDatabase
  const random = yield* idGenerator
  const table = tables.events
  const appendFunction = sql.literal(qualify(schema, `${names.events}_append`))
  const seed = sql.literal(`2 * ${reference(qualify(schema, names.events))}::regclass::oid::bigint`)
  const decode = decodeRows(Written, names.events, ["id"])
  const decodeStamp = decodeRows(Stamp, names.events, ["version"])
  const decodeWritten = (rows: ReadonlyArray<unknown>) => (rows.every(isWritten) ? Effect.succeed(rows) : decode(rows))
  const decodeOutcomes = decodeRows(Outcome, names.events, ["id"])

  // Statements

  /** Without arrays: for these the planner would make a new plan each time. */
  const insertOne = ({ append, datas, ids, metadatas }: Request) => {
    const [event] = append.events
    return fixed`
      INSERT INTO ${table} AS event (id, aggregate_id, event_type, data, metadata)
      SELECT ${ids[0]}::text, ${event?.aggregateId}::text, ${event?.eventType}, ${datas[0]}::text::jsonb, ${metadatas[0]}::text::jsonb
      WHERE pg_try_advisory_xact_lock_shared(hashtextextended('', ${seed}))
        AND pg_try_advisory_xact_lock_shared(hashtextextended(${event?.aggregateId}, ${seed}))
      RETURNING version, created_at AS "createdAt"`
  }

  const insertMany = (requests: ReadonlyArray<Request>) => {
    const events = requests.flatMap(({ append }) => append.events)
    // Versions are drawn after the sort, and the locks are taken before.
    return sql`
      INSERT INTO ${table} (id, aggregate_id, event_type, data, metadata)
      SELECT new.id, new.aggregate_id, new.event_type, new.data::jsonb, new.metadata::jsonb
      FROM unnest(
        ${requests.flatMap(({ ids }) => ids)}::text[],
        ${events.map(({ aggregateId }) => aggregateId)}::text[],
        ${events.map(({ eventType }) => eventType)}::text[],
        ${requests.flatMap(({ datas }) => datas)}::text[],
        ${requests.flatMap(({ metadatas }) => metadatas)}::text[]
      ) WITH ORDINALITY AS new (id, aggregate_id, event_type, data, metadata, place)
      WHERE (
        SELECT bool_and(pg_try_advisory_xact_lock_shared(hashtextextended(name, ${seed})))
        FROM unnest(${["", ...new Set(events.map(({ aggregateId }) => aggregateId))]}::text[]) AS name
      )
      ORDER BY new.place
      RETURNING id, version, created_at AS "createdAt"`
  }

  const call = (requests: ReadonlyArray<Request>, patient: boolean) => {
    const events = requests.flatMap(({ append }, request) => append.events.map((event) => ({ append, event, request })))
    return sql`
      SELECT outcome, request, key AS id, version, created_at AS "createdAt"
      FROM ${appendFunction}(
        ${events.map(({ request }) => request)}::integer[],
        ${requests.flatMap(({ ids }) => ids)}::text[],
        ${events.map(({ event }) => event.aggregateId)}::text[],
        ${events.map(({ event }) => event.eventType)}::text[],
        ${requests.flatMap(({ datas }) => datas)}::text[],
        ${requests.flatMap(({ metadatas }) => metadatas)}::text[],
        ${events.map(({ event }) => event.id !== undefined)}::boolean[],
        ${events.map(({ append }) => append.onDuplicate === "ignore")}::boolean[],
        ${events.map(({ append, event }) => String(expectedOf(append, event.aggregateId)))}::text[],
        ${patient}
      )`
  }

  // What came of them

  const announcement = sql.afterCommit(Effect.sync(appended))
  const announced = <A>(result: A) => Effect.as(announcement, result)

  /** The same for what is in no transaction: its commit is behind it. */
  const announcedNow = <A>(result: A) => {
    appended()
    return Effect.succeed(result)
  }

  /** Stores nothing if somebody holds a lock. */
  const insert = (requests: ReadonlyArray<Request>): Effect.Effect<Results, Reason> =>
    Effect.flatMap(Effect.flatMap(query(insertMany(requests)), decodeWritten), (rows): Effect.Effect<Results> => {
      if (rows.length === 0) return Effect.succeed(requests.map(() => undefined))
      const byId = new Map(rows.map((row) => [row.id, row]))
      return announced(requests.map((request) => Exit.succeed(storedEvents(request, (id) => byId.get(id)))))
    })

  /** The same for one event. What can be done before the answer is done while the server works. */
  const insertAlone = (request: Request, blocked: () => Stored, announced: typeof announcedNow): Stored => {
    queueMicrotask(request.content)
    return Effect.flatMap(query(insertOne(request)), (rows): Stored => {
      const [row] = rows
      if (row === undefined) return blocked()
      if (isStamp(row)) return announced(storedEvents(request, () => row))
      return Effect.flatMap(decodeStamp(rows), ([row]) => announced(storedEvents(request, () => row)))
    })
  }

  const resultsOf = (requests: ReadonlyArray<Request>, rows: ReadonlyArray<typeof Outcome.Type>) => {
    const events = new Map<string, typeof Written.Type>()
    const failures = new Map<number, Failure | "blocked">()
    for (const row of rows) {
      switch (row.outcome) {
        case "stored":
        case "known":
          events.set(row.id, row)
          break
        case "duplicate":
          if (!failures.has(row.request)) failures.set(row.request, new DuplicateEvent({ id: row.id }))
          break
        case "conflict": {
          const append = requests[row.request]?.append
          const before = failures.get(row.request)
          if (append === undefined || (before instanceof VersionConflict && before.aggregateId < row.id)) break
          const actual = Option.fromNullishOr(row.version)
          const expected = expectedOf(append, row.id)
          failures.set(row.request, new VersionConflict({ aggregateId: row.id, expected, actual }))
          break
        }
        case "blocked":
          failures.set(row.request, "blocked")
          break
        case "isolation":
          failures.set(
            row.request,
            new Unexpected({
              message:
                "what an append expects cannot be checked against what others have committed meanwhile; " +
                "run the transaction with isolation level READ COMMITTED"
            })
          )
      }
    }
    const results = requests.map((request, index): Result | undefined => {
      const failure = failures.get(index)
      if (failure === "blocked") return undefined
      return failure === undefined ? Exit.succeed(storedEvents(request, (id) => events.get(id))) : Exit.fail(failure)
    })
    return rows.some(({ outcome }) => outcome === "stored") ? announced(results) : Effect.succeed(results)
  }

  /**
   * Somebody who does not take the locks can still write an id between the function's look and its INSERT; the next
   * attempt sees that event. Inside a transaction there is none: the error has ended it.
   */
  const retried = (statement: Statement<unknown>) =>
    Effect.catchIf(
      Effect.retry(query(statement), {
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

  const check = (requests: ReadonlyArray<Request>, patient: boolean): Effect.Effect<Results, Reason> =>
    (requests.length === 1 ? retried(call(requests, patient)) : query(call(requests, patient))).pipe(
      Effect.flatMap(decodeOutcomes),
      Effect.flatMap((rows) => resultsOf(requests, rows))
    )

  const send = (requests: ReadonlyArray<Request>): Effect.Effect<Results, Reason> =>
    requests[0]?.kind !== "plain"
      ? check(requests, false)
      : Effect.flatMap(insert(requests), (results) =>
          requests.length > 1 && results[0] === undefined ? check(requests, false) : Effect.succeed(results)
        )

  /** Sends those that the table's notifications have room for. */
  const sendFitting = (requests: ReadonlyArray<Request>) => {
    const refusals = requests.map(({ append }) => RowNotifications.refusalOf(append))
    const fitting = requests.filter((_, index) => refusals[index] === undefined)
    return Effect.map(fitting.length === 0 ? Effect.succeed([]) : send(fitting), (results) => {
      const rest = [...results]
      return refusals.map((refusal) => (refusal === undefined ? rest.shift() : Exit.fail(refusal)))
    })
  }

  const attempt = (requests: ReadonlyArray<Request>): Effect.Effect<Results> =>
    Effect.flatMap(inspect, (notifies) => (notifies ? sendFitting(requests) : send(requests))).pipe(
      Effect.catch((reason) => {
        if (requests.length === 1 || !isRefusal(reason)) return Effect.succeed(requests.map(() => Exit.fail(reason)))
        // Nothing was written. Whoever is to blame fails alone.
        const middle = requests.length >> 1
        return Effect.zipWith(attempt(requests.slice(0, middle)), attempt(requests.slice(middle)), (first, second) => [
          ...first,
          ...second
        ])
      })
    )

  const patiently = (request: Request) =>
    Effect.flatMap(check([request], true), ([result]) => result ?? Effect.succeed([]))

  /** Does without the arrays of the others: nearly all come one at a time. */
  const alone = (request: Request, blocked: () => Stored, announced: typeof announcedNow): Stored =>
    Effect.flatMap(inspect, (notifies) => {
      const refusal = notifies ? RowNotifications.refusalOf(request.append) : undefined
      if (refusal !== undefined) return Effect.fail(refusal)
      return request.kind === "plain" && request.ids.length === 1
        ? insertAlone(request, blocked, announced)
        : Effect.flatMap(send([request]), ([result]) => result ?? blocked())
    })

  const coalesced = yield* Coalescing.make<Request, ReadonlyArray<StoredEvent>, Failure>(
    { alone: (request, blocked) => alone(request, blocked, announcedNow), attempt, patiently },
    new Closed({ message: "the scope of this EventStore has ended before the append had; keep its layer alive" })
    // What is done for many is in nobody's transaction.
  ).pipe(Effect.updateContext((context: Context.Context<Scope.Scope>) => Context.omit(sql.transactionService)(context)))

  const idsOf = ({ events }: Append): Effect.Effect<ReadonlyArray<string>> =>
    events.length === 1 && events[0]?.id === undefined
      ? Effect.map(random.uuidV7(), (id) => [id])
      : Effect.forEach(events, ({ id }) => (id === undefined ? random.uuidV7() : Effect.succeed(id)))

  return {
    append: (append: Append): Stored =>
      Effect.flatMap(idsOf(append), (ids) => {
        if (ids.length === 0) return Effect.succeed([])
        const request = requestOf(append, ids)
        return whether({
          inside: () => alone(request, () => patiently(request), announced),
          outside: () => coalesced(request)
        })
      })
  }
})
