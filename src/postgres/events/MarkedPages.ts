/**
 * Pages up to the mark that the primary has published, on a standby or any other server of the log. The mark and the page are
 * read by one statement: of two, the second one could meet another standby of the pool, which has not replayed what the mark
 * promises, or a log that was replaced in between.
 */
import { Effect, Option, Schema } from "effect"
import type { Fragment } from "effect/sql/Statement"
import type { Filter } from "../../Event.ts"
import { realMillis } from "../../internal/RealTime.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as ArchivedEnd from "./ArchivedEnd.ts"
import * as ArchiveTable from "./ArchiveTable.ts"
import * as CompactLog from "./CompactLog.ts"
import * as EventPages from "./EventPages.ts"
import * as EventTable from "./EventTable.ts"
import * as LockHolders from "./LockHolders.ts"
import * as MarkTable from "./MarkTable.ts"
import type * as PageRange from "./PageRange.ts"
import * as Partitions from "./Partitions.ts"

/** What the first row says. The others are those of the page. */
const Header = Schema.Struct({
  /** Null if there is no mark, or one below what the reader needs. */
  mark: Schema.NullOr(Schema.BigInt),
  server: Schema.NullOr(Schema.String),
  upTo: Schema.NullOr(Schema.BigInt),
  upToId: Schema.NullOr(Schema.String),
  cursorId: Schema.NullOr(Schema.String),
  compared: Schema.Array(Schema.String),
  partitioned: Schema.Boolean,
  archivedEnd: Schema.NullOr(Schema.BigInt)
})

/** What the first row of a page of committed events says. */
const Replayed = Schema.Struct({
  /** Whether the server has replayed the version that is needed. */
  replayed: Schema.Boolean,
  /** Null on a standby that has no mark. */
  server: Schema.NullOr(Schema.String),
  mark: Schema.BigInt,
  partitioned: Schema.Boolean,
  archivedEnd: Schema.NullOr(Schema.BigInt),
  /** Whether there are events of this kind that are archived. */
  archived: Schema.Boolean
})

export interface MarkedPage {
  readonly mark: bigint
  /** The server that has settled it. */
  readonly server: string
  /** How far the page has looked: to the mark, or to the end of a part of the log. */
  readonly upTo: bigint
  readonly upToId: string | undefined
  /** The id of the event at the cursor. */
  readonly cursorId: string | undefined
  /** The ids of the events at the versions that were to be compared. */
  readonly ids: ReadonlyMap<bigint, string>
  readonly rows: ReadonlyArray<unknown>
  /** The version below which the log is archived. */
  readonly archivedEnd: bigint
}

/** Committed events, whether they are settled or not. */
export interface CommittedPage {
  /** The server whose log this is: of a standby the one that has settled its mark, else the server that was read. */
  readonly server: string
  readonly mark: bigint
  readonly rows: ReadonlyArray<unknown>
  /** The version below which the log is archived, and whether the answer lacks events of that part. */
  readonly archivedEnd: bigint
  readonly lacksArchived: boolean
}

/** What one statement has found, if anything, and whether the log has partitions. */
interface Looked<A> {
  readonly hasPartitions: boolean
  readonly found: Option.Option<A>
}

export interface Asked {
  readonly after: bigint
  readonly limit: number
  /** The lowest mark that is of use to the reader. */
  readonly needed: bigint
  /** How many versions the page looks through at most. */
  readonly part: number | undefined
  /** The versions whose events are to be compared with what was seen. */
  readonly compared: ReadonlyArray<bigint>
  /** The ids of events that were seen, and may be archived by now: those that are to be compared, and that of the cursor. */
  readonly ids: ReadonlyArray<string>
}

const orUndefined = <A>(value: A | null): A | undefined => value ?? undefined

/** The versions and ids of texts such as `12 the-id`. */
const idsOf = (texts: ReadonlyArray<string>): ReadonlyMap<bigint, string> =>
  new Map(
    texts.map((text) => {
      const space = text.indexOf(" ")
      return [BigInt(text.slice(0, space)), text.slice(space + 1)]
    })
  )

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { names, query, sql, tables } = database
  const { columns, findsContained, ofAggregate, page } = yield* EventPages.make
  const { isPartitioned, isPartitionedNow, learn } = yield* Partitions.make
  const isCompact = CompactLog.isCompact(database)
  const archived = ArchivedEnd.make(database)
  const events = tables.events
  const current = MarkTable.current(database)
  const nothingLacks = sql.literal("false")
  const decodeHeader = decodeRows(Header, MarkTable.nameOf(database), [])
  const decodeReplayed = decodeRows(Replayed, names.events, [])
  const serverColumns = sql.literal(LockHolders.serverColumns(database))

  const endOfPart = (after: bigint, part: number) => sql`(
    SELECT version FROM ${events} WHERE version > ${after} AND version <= mark.version
    ORDER BY version OFFSET ${part - 1} LIMIT 1)`

  const idAt = (version: bigint | Fragment) => EventTable.idAt(database, version)

  /**
   * Reads with what the process knows of the log: that it has partitions, or had none lately. Where the log has got some since,
   * reads once more. Without partitions nothing is archived.
   */
  const knowing = <A>(
    read: (partitioned: boolean) => Effect.Effect<Looked<A>, Reason>
  ): Effect.Effect<Option.Option<A>, Reason> =>
    Effect.gen(function* () {
      const before = yield* isPartitioned
      const askedMillis = yield* realMillis
      const { found, hasPartitions } = yield* read(before)
      if (before || !hasPartitions) return found
      learn(true, askedMillis)
      return (yield* read(true)).found
    })

  const archivedEnd = (partitioned: boolean) => (partitioned ? archived.end : sql.literal("0::bigint"))

  /** The events at versions, or with these ids among what is archived. */
  const seenEvents = (versions: ReadonlyArray<bigint>, ids: ReadonlyArray<string>, kind: "plain" | "text" | "uuid") => {
    const atVersions = sql`
      SELECT version, id FROM ${events} WHERE version = ANY(${versions.map(String)}::text[]::bigint[])`
    return kind === "plain" || ids.length === 0
      ? atVersions
      : sql`${atVersions} UNION ALL ${archived.withIds(ids, kind === "uuid")}`
  }

  const readWith = Effect.fnUntraced(function* (
    filter: Filter,
    { after, compared, ids, limit, needed, part }: Asked,
    partitioned: boolean
  ): Effect.fn.Return<Looked<MarkedPage>, Reason> {
    const kind = partitioned ? ((yield* isCompact) ? "uuid" : "text") : "plain"
    const isShort = part !== undefined
    const range = { after, last: sql`(SELECT "upTo" FROM log)`, direction: "ASC", limit, isShort } as const
    const upTo =
      part === undefined ? sql.literal("mark.version") : sql`coalesce(${endOfPart(after, part)}, mark.version)`
    const select = yield* page(filter, range)
    const rows = yield* query(sql`
      WITH log AS MATERIALIZED (
        SELECT mark.version AS mark, mark.server, ${upTo} AS "upTo"
        FROM (SELECT) AS one LEFT JOIN (${current}) AS mark ON mark.version >= ${needed}
      )
      SELECT header.*, page.*
      FROM (
        SELECT mark, server, "upTo", ${idAt(sql.literal('log."upTo"'))} AS "upToId",
          ${after === 0n ? sql.literal("NULL::text") : idAt(after)} AS "cursorId",
          ARRAY(
            SELECT version::text || ' '::text || id::text FROM (${seenEvents(compared, ids, kind)}) AS seen
          ) AS compared, ${isPartitionedNow} AS partitioned, ${archivedEnd(partitioned)} AS "archivedEnd"
        FROM log
      ) AS header
      FULL JOIN (${select("all")}) AS page ON false
      ORDER BY page.version NULLS FIRST`)
    const [header] = yield* decodeHeader(rows.slice(0, 1))
    const hasPartitions = header?.partitioned === true
    if (header === undefined || header.mark === null || header.server === null || header.upTo === null) {
      return { hasPartitions, found: Option.none() }
    }
    if (header.archivedEnd === null) return yield* archived.oldSnapshot
    const found = idsOf(header.compared)
    const marked: MarkedPage = {
      mark: header.mark,
      server: header.server,
      upTo: header.upTo,
      upToId: orUndefined(header.upToId),
      cursorId: header.cursorId ?? found.get(after),
      ids: found,
      rows: rows.slice(1),
      archivedEnd: header.archivedEnd
    }
    return { hasPartitions, found: Option.some(marked) }
  })

  /** A page, or none where the mark is lower than what is needed. */
  const read = (filter: Filter, asked: Asked): Effect.Effect<Option.Option<MarkedPage>, Reason> =>
    knowing((partitioned) => readWith(filter, asked, partitioned))

  /** Whether the server has replayed a version: its event is there, or the mark is at least as high. */
  const hasReplayed = (version: bigint) =>
    version === 0n
      ? sql.literal("true")
      : sql`((mark.version >= ${version}) IS TRUE OR EXISTS (SELECT FROM ${events} WHERE version = ${version}))`

  /**
   * Rows of a statement that has a condition, or none where the server has not replayed the version that is needed, or is a standby
   * that has no mark.
   */
  const committedWith = Effect.fnUntraced(function* (
    needed: bigint,
    statement: (condition: Fragment) => Effect.Effect<Fragment, Reason>,
    direction: "ASC" | "DESC",
    lacksArchived: Fragment,
    partitioned: boolean
  ): Effect.fn.Return<Looked<CommittedPage>, Reason> {
    const condition = sql.literal("(SELECT replayed FROM log)")
    const rows = yield* query(sql`
      WITH log AS MATERIALIZED (
        SELECT ${hasReplayed(needed)} AS replayed, coalesce(mark.version, 0::bigint) AS mark,
          CASE WHEN here.standby THEN mark.server ELSE here.server END AS server, ${isPartitionedNow} AS partitioned,
          ${archivedEnd(partitioned)} AS "archivedEnd", ${lacksArchived} AS archived
        FROM (SELECT ${serverColumns}) AS here LEFT JOIN (${current}) AS mark ON true
      )
      SELECT log.*, page.* FROM log FULL JOIN (${yield* statement(condition)}) AS page ON false
      ORDER BY page.version ${sql.literal(direction)} NULLS FIRST`)
    const [header] = yield* decodeReplayed(rows.slice(0, 1))
    const hasPartitions = header?.partitioned === true
    if (header?.replayed !== true || header.server === null) return { hasPartitions, found: Option.none() }
    if (header.archivedEnd === null) return yield* archived.oldSnapshot
    const replayed: CommittedPage = {
      server: header.server,
      mark: header.mark,
      rows: rows.slice(1),
      archivedEnd: header.archivedEnd,
      lacksArchived: header.archived
    }
    return { hasPartitions, found: Option.some(replayed) }
  })

  return {
    read,
    findsContained,

    /** A page of committed events from the last version on. */
    descending: (filter: Filter, range: Omit<PageRange.Range, "direction" | "guard">, needed: bigint) =>
      knowing((partitioned) =>
        committedWith(
          needed,
          (guard) => Effect.map(page(filter, { ...range, direction: "DESC", guard }), (select) => select("all")),
          "DESC",
          nothingLacks,
          partitioned
        )
      ),

    /** The committed events of one aggregate above a version. */
    byAggregate: (aggregateId: string, since: bigint, needed: bigint) =>
      knowing((partitioned) =>
        committedWith(
          needed,
          (condition) =>
            Effect.succeed(sql`
              SELECT ${columns.sent} FROM (
                SELECT ${columns.read} FROM ${events} WHERE ${sql.and(ofAggregate(aggregateId, since))} AND ${condition}
                ORDER BY version OFFSET 0
              ) AS page ORDER BY version`),
          "ASC",
          partitioned
            ? sql`EXISTS (
                SELECT FROM ${ArchiveTable.tablesOf(database).archived} WHERE aggregate_id = ${aggregateId} AND version > ${since}
                  AND first_version < ${archived.end}
              )`
            : nothingLacks,
          partitioned
        )
      )
  }
})
