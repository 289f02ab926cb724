/**
 * The archived part of the log: all versions below one, in files that `EventArchive` has. `resources/postgres/0063_events_archives.sql`
 * has the tables that say so.
 */
import { Effect, Option, Schema, Semaphore, Stream } from "effect"
import type { Fragment } from "effect/sql/Statement"
import { createHash } from "node:crypto"
import type { Filter, StoredEvent } from "../../Event.ts"
import { matches, tagsIn } from "../../events/EventFilter.ts"
import { type Reason, Unavailable, Unexpected } from "../../StoreError.ts"
import { decodeRows, NumberFromBigInt } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as ArchivedEnd from "./ArchivedEnd.ts"
import { moved, type Moved } from "./ArchivedEnd.ts"
import * as ArchiveFile from "./ArchiveFile.ts"
import { inBatches } from "./Batches.ts"
import { type ArchiveError, EventArchive } from "./EventArchive.ts"
import * as EventLines from "./EventLines.ts"
import { eventDecoder } from "./EventRow.ts"
import * as TagTable from "./TagTable.ts"

const checksumOf = (lines: ReadonlyArray<string>): string =>
  createHash("sha256").update(lines.join("\n")).digest("base64")

/** How many events are kept at a time that are given from the last one on. */
const mostKept = 10_000

/** A part of the log that is archived: the versions from the first one up to the end, which is not in it. */
const Part = Schema.Struct({
  first: Schema.BigInt,
  end: Schema.BigInt,
  name: Schema.String,
  events: NumberFromBigInt,
  sha256: Schema.String,
  lastCreatedAt: Schema.NullOr(Schema.Date)
})

export type Part = typeof Part.Type

/** An event as its line has it: its JSON is text. */
export type ArchivedRow = typeof EventLines.Row.Type

const Needed = Schema.Struct({ needed: Schema.Boolean })

const Dropped = Schema.Struct({ version: Schema.BigInt })

/** The events of some lines that a filter describes, and the version and the id of the last line. */
export interface Step {
  readonly events: ReadonlyArray<StoredEvent>
  readonly last: { readonly version: bigint; readonly id: string }
}

/** A part of the log that is read from its end on. */
interface Backward {
  readonly after: bigint
  readonly last: bigint
  /** How many events are wanted at most. */
  readonly limit: number
}

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const archive = yield* Effect.serviceOption(EventArchive)
  const { integers, names, query, schema, sql, tables } = database
  const { between } = yield* TagTable.make
  const table = qualify(schema, names.events)
  const { archived, archives } = ArchivedEnd.make(database)
  const tagTable = TagTable.tableOf(database)
  const decodeParts = decodeRows(Part, `${names.events}_archives`, ["first"])
  const decodeNeeded = decodeRows(Needed, names.events, [])
  const decodeDropped = decodeRows(Dropped, names.events, ["version"])
  const decode = eventDecoder(names.events, integers)

  // Files

  const partWhere = (condition: Fragment, direction: "ASC" | "DESC") =>
    Effect.map(
      Effect.flatMap(
        query(sql`
          SELECT first_version AS first, end_version AS end, name, events, sha256, last_created_at AS "lastCreatedAt"
          FROM ${archives} WHERE ${condition} ORDER BY first_version ${sql.literal(direction)} LIMIT 1`),
        decodeParts
      ),
      ([part]) => part
    )

  /** The part that has the next version after this one, or the first above it. */
  const partAfter = (version: bigint) => partWhere(sql`end_version > ${version + 1n}`, "ASC")

  const within = ({ end, first, name }: Part) =>
    `versions ${first} to ${end - 1n} of ${table} are archived in the file ${name}`

  const unreadable = (part: Part, error: ArchiveError): Reason => {
    const message = `${within(part)}, which cannot be read: ${error.message}`
    if (error.reason === "Failed") return new Unavailable({ message, cause: error })
    const remedy = error.reason === "Missing" ? "; bring it back from a copy" : ""
    return new Unexpected({ message: `${message}${remedy}`, cause: error })
  }

  const withoutArchive = (part: Part) =>
    new Unexpected({
      message:
        `${within(part)}, and this program has no archive: provide Postgres.EventArchive.layerDirectory to its layer, ` +
        "or run strata restore"
    })

  const pagesOf = (files: EventArchive["Service"], part: Part) =>
    inBatches(ArchiveFile.linesOf(files, part), (line) => line.length)

  /**
   * The checksums of the pages of each file that this process has read to its end. So each page can be checked by itself later on:
   * most readers do not come to the end of a file. One file is read at a time.
   */
  const verified = new Map<string, ReadonlyArray<string>>()
  const verifying = yield* Semaphore.make(1)

  const verify = (files: EventArchive["Service"], part: Part): Effect.Effect<ReadonlyArray<string>, ArchiveError> =>
    Semaphore.withPermit(
      verifying,
      Effect.suspend(() => {
        const key = `${part.sha256} ${part.name}`
        const known = verified.get(key)
        return known !== undefined
          ? Effect.succeed(known)
          : Effect.tap(Stream.runCollect(Stream.map(pagesOf(files, part), checksumOf)), (checksums) =>
              Effect.sync(() => void verified.set(key, checksums))
            )
      })
    )

  /** The rows of a part above a version, in pages. */
  const rowsAfter = (part: Part, after: bigint): Stream.Stream<ReadonlyArray<ArchivedRow>, Reason | Moved> => {
    if (Option.isNone(archive)) return Stream.fail(withoutArchive(part))
    const files = archive.value
    const rowsOf = (lines: ReadonlyArray<string>, checksum: string | undefined) =>
      Effect.suspend(() => {
        const found: Array<ArchivedRow> = []
        if (checksumOf(lines) !== checksum) {
          return Effect.fail(ArchiveFile.damaged(part.name, "has changed since it was read before"))
        }
        if (EventLines.versionOfLine(lines.at(-1) ?? "") <= after) return Effect.succeed(found)
        for (const line of lines) {
          if (EventLines.versionOfLine(line) <= after) continue
          const row = EventLines.rowOf(line)
          if (row === undefined) return Effect.fail(ArchiveFile.damaged(part.name, "has a line that is no event"))
          found.push(row)
        }
        return Effect.succeed(found)
      })
    const rows = Effect.map(verify(files, part), (checksums) =>
      Stream.mapEffect(Stream.zipWithIndex(pagesOf(files, part)), ([lines, page]) => rowsOf(lines, checksums[page]))
    )
    return Stream.catch(Stream.unwrap(rows), (error) =>
      // Where the part was restored meanwhile, its file may be gone.
      Stream.unwrap(
        Effect.map(partAfter(part.end - 2n), (now) =>
          Stream.fail(now?.name === part.name ? unreadable(part, error) : moved)
        )
      )
    )
  }

  /** The event of a row, for the decoder of the rows of the table. */
  const forDecoder = (row: ArchivedRow) => ({
    ...row,
    createdAt: EventLines.timeOf(row.createdAtText)
  })

  const eventOf = (row: ArchivedRow): Effect.Effect<StoredEvent, Reason | Moved> => {
    const { corrupt, events } = decode([forDecoder(row)])
    const [event] = events
    return event === undefined ? Effect.fail(corrupt ?? moved) : Effect.succeed(event)
  }

  // Filters

  /** Whether a part may have an event that the filter describes: what tables say of aggregates, tags and times. */
  const isNeeded = (
    filter: Filter,
    { end, first, lastCreatedAt }: Part,
    after: bigint
  ): Effect.Effect<boolean, Reason> => {
    const { aggregateIds, createdAfter, items, tags = [] } = filter
    if (
      createdAfter !== undefined &&
      lastCreatedAt !== null &&
      lastCreatedAt.getTime() <= createdAfter.epochMilliseconds
    ) {
      return Effect.succeed(false)
    }
    const hasTags = (wanted: ReadonlyArray<string>) =>
      sql`EXISTS (SELECT FROM ${tagTable} WHERE tag = ANY(${wanted}::text[]) AND version > ${after} AND version < ${end})`
    const conditions = [
      ...(aggregateIds === undefined
        ? []
        : [
            sql`EXISTS (
              SELECT FROM ${archived} WHERE aggregate_id = ANY(${aggregateIds}::text[])
                AND version >= ${first} AND version > ${after} AND first_version < ${end}
            )`
          ]),
      ...(tags[0] === undefined ? [] : [hasTags([tags[0]])]),
      ...(items === undefined || items.some(({ tags = [] }) => tags.length === 0)
        ? []
        : [hasTags(items.flatMap(({ tags = [] }) => tags.slice(0, 1)))])
    ]
    return conditions.length === 0
      ? Effect.succeed(true)
      : Effect.map(
          Effect.flatMap(query(sql`SELECT ${sql.and(conditions)} AS needed`), decodeNeeded),
          ([found]) => found?.needed === true
        )
  }

  /** The events of a page that the filter describes. What it says of an event's aggregate and type is looked at before the rest. */
  const matching = Effect.fnUntraced(function* (filter: Filter, rows: ReadonlyArray<ArchivedRow>) {
    const { aggregateIds, eventTypes } = filter
    const candidates = rows.filter(
      ({ aggregateId, eventType }) =>
        (aggregateIds === undefined || aggregateIds.includes(aggregateId)) &&
        (eventTypes === undefined || eventTypes.includes(eventType))
    )
    const [lowest] = candidates
    const highest = candidates.at(-1)
    if (lowest === undefined || highest === undefined) return []
    const wanted = tagsIn(filter)
    const tagsOf = wanted.size === 0 ? undefined : yield* between(wanted, lowest.version - 1n, highest.version)
    const events: Array<StoredEvent> = []
    for (const row of candidates) {
      const event = yield* eventOf(row)
      if (matches(filter, event, tagsOf?.(row.version))) events.push(event)
    }
    return events
  })

  /** The events of a part that a filter describes, above a version and up to another one. There is a step for each page of lines. */
  const steps = (part: Part, filter: Filter, after: bigint, last: bigint): Stream.Stream<Step, Reason | Moved> =>
    Stream.unwrap(
      Effect.map(isNeeded(filter, part, after), (needed) =>
        needed
          ? rowsAfter(part, after).pipe(
              Stream.map((rows) => ({
                rows: (rows.at(-1)?.version ?? 0n) > last ? rows.filter(({ version }) => version <= last) : rows,
                isLast: (rows.at(-1)?.version ?? 0n) >= last
              })),
              Stream.takeUntil(({ isLast }) => isLast),
              Stream.mapEffect(({ rows }) => {
                const end = rows.at(-1)
                return end === undefined
                  ? Effect.succeed([])
                  : Effect.map(matching(filter, rows), (events): ReadonlyArray<Step> => [{ events, last: end }])
              }),
              Stream.flattenIterable
            )
          : Stream.empty
      )
    )

  /**
   * All parts that have versions above one, in their order, up to another one. Each is looked up once the one before was read. Between
   * two of them there may be a partition that somebody has dropped.
   */
  const partsUpTo = (after: bigint, last: bigint): Stream.Stream<Part, Reason | Moved> =>
    Stream.paginate(after, (version) =>
      version >= last
        ? Effect.succeed([[], Option.none<bigint>()] as const)
        : Effect.flatMap(partAfter(version), (part) =>
            part === undefined
              ? Effect.fail(moved)
              : Effect.succeed([part.first > last ? [] : [part], Option.some(part.end - 1n)] as const)
          )
    )

  /** All archived events above a version, up to another one, that the filter describes. */
  const collect = (filter: Filter, after: bigint, last: bigint): Effect.Effect<Array<StoredEvent>, Reason | Moved> =>
    Effect.map(
      Stream.runCollect(Stream.flatMap(partsUpTo(after, last), (part) => steps(part, filter, after, last))),
      (found) => found.flatMap(({ events }) => events)
    )

  /** The last events of a part that the filter describes, at most so many. */
  const lastOf = Effect.fnUntraced(function* (part: Part, filter: Filter, { after, last, limit }: Backward) {
    const most = Math.min(limit, mostKept)
    const kept: Array<StoredEvent> = []
    let isCut = false
    yield* Stream.runForEach(steps(part, filter, after, last), ({ events }) =>
      Effect.sync(() => {
        kept.push(...events)
        if (kept.length <= most) return
        kept.splice(0, kept.length - most)
        isCut = true
      })
    )
    return { events: kept.toReversed(), isCut }
  })

  return {
    partAfter,
    partsUpTo,
    rowsAfter,
    eventOf,
    steps,
    collect,

    /**
     * The last archived events that the filter describes, from the last one on, or of the last part of the range if that has any, and
     * the last version that is left to look at. It is that of the range where the part with that version was restored meanwhile.
     */
    backward: (
      filter: Filter,
      range: Backward
    ): Effect.Effect<{ readonly events: ReadonlyArray<StoredEvent>; readonly rest: bigint }, Reason> =>
      Effect.gen(function* () {
        const { after, last } = range
        // Above the last part everything is in the table.
        const isArchived = sql`${last} < (SELECT max(end_version) FROM ${archives})`
        const part = yield* partWhere(sql`first_version <= ${last} AND ${isArchived}`, "DESC")
        if (part === undefined) {
          const lowest = yield* partAfter(-1n)
          // Somebody has dropped what was below.
          return { events: [], rest: lowest !== undefined && lowest.first > last ? after : last }
        }
        const { events, isCut } = yield* lastOf(part, filter, range)
        return { events, rest: (isCut ? (events.at(-1)?.version ?? part.first) : part.first) - 1n }
      }).pipe(Effect.catchTag("Moved", () => Effect.succeed({ events: [], rest: range.last }))),

    /** The first of these versions that neither the table nor a file has: somebody has dropped its partition. */
    dropped: (versions: ReadonlyArray<bigint>): Effect.Effect<bigint | undefined, Reason> =>
      Effect.map(
        Effect.flatMap(
          query(sql`
            SELECT version FROM pg_catalog.unnest(${versions.map(String)}::text[]::bigint[]) AS asked (version)
            WHERE NOT EXISTS (SELECT FROM ${tables.events} AS event WHERE event.version = asked.version)
              AND NOT EXISTS (SELECT FROM ${archives} WHERE first_version <= asked.version AND end_version > asked.version)
            ORDER BY 1 LIMIT 1`),
          decodeDropped
        ),
        ([row]) => row?.version
      ),

    /** The archived events with these versions, as their files have them. There is none where somebody has dropped its partition. */
    at: Effect.fnUntraced(function* (
      versions: ReadonlyArray<bigint>
    ): Effect.fn.Return<ReadonlyArray<ArchivedRow>, Reason | Moved> {
      const found: Array<ArchivedRow> = []
      let rest = [...new Set(versions)].sort((one, other) => (one < other ? -1 : 1))
      while (rest[0] !== undefined) {
        const [first] = rest
        const part = yield* partAfter(first - 1n)
        if (part === undefined) return yield* Effect.fail(moved)
        const wanted = new Set(rest.filter((version) => version >= part.first && version < part.end))
        rest = rest.filter((version) => version >= part.end)
        if (wanted.size === 0) continue
        yield* rowsAfter(part, first - 1n).pipe(
          Stream.takeUntil((rows) => {
            for (const row of rows) if (wanted.delete(row.version)) found.push(row)
            return wanted.size === 0
          }),
          Stream.runDrain
        )
      }
      return found
    })
  }
})

export type ArchivedEvents = Effect.Success<typeof make>
