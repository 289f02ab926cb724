/**
 * Writes events of another log as they were there: with their ids and times, in their order.
 *
 * **Details**
 *
 * `append` of the store gives an event the time of its transaction, so an import is SQL of its own that keeps the rules of an
 * append. It takes the locks that stand for every aggregate and every id, as an append of many events does, looks for the
 * events that are stored already, and lets the INSERT draw the versions, after it has locked the table. Those that are archived
 * are read from their files before that, while others append.
 */
import { Duration, Effect, Schema } from "effect"
import type { Fragment } from "effect/sql/Statement"
import { isUuid } from "../../internal/Ids.ts"
import type { Reason } from "../../StoreError.ts"
import * as AdvisoryLocks from "../database/AdvisoryLocks.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { beginReadCommitted } from "../database/Isolation.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { isUniqueViolation, reasonOf } from "../database/Reasons.ts"
import * as AppendLocks from "./AppendLocks.ts"
import * as ArchivedEnd from "./ArchivedEnd.ts"
import { moved, type Moved } from "./ArchivedEnd.ts"
import * as ArchivedEvents from "./ArchivedEvents.ts"
import type { ArchivedRow } from "./ArchivedPages.ts"
import * as ArchiveTable from "./ArchiveTable.ts"
import * as CompactLog from "./CompactLog.ts"
import { contentOf } from "./EventContent.ts"
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
type Known = typeof Known.Type
const Place = Schema.Struct({ id: Schema.String, version: Schema.BigInt })
const Present = Schema.Struct({ id: Schema.String, isArchived: Schema.Boolean })
const Inserted = Schema.Struct({ id: Schema.String, version: Schema.BigInt })

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { names, query, sql, tables, withTransaction } = database
  const events = tables.events
  const locks = AppendLocks.make(database)
  const decodeKnown = decodeRows(Known, names.events, ["id"])
  const archive = yield* ArchivedEvents.make
  const { end, ids } = ArchivedEnd.make(database)
  const { archives } = ArchiveTable.tablesOf(database)
  const decodePlaces = decodeRows(Place, EventTable.idsNameOf(database), ["id"])
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

  const metadataContentOf = (json: string) => contentOf(sql, sql.literal(json))

  const hasIdIn = (partitioned: boolean) =>
    partitioned ? sql`event.version = (SELECT version FROM ${ids} WHERE id = new.id)` : sql`event.id = new.id`

  /** Compares entries with the events that a table has, of which a condition finds one for each. */
  const select = (entries: ReadonlyArray<Entry>, table: Fragment, hasId: Fragment) => sql`
    SELECT old.* FROM ${entriesAs(entries)}
    CROSS JOIN LATERAL (
      SELECT event.id, event.version,
        event.aggregate_id = new.aggregate_id AND event.event_type = new.event_type
          AND coalesce(event.data, 'null') = new.json -> 'data'::text
          AND ${metadataContentOf("event.metadata")} = ${metadataContentOf("(new.json -> 'metadata'::text)")} AS same,
        coalesce(event.created_at = nullif(new.created_at, '')::timestamptz, new.created_at = '') AS "sameTime"
      FROM ${table} AS event WHERE ${hasId} OFFSET 0
    ) AS old`

  /** Which ids are in the log, or in its archive. Of most imports none is: then no event is sent only to be compared. */
  const selectPresent = (entries: ReadonlyArray<Entry>, partitioned: boolean) => {
    const all = sql`pg_catalog.unnest(${entries.map(({ id }) => id)}::${idType}[]) AS new (id)`
    return partitioned
      ? sql`SELECT new.id::text AS id, EXISTS (
          SELECT FROM ${archives} WHERE first_version <= old.version AND end_version > old.version
        ) AS "isArchived" FROM ${all} JOIN ${ids} AS old ON old.id = new.id`
      : sql`
        SELECT new.id::text AS id, false AS "isArchived" FROM ${all}
        CROSS JOIN LATERAL (SELECT FROM ${events} AS event WHERE ${hasIdIn(false)} OFFSET 0) AS old`
  }

  /** Rows of files, as a table. */
  const tableOf = (rows: ReadonlyArray<ArchivedRow>) => sql`unnest(
      ${rows.map(({ id }) => id)}::${idType}[],
      ${rows.map(({ version }) => String(version))}::text[]::bigint[],
      ${rows.map(({ aggregateId }) => aggregateId)}::text[],
      ${rows.map(({ eventType }) => eventType)}::text[],
      ${rows.map(({ data }) => data ?? "null")}::text[]::jsonb[],
      ${rows.map(({ metadata }) => metadata ?? "null")}::text[]::jsonb[],
      ${rows.map(({ createdAtText }) => createdAtText ?? "")}::text[]
    ) AS filed (id, version, aggregate_id, event_type, data, metadata, time)
    CROSS JOIN LATERAL (SELECT nullif(filed.time, '')::timestamptz AS created_at OFFSET 0) AS at`

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

  /** What the table has under the ids of these entries. */
  const inTable = (entries: ReadonlyArray<Entry>, partitioned: boolean): Effect.Effect<ReadonlyArray<Known>, Reason> =>
    entries.length === 0
      ? Effect.succeed([])
      : Effect.flatMap(query(select(entries, events, hasIdIn(partitioned))), decodeKnown)

  /** What is archived under the ids of these entries. */
  const inArchive = Effect.fnUntraced(function* (
    entries: ReadonlyArray<Entry>
  ): Effect.fn.Return<ReadonlyArray<Known>, Reason | Moved> {
    if (entries.length === 0 || !(yield* isPartitioned)) return []
    const places = yield* Effect.flatMap(
      query(sql`
        SELECT id::text AS id, version FROM ${ids}
        WHERE id = ANY(${entries.map(({ id }) => id)}::${idType}[]) AND version < ${end}`),
      decodePlaces
    )
    if (places.length === 0) return []
    const rows = yield* archive.at(places.map(({ version }) => version))
    const wanted = new Set(places.map(({ id }) => id))
    const filed = sql`(SELECT * FROM ${tableOf(rows)})`
    return yield* Effect.flatMap(
      query(
        select(
          entries.filter(({ id }) => wanted.has(id)),
          filed,
          sql`event.id = new.id`
        )
      ),
      decodeKnown
    )
  })

  const byId = (rows: ReadonlyArray<Known>): ReadonlyMap<string, Known> => new Map(rows.map((row) => [row.id, row]))

  /** What is stored under the ids of these entries, by id. */
  const look = (all: ReadonlyArray<Entry>): Effect.Effect<ReadonlyMap<string, Known>, Reason> => {
    const entries = compact ? all.filter(({ id }) => isUuid(id)) : all
    return ArchivedEnd.again(
      Effect.gen(function* () {
        const archived = yield* inArchive(entries)
        // A part that is restored in between is in the table. The events of one that is archived in between are found by neither
        // look, but by one more.
        const live = yield* inTable(entries, yield* isPartitioned)
        const found = byId([...archived, ...live])
        const missing = entries.filter(({ id }) => !found.has(id))
        return (yield* inArchive(missing)).length > 0 ? yield* Effect.fail(moved) : found
      })
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

  /**
   * Writes what is not in the log yet. `archived` is what the files had of these entries before: fails where they have more by now.
   */
  const attempt = Effect.fnUntraced(function* (
    entries: ReadonlyArray<Entry>,
    archived: ReadonlyMap<string, Known>
  ): Effect.fn.Return<ReadonlyArray<Written>, ImportRefused | Reason | Moved> {
    yield* AdvisoryLocks.take(database, { of: "all appends", keys: locks.all, atMost: lockLimit })
    // The lock of the INSERT before the look, which takes a weaker one: see `resources/postgres/0066_events_append.sql`.
    yield* query(sql`INSERT INTO ${events} (id, aggregate_id, event_type) SELECT NULL, '', '' WHERE false`)
    // It stays so to the end of the transaction, which has the lock that keeps out a migration.
    const partitioned = yield* isPartitioned
    const found = yield* Effect.flatMap(query(selectPresent(entries, partitioned)), decodePresent)
    if (found.some(({ id, isArchived }) => isArchived && !archived.has(id))) return yield* Effect.fail(moved)
    const live = new Set(found.flatMap(({ id, isArchived }) => (isArchived ? [] : [id])))
    const old = found.flatMap(({ id, isArchived }) => (isArchived ? (archived.get(id) ?? []) : []))
    const stored = byId([
      ...old,
      ...(yield* inTable(
        entries.filter(({ id }) => live.has(id)),
        partitioned
      ))
    ])
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
        Effect.flatMap(inArchive(entries), (archived) => withTransaction(attempt(entries, byId(archived)))).pipe(
          beginReadCommitted,
          Effect.catchTag("SqlError", (error) => Effect.fail(reasonOf(error))),
          // What was in the table may be archived meanwhile, and the other way round.
          Effect.retry({ while: ({ _tag }) => _tag === "Moved" }),
          Effect.catchTag("Moved", Effect.die),
          // A program that does not take the locks may write the same id after the look.
          Effect.retry({ times: 2, while: (error) => error._tag !== "ImportRefused" && isUniqueViolation(error) })
        )
      ),

    look
  }
})

export type EventWriter = Effect.Success<typeof make>
