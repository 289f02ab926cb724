/**
 * The archived part of the log: all versions below one, in files that `EventArchive` has. `ArchiveTable` has the
 * tables that say so.
 */
import { Effect, Option, Schema, Stream } from "effect"
import type { Filter, StoredEvent } from "../../Event.ts"
import { matches, tagsIn } from "../../events/EventFilter.ts"
import { type Reason, Unavailable, Unexpected } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { moved, type Moved } from "./ArchivedEnd.ts"
import * as ArchivedPages from "./ArchivedPages.ts"
import type { ArchivedRow } from "./ArchivedPages.ts"
import * as ArchiveTable from "./ArchiveTable.ts"
import type { Part } from "./ArchiveTable.ts"
import { type ArchiveError, EventArchive } from "./EventArchive.ts"
import * as EventLines from "./EventLines.ts"
import { eventDecoder } from "./EventRow.ts"
import * as TagTable from "./TagTable.ts"

/** How many events of a part are in memory at a time where they are read from the last one on. */
const mostKept = 10_000

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
  const { archived, archives } = ArchiveTable.tablesOf(database)
  const tagTable = TagTable.tableOf(database)
  const decodeNeeded = decodeRows(Needed, names.events, [])
  const decodeDropped = decodeRows(Dropped, names.events, ["version"])
  const decode = eventDecoder(names.events, integers)

  /** The part that has the next version after this one, or the first above it. */
  const partAfter = (version: bigint) => ArchiveTable.find(database, sql`end_version > ${version + 1n}`, "oldest")

  const within = ({ endVersion, firstVersion, name }: Part) =>
    `versions ${firstVersion} to ${endVersion - 1n} of ${table} are archived in the file ${name}`

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

  /** The rows of a part above a version, in pages. */
  const rowsAfter = (part: Part, after: bigint): Stream.Stream<ReadonlyArray<ArchivedRow>, Reason | Moved> =>
    Option.isNone(archive)
      ? Stream.fail(withoutArchive(part))
      : Stream.catch(ArchivedPages.rowsAfter(archive.value, part, after), (error) =>
          // Where the part was restored meanwhile, its file may be gone.
          Stream.unwrap(
            Effect.map(partAfter(part.endVersion - 2n), (now) =>
              Stream.fail(now?.name === part.name ? unreadable(part, error) : moved)
            )
          )
        )

  const eventOf = (row: ArchivedRow): Effect.Effect<StoredEvent, Reason | Moved> => {
    const { corrupt, events } = decode([{ ...row, createdAt: EventLines.timeOf(row.createdAtText) }])
    const [event] = events
    return event === undefined ? Effect.fail(corrupt ?? moved) : Effect.succeed(event)
  }

  /** Whether a part may have an event that the filter describes: what tables say of aggregates, tags and times. */
  const isNeeded = (
    filter: Filter,
    { endVersion, firstVersion, lastCreatedAt }: Part,
    after: bigint
  ): Effect.Effect<boolean, Reason> => {
    const { aggregateIds, createdAfter, items, tags = [] } = filter
    if (
      createdAfter !== undefined &&
      lastCreatedAt !== null &&
      lastCreatedAt.epochMilliseconds <= createdAfter.epochMilliseconds
    ) {
      return Effect.succeed(false)
    }
    const hasTags = (wanted: ReadonlyArray<string>) =>
      sql`EXISTS (SELECT FROM ${tagTable} WHERE tag = ANY(${wanted}::text[]) AND version > ${after} AND version < ${endVersion})`
    const conditions = [
      ...(aggregateIds === undefined
        ? []
        : [
            sql`EXISTS (
              SELECT FROM ${archived} WHERE aggregate_id = ANY(${aggregateIds}::text[])
                AND version >= ${firstVersion} AND version > ${after} AND first_version < ${endVersion}
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
   * All parts that have versions above one, in their order, up to another one. Each is looked up once the one before was read.
   * Between two of them there may be a partition that somebody has dropped.
   */
  const partsUpTo = (after: bigint, last: bigint): Stream.Stream<Part, Reason | Moved> =>
    Stream.paginate(after, (version) =>
      version >= last
        ? Effect.succeed([[], Option.none<bigint>()] as const)
        : Effect.flatMap(partAfter(version), (part) =>
            part === undefined
              ? Effect.fail(moved)
              : Effect.succeed([part.firstVersion > last ? [] : [part], Option.some(part.endVersion - 1n)] as const)
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
     * The last archived events that the filter describes, from the last one on, or of the last part of the range if that has any,
     * and the last version that is left to look at. It is that of the range where the part with that version was restored
     * meanwhile.
     */
    backward: (
      filter: Filter,
      range: Backward
    ): Effect.Effect<{ readonly events: ReadonlyArray<StoredEvent>; readonly rest: bigint }, Reason> =>
      Effect.gen(function* () {
        const { after, last } = range
        // Above the last part everything is in the table.
        const isArchived = sql`${last} < (SELECT max(end_version) FROM ${archives})`
        const part = yield* ArchiveTable.find(database, sql`first_version <= ${last} AND ${isArchived}`, "newest")
        if (part === undefined) {
          const lowest = yield* partAfter(-1n)
          // Somebody has dropped what was below.
          return { events: [], rest: lowest !== undefined && lowest.firstVersion > last ? after : last }
        }
        const { events, isCut } = yield* lastOf(part, filter, range)
        return { events, rest: (isCut ? (events.at(-1)?.version ?? part.firstVersion) : part.firstVersion) - 1n }
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

    /**
     * The archived events with these versions, as their files have them. There is none where somebody has dropped its
     * partition.
     */
    at: Effect.fnUntraced(function* (
      versions: ReadonlyArray<bigint>
    ): Effect.fn.Return<ReadonlyArray<ArchivedRow>, Reason | Moved> {
      const found: Array<ArchivedRow> = []
      let rest = [...new Set(versions)].sort((one, other) => (one < other ? -1 : 1))
      while (rest[0] !== undefined) {
        const [first] = rest
        const part = yield* partAfter(first - 1n)
        if (part === undefined) return yield* Effect.fail(moved)
        const wanted = new Set(rest.filter((version) => version >= part.firstVersion && version < part.endVersion))
        rest = rest.filter((version) => version >= part.endVersion)
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
