/** The statements that append events, and how their rows are decoded. */
import { Effect, Predicate, Schema } from "effect"
import { expectedOf } from "../../Event.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as AppendLocks from "./AppendLocks.ts"
import {
  conditionAt,
  type Content,
  firstTagsOf,
  metadataOfText,
  noMetadata,
  type Request,
  type Stamp
} from "./AppendRequest.ts"
import { contentOf } from "./EventContent.ts"
import type { Description } from "./EventTable.ts"
import * as Partitions from "./Partitions.ts"
import * as TagTable from "./TagTable.ts"

const isTime = (value: unknown): value is Date => value instanceof Date && !Number.isNaN(value.getTime())

const stamp = { version: Schema.BigInt, createdAt: Schema.declare(isTime, { expected: "a time" }) }
const StampRow = Schema.Struct(stamp)

const written = { id: Schema.String, ...stamp }
const WrittenRow = Schema.Struct(written)

/** An event that has been written, or was there before. */
export type Written = typeof WrittenRow.Type

// Nearly every row fits, and these functions find it in a tenth of the time that a schema takes. The schemas say what is
// wrong with a row that does not fit.

const isStamp = (row: unknown): row is Stamp =>
  Predicate.isObject(row) && typeof row.version === "bigint" && isTime(row.createdAt)

const isWritten = (row: unknown): row is Written => isStamp(row) && "id" in row && typeof row.id === "string"

/** What a condition did not know. See `resources/postgres/0059_events_missed.sql`. */
const Change = Schema.Struct({
  change: Schema.Literals(["appended", "withdrawn", "tagged", "archived"]),
  eventType: Schema.optionalKey(Schema.String),
  tags: Schema.optionalKey(Schema.Array(Schema.String))
})

/** What came of an event, or of an append. See `resources/postgres/0066_events_append.sql`. */
const OutcomeRow = Schema.Union([
  Schema.Struct({ outcome: Schema.Literals(["stored", "known"]), ...written }),
  Schema.Struct({ outcome: Schema.Literals(["blocked", "isolation"]), request: Schema.Int }),
  Schema.Struct({ outcome: Schema.Literal("duplicate"), request: Schema.Int, id: Schema.String }),
  Schema.Struct({
    outcome: Schema.Literal("archived"),
    request: Schema.Int,
    id: Schema.String,
    version: Schema.BigInt
  }),
  Schema.Struct({
    outcome: Schema.Literal("conflict"),
    request: Schema.Int,
    id: Schema.String,
    version: Schema.NullOr(Schema.BigInt)
  }),
  Schema.Struct({
    outcome: Schema.Literal("overtaken"),
    request: Schema.Int,
    id: Schema.fromJsonString(Change),
    version: Schema.NullOr(Schema.BigInt)
  }),
  Schema.Struct({
    outcome: Schema.Literal("replaced"),
    request: Schema.Int,
    id: Schema.NullOr(Schema.String),
    version: Schema.BigInt
  })
])

export type Outcome = typeof OutcomeRow.Type

/** An event that is to be appended, and the stored one of its id, whose JSON is text. */
interface Compared {
  readonly aggregateId: string
  readonly eventType: string
  readonly data: string | null
  readonly metadata: string | null
}

const SameRow = Schema.Struct({ same: Schema.Boolean })

const MetadataRow = Schema.Struct({ id: Schema.String, metadata: Schema.String })

const countOf = (requests: ReadonlyArray<Request>) => requests.reduce((count, { ids }) => count + ids.length, 0)

/** What the statements have to know of the table. */
type Layout = Pick<Description, "compact">

/** The text of an event's metadata, as the log keeps it. */
const metadataOf = (text: string | undefined, compact: boolean): string | null =>
  text === undefined || (compact && text === noMetadata) ? null : text

/** Whether the function waits for other transactions. If not, appends that would have to wait are `blocked`. */
export type Patience = "waits" | "never waits"

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { fixed, names, query, schema, sql, tables } = database
  const table = tables.events
  const appendFunction = sql.literal(qualify(schema, `${names.events}_append`))
  const locks = AppendLocks.make(database)
  const tryShareAggregate = locks.tryShare("aggregate_id")
  const keyOfAggregate = locks.keyOf("aggregate_id")
  const keyOfName = locks.keyOf("name")
  const keyOfTag = locks.keyOfTag("tag")
  const tagTable = TagTable.tableOf(database)
  const { extending } = yield* Partitions.make
  const jsonOf = (compact: boolean) =>
    sql.literal(compact ? `nullif(new.metadata, '${noMetadata}')::jsonb` : "new.metadata::jsonb")
  const idTypeOf = (compact: boolean) => sql.literal(compact ? "uuid" : "text")

  // The statement has no arrays: for arrays the planner would make a new plan each time. The id has the type of its column, as
  // the parameter is an item of the list itself.
  const insertOneOf = ({ append, datas, ids, metadatas }: Request, { compact }: Layout) => {
    const [event] = append.events
    return fixed`
      INSERT INTO ${table} AS event (id, aggregate_id, event_type, data, metadata)
      SELECT ${ids[0]}, aggregate_id, event_type, data, metadata
      FROM (
        SELECT ${event?.aggregateId}::text AS aggregate_id, ${event?.eventType}::text AS event_type,
          ${datas[0]}::text::jsonb AS data, ${metadataOf(metadatas[0], compact)}::text::jsonb AS metadata
      ) AS new
      WHERE ${locks.tryShareLog} AND ${tryShareAggregate}
      RETURNING version, created_at AS "createdAt"`
  }

  const insertManyOf = (requests: ReadonlyArray<Request>, { compact }: Layout, andKeys = sql.literal("")) => {
    const events = requests.flatMap(({ append }) => append.events)
    const aggregates = [...new Set(events.map(({ aggregateId }) => aggregateId))]
    // The locks are taken before the sort, and versions are drawn after it.
    return sql`
      INSERT INTO ${table} (id, aggregate_id, event_type, data, metadata)
      SELECT new.id, new.aggregate_id, new.event_type, new.data::jsonb, ${jsonOf(compact)}
      FROM unnest(
        ${requests.flatMap(({ ids }) => ids)}::${idTypeOf(compact)}[],
        ${events.map(({ aggregateId }) => aggregateId)}::text[],
        ${events.map(({ eventType }) => eventType)}::text[],
        ${requests.flatMap(({ datas }) => datas)}::text[],
        ${requests.flatMap(({ metadatas }) => metadatas)}::text[]
      ) WITH ORDINALITY AS new (id, aggregate_id, event_type, data, metadata, place)
      WHERE ${locks.tryShareLog} AND NOT EXISTS (
        SELECT FROM (
          SELECT ${keyOfName} AS key FROM pg_catalog.unnest(${aggregates}::text[]) AS name
          ${andKeys} ORDER BY key OFFSET 0
        ) AS lock WHERE ${locks.isBusy}
      )
      ORDER BY new.place
      RETURNING id, version, created_at AS "createdAt"`
  }

  /** The same with tags: what the first part has inserted gets them in the second one. */
  const insertOneTaggedOf = ({ append, datas, ids, metadatas, tags }: Request, { compact }: Layout) => {
    const [event] = append.events
    return fixed`
      WITH added AS (
        INSERT INTO ${table} AS event (id, aggregate_id, event_type, data, metadata)
        SELECT ${ids[0]}, aggregate_id, event_type, data, metadata
        FROM (
          SELECT ${event?.aggregateId}::text AS aggregate_id, ${event?.eventType}::text AS event_type,
            ${datas[0]}::text::jsonb AS data, ${metadataOf(metadatas[0], compact)}::text::jsonb AS metadata
        ) AS new
        WHERE ${locks.tryShareLog} AND NOT EXISTS (
          SELECT FROM (
            SELECT ${keyOfAggregate} AS key
            UNION ALL SELECT ${keyOfTag} FROM pg_catalog.unnest(${tags.map(({ tag }) => tag)}::text[]) AS tag
            ORDER BY key OFFSET 0
          ) AS lock WHERE ${locks.isBusy}
        )
        RETURNING version, event_type, created_at
      ), tagging AS (
        INSERT INTO ${tagTable} (tag, version, event_type)
        SELECT tag, added.version, added.event_type FROM added, pg_catalog.unnest(${tags.map(({ tag }) => tag)}::text[]) AS tag
      )
      SELECT version, created_at AS "createdAt" FROM added`
  }

  const insertManyTaggedOf = (requests: ReadonlyArray<Request>, layout: Layout) => {
    const tags = requests.flatMap(({ tags }) => tags)
    // The same tag several times: a lock that the transaction has already costs it next to nothing.
    const andKeys = sql`UNION ALL SELECT ${keyOfTag} FROM given`
    return sql`
      WITH given AS MATERIALIZED (
        SELECT * FROM unnest(${tags.map(({ id }) => id)}::${idTypeOf(layout.compact)}[], ${tags.map(({ tag }) => tag)}::text[]) AS given (id, tag)
      ), added AS (${insertManyOf(requests, layout, andKeys)}, event_type), tagging AS (
        INSERT INTO ${tagTable} (tag, version, event_type)
        SELECT given.tag, added.version, added.event_type FROM given JOIN added ON added.id = given.id
      )
      SELECT id, version, "createdAt" FROM added`
  }

  const callOf = (requests: ReadonlyArray<Request>, patience: Patience) => {
    const events = requests.flatMap(({ append }, request) => append.events.map((event) => ({ append, event, request })))
    const tags = requests.flatMap(({ tags }) => tags)
    const log = requests.find(({ append }) => append.condition !== undefined)?.append.condition
    const firstTags = requests.flatMap(({ append }, request) => firstTagsOf(request, append, log))
    const conditions = requests.flatMap(({ append }, request) => conditionAt(request, append))
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
        ${patience === "waits"}::boolean,
        ${tags.map(({ id }) => id)}::text[],
        ${tags.map(({ tag }) => tag)}::text[],
        ${firstTags.map(({ request }) => request)}::integer[],
        ${firstTags.map(({ tag }) => tag)}::text[],
        ${firstTags.map(({ mark }) => mark)}::bigint[],
        ${log?.decided.server ?? ""}::text,
        ${log?.decided.epoch ?? 0n}::bigint,
        ${conditions.length === 0 ? null : JSON.stringify(conditions)}::text::jsonb,
        ${firstTags.map(({ type }) => type)}::text[],
        ${firstTags.map(({ seen }) => seen)}::text[]
      )`
  }

  const selectMetadataOf = (versions: ReadonlyArray<bigint>) =>
    sql`SELECT id, coalesce(metadata::text, 'null'::text) AS metadata FROM ${table} WHERE version = ANY(${versions}::bigint[])`

  const metadataContentOf = ({ metadata }: Compared) => contentOf(sql, sql`${metadata}::text::jsonb`)

  const decodeSame = decodeRows(SameRow, names.events, [])
  const decodeStamps = decodeRows(StampRow, names.events, ["version"])
  const decodeWritten = decodeRows(WrittenRow, names.events, ["id"])
  const decodeMetadata = decodeRows(MetadataRow, names.events, ["id"])
  const decodeOutcomes = decodeRows(OutcomeRow, names.events, ["id"])

  return {
    /**
     * Inserts the one event of a plain or tagged request. Returns its stamp, or nothing if another transaction holds a lock.
     */
    insertOne: (request: Request, layout: Layout): Effect.Effect<Stamp | undefined, Reason> =>
      Effect.flatMap(
        extending(
          query(request.kind === "plain" ? insertOneOf(request, layout) : insertOneTaggedOf(request, layout)),
          1
        ),
        ([row]): Effect.Effect<Stamp | undefined, Reason> =>
          row === undefined || isStamp(row)
            ? Effect.succeed(row)
            : Effect.map(decodeStamps([row]), ([decoded]) => decoded)
      ),

    /**
     * Inserts the events of requests that are all plain, or all tagged. Returns no rows, and inserts nothing, if another
     * transaction holds a lock.
     */
    insertMany: (requests: ReadonlyArray<Request>, layout: Layout): Effect.Effect<ReadonlyArray<Written>, Reason> =>
      Effect.flatMap(
        extending(
          query(requests[0]?.kind === "plain" ? insertManyOf(requests, layout) : insertManyTaggedOf(requests, layout)),
          countOf(requests)
        ),
        (rows) => (rows.every(isWritten) ? Effect.succeed(rows) : decodeWritten(rows))
      ),

    /** Appends requests of any kind by the function of the database. */
    callFunction: (
      requests: ReadonlyArray<Request>,
      patience: Patience
    ): Effect.Effect<ReadonlyArray<Outcome>, Reason> =>
      Effect.flatMap(extending(query(callOf(requests, patience)), countOf(requests)), decodeOutcomes),

    /** Whether an event is the one that is stored, as the function of the database compares them. */
    isSame: (one: Compared, other: Compared): Effect.Effect<boolean, Reason> =>
      one.aggregateId !== other.aggregateId || one.eventType !== other.eventType
        ? Effect.succeed(false)
        : Effect.map(
            Effect.flatMap(
              query(sql`
                SELECT coalesce(${one.data}::text::jsonb, 'null'::jsonb) = coalesce(${other.data}::text::jsonb, 'null'::jsonb)
                  AND ${metadataContentOf(one)} = ${metadataContentOf(other)} AS same`),
              decodeSame
            ),
            ([row]) => row?.same === true
          ),

    /** The metadata of events that were there before: those of the request may say that they come from elsewhere. */
    metadataOf: (versions: ReadonlyArray<bigint>): Effect.Effect<ReadonlyMap<string, Content["metadata"]>, Reason> =>
      Effect.map(
        Effect.flatMap(query(selectMetadataOf(versions)), decodeMetadata),
        (rows) => new Map(rows.map(({ id, metadata }) => [id, metadataOfText(metadata)]))
      )
  }
})

export type AppendStatements = Effect.Success<typeof make>
