/**
 * Writes events of another log as they were there: with their ids and times, in their order.
 *
 * **Details**
 *
 * `append` of the store gives an event the time of its transaction, so an import is SQL of its own that keeps the rules of an
 * append. It takes the locks that stand for every aggregate and every id, as an append of many events does, looks for the
 * events that are stored already, and lets the INSERT draw the versions, after it has locked the table.
 */
import { Duration, Effect, Schema } from "effect"
import { SqlClient } from "effect/sql"
import { originKeys } from "../../events/Origins.ts"
import { isUuid } from "../../internal/Ids.ts"
import type { Reason } from "../../StoreError.ts"
import * as AdvisoryLocks from "../database/AdvisoryLocks.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { isUniqueViolation, reasonOf } from "../database/Reasons.ts"
import * as AppendLocks from "./AppendLocks.ts"
import * as CompactLog from "./CompactLog.ts"
import * as EventTable from "./EventTable.ts"
import * as Partitions from "./Partitions.ts"
import * as TagTable from "./TagTable.ts"

/** An event cannot be imported as it is: another event of the import, or of the log, has its id. Nothing was written. */
export class ImportRefused extends Schema.TaggedError<ImportRefused>("effect-strata/postgres/ImportRefused")(
  "ImportRefused",
  { message: Schema.String }
) {}

/** How long an import waits until no append is under way, where the session has no `lock_timeout`: as long as an append waits. */
const lockLimit = Duration.minutes(1)

/** An event to be written. */
export interface Entry {
  /** Where it is from, for people: `line 12 of events.jsonl`. */
  readonly where: string
  /** Its version in the log that it is from. */
  readonly from: string | undefined
  readonly id: string
  readonly aggregateId: string
  readonly eventType: string
  /** A text for Postgres to read. Without it the event gets the time of the import. */
  readonly createdAt: string | null
  readonly tags: ReadonlyArray<string>
  /** The text of an object with its `data` and `metadata`, which only Postgres takes apart: no number is rounded. */
  readonly json: string
}

/** What came of an entry. */
export interface Written {
  readonly entry: Entry
  readonly version: bigint
  readonly isNew: boolean
}

const Known = Schema.Struct({
  id: Schema.String,
  version: Schema.BigInt,
  same: Schema.Boolean,
  sameTime: Schema.Boolean
})
const Present = Schema.Struct({ id: Schema.String })
const Inserted = Schema.Struct({ id: Schema.String, version: Schema.BigInt })

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { names, query, sql, tables, withTransaction } = database
  const events = tables.events
  const locks = AppendLocks.make(database)
  const decodeKnown = decodeRows(Known, names.events, ["id"])
  const decodePresent = decodeRows(Present, names.events, ["id"])
  const decodeInserted = decodeRows(Inserted, names.events, ["id"])
  const { compact } = yield* EventTable.check
  const idType = sql.literal(compact ? "uuid" : "text")
  const { extend, isPartitioned } = yield* Partitions.make
  const entriesAs = (entries: ReadonlyArray<Entry>) => sql`unnest(
      ${entries.map(({ id }) => id)}::${idType}[],
      ${entries.map(({ aggregateId }) => aggregateId)}::text[],
      ${entries.map(({ eventType }) => eventType)}::text[],
      ${entries.map(({ json }) => json)}::text[]::jsonb[],
      ${entries.map(({ createdAt }) => createdAt ?? "")}::text[]
    ) WITH ORDINALITY AS new (id, aggregate_id, event_type, json, created_at, place)`

  /** Metadata without where the event comes from, in a function's own types: see `resources/postgres/0066_events_append.sql`. */
  const contentOf = (metadata: string) =>
    sql.literal(`coalesce(nullif(CASE WHEN jsonb_typeof(${metadata}) = 'object'::text
      THEN ${metadata} - ARRAY[${originKeys.map((key) => `'${key}'`).join()}]::text[] ELSE ${metadata} END, '{}'::jsonb), 'null'::jsonb)`)

  const hasIdIn = (partitioned: boolean) =>
    partitioned
      ? sql`event.version = (SELECT version FROM ${sql.literal(EventTable.idsNameOf(database))} WHERE id = new.id)`
      : sql`event.id = new.id`

  const select = (entries: ReadonlyArray<Entry>, partitioned: boolean) => sql`
    SELECT old.* FROM ${entriesAs(entries)}
    CROSS JOIN LATERAL (
      SELECT event.id, event.version,
        event.aggregate_id = new.aggregate_id AND event.event_type = new.event_type
          AND coalesce(event.data, 'null') = new.json -> 'data'::text
          AND ${contentOf("event.metadata")} = ${contentOf("(new.json -> 'metadata'::text)")} AS same,
        coalesce(event.created_at = nullif(new.created_at, '')::timestamptz, new.created_at = '') AS "sameTime"
      FROM ${events} AS event WHERE ${hasIdIn(partitioned)} OFFSET 0
    ) AS old`

  /** Which ids are in the log. Of most imports none is: then no event is sent only to be compared. */
  const selectPresent = (entries: ReadonlyArray<Entry>, partitioned: boolean) => sql`
    SELECT new.id FROM pg_catalog.unnest(${entries.map(({ id }) => id)}::${idType}[]) AS new (id)
    CROSS JOIN LATERAL (SELECT FROM ${events} AS event WHERE ${hasIdIn(partitioned)} OFFSET 0) AS old`

  const metadata = sql.literal(
    compact ? "nullif(json -> 'metadata'::text, 'null')" : "coalesce(json -> 'metadata'::text, 'null')"
  )

  const insert = (entries: ReadonlyArray<Entry>) => sql`
    INSERT INTO ${events} AS event (id, aggregate_id, event_type, data, metadata, created_at)
    SELECT id, aggregate_id, event_type, json -> 'data'::text, ${metadata},
      coalesce(nullif(created_at, '')::timestamptz, now())
    FROM ${entriesAs(entries)} ORDER BY place
    RETURNING event.id, event.version`

  /** Gives the new events their tags, if they have any. All locks are held, so no decision misses them. */
  const tag = (entries: ReadonlyArray<Entry>, versions: ReadonlyMap<string, bigint>) => {
    const tags = entries.flatMap(({ eventType, id, tags }) =>
      tags.map((tag) => ({ tag, version: versions.get(id) ?? 0n, eventType }))
    )
    return tags.length === 0
      ? Effect.void
      : query(sql`
          INSERT INTO ${TagTable.tableOf(database)} (tag, version, event_type)
          SELECT * FROM unnest(
            ${tags.map(({ tag }) => tag)}::text[], ${tags.map(({ version }) => version)}::bigint[],
            ${tags.map(({ eventType }) => eventType)}::text[]
          )`)
  }

  /** What is stored under the ids of these entries, by id. */
  const look = (all: ReadonlyArray<Entry>): Effect.Effect<ReadonlyMap<string, typeof Known.Type>, Reason> => {
    const entries = compact ? all.filter(({ id }) => isUuid(id)) : all
    return entries.length === 0
      ? Effect.succeed(new Map())
      : Effect.map(
          Effect.flatMap(isPartitioned, (partitioned) =>
            Effect.flatMap(query(select(entries, partitioned)), decodeKnown)
          ),
          (rows) => new Map(rows.map((row) => [row.id, row]))
        )
  }

  /** Refuses ids that come twice, or that the log cannot store. */
  const checkIds = Effect.fnUntraced(function* (entries: ReadonlyArray<Entry>) {
    const seen = new Map<string, Entry>()
    for (const entry of entries) {
      const other = seen.get(entry.id)
      if (other !== undefined) {
        return yield* new ImportRefused({ message: `${entry.where} has the id of ${other.where}: "${entry.id}"` })
      }
      seen.set(entry.id, entry)
      if (compact && !isUuid(entry.id)) {
        return yield* new ImportRefused({ message: `${entry.where} has the id "${entry.id}". ${CompactLog.expected}` })
      }
    }
  })

  const attempt = Effect.fnUntraced(function* (entries: ReadonlyArray<Entry>) {
    yield* AdvisoryLocks.take(database, { of: "all appends", keys: locks.all, atMost: lockLimit })
    // The lock of the INSERT before the look, which takes a weaker one: see `resources/postgres/0066_events_append.sql`.
    yield* query(sql`INSERT INTO ${events} (id, aggregate_id, event_type) SELECT NULL, '', '' WHERE false`)
    // It stays so to the end of the transaction, which has the lock that keeps out a migration.
    const partitioned = yield* isPartitioned
    const found = yield* Effect.flatMap(query(selectPresent(entries, partitioned)), decodePresent)
    const present = new Set(found.map(({ id }) => id))
    const stored = yield* look(entries.filter(({ id }) => present.has(id)))
    const changed = entries.find(({ id }) => stored.get(id)?.same === false)
    if (changed !== undefined) {
      return yield* new ImportRefused({
        message: `${changed.where}: another event with the id "${changed.id}" is in the log`
      })
    }
    const missing = entries.filter(({ id }) => !stored.has(id))
    if (partitioned) yield* extend(missing.length)
    const inserted = missing.length === 0 ? [] : yield* Effect.flatMap(query(insert(missing)), decodeInserted)
    const added = new Map(inserted.map(({ id, version }) => [id, version]))
    yield* tag(missing, added)
    return entries.map((entry) => {
      const version = added.get(entry.id)
      return { entry, version: version ?? stored.get(entry.id)?.version ?? 0n, isNew: version !== undefined }
    })
  })

  return {
    /** Writes the events that are not in the log yet, all or none, and says which version each entry has there. */
    write: (entries: ReadonlyArray<Entry>): Effect.Effect<ReadonlyArray<Written>, ImportRefused | Reason> =>
      Effect.andThen(
        checkIds(entries),
        withTransaction(attempt(entries)).pipe(
          // At this level the look sees what was committed before the locks were taken, whatever the session's default is.
          Effect.provideService(SqlClient.BeginTransaction, "BEGIN ISOLATION LEVEL READ COMMITTED"),
          Effect.catchTag("SqlError", (error) => Effect.fail(reasonOf(error))),
          // A program that does not take the locks may write the same id after the look.
          Effect.retry({ times: 2, while: (error) => error._tag !== "ImportRefused" && isUniqueViolation(error) })
        )
      ),

    look
  }
})

export type EventWriter = Effect.Success<typeof make>
