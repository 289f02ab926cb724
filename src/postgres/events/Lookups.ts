/** How one event is found by its id, and all events of one aggregate, in the table and among what is archived. */
import { Effect } from "effect"
import type { Fragment } from "effect/sql/Statement"
import type { AggregateSince, StoredEvent } from "../../Event.ts"
import { isUuid } from "../../internal/Ids.ts"
import type { Reason } from "../../StoreError.ts"
import type { PostgresDatabase, Runnable } from "../database/PostgresDatabase.ts"
import * as ArchivedEnd from "./ArchivedEnd.ts"
import type { ArchivedEvents } from "./ArchivedEvents.ts"
import * as ArchiveTable from "./ArchiveTable.ts"
import * as CompactLog from "./CompactLog.ts"
import type { EventPages } from "./EventPages.ts"
import type { eventDecoder } from "./EventRow.ts"
import { readPage } from "./LongTexts.ts"
import type { Partitions } from "./Partitions.ts"

/** What the reader of the log has. */
interface Log {
  readonly archive: ArchivedEvents
  readonly decode: ReturnType<typeof eventDecoder>
  readonly pages: EventPages
  readonly readLog: Partitions["read"]
}

export const make = (database: PostgresDatabase["Service"], { archive, decode, pages, readLog }: Log) => {
  const { fixed, query, sql, tables } = database
  const { columns, ofAggregate, selectAll } = pages
  const bits = sql.literal(String(CompactLog.blockBits.aggregate_id))
  const isCompact = CompactLog.isCompact(database)
  const { end, ids, split } = ArchivedEnd.make(database)
  const { archived } = ArchiveTable.tablesOf(database)

  const decodeAll = (rows: ReadonlyArray<unknown>): Effect.Effect<Array<StoredEvent>, Reason> => {
    const { corrupt, events } = decode(rows)
    return corrupt === undefined ? Effect.succeed(events) : Effect.fail(corrupt)
  }

  /** The events of a statement that is the same each time. The filters describe the same events. */
  const eventsOf = (
    statement: Runnable,
    ...filters: ReadonlyArray<Fragment>
  ): Effect.Effect<Array<StoredEvent>, Reason> =>
    Effect.flatMap(
      readPage(query, (part) => (part === "all" ? statement : selectAll(filters)(part))),
      decodeAll
    )

  /**
   * The events of a log with partitions that a filter describes, with a version that tells of archived ones among them. `filters`
   * describe those that are in the table.
   */
  const eventsWith = (version: Fragment, filters: ReadonlyArray<Fragment>) =>
    Effect.gen(function* () {
      const found = yield* readPage(
        query,
        (part) => sql`
          SELECT log.*, page.* FROM (SELECT ${end} AS "archivedEnd", ${version} AS "archivedVersion") AS log
          LEFT JOIN (${selectAll(filters)(part)}) AS page ON true ORDER BY page.version`
      )
      const { end: archivedEnd, rows } = yield* split(found)
      const events = yield* decodeAll(rows)
      return { archivedEnd, events, archivedVersion: ArchivedEnd.versionIn(found[0], "archivedVersion") ?? 0n }
    })

  /** The events of one aggregate of a log with partitions: those that are archived, and then those of the table. */
  const allByAggregate = ({ aggregateId, since }: AggregateSince): Effect.Effect<Array<StoredEvent>, Reason> =>
    ArchivedEnd.again(
      Effect.gen(function* () {
        const last = sql`(SELECT version FROM ${archived} WHERE aggregate_id = ${aggregateId})`
        const filters = ofAggregate(aggregateId, since)
        const { archivedEnd, archivedVersion, events } = yield* eventsWith(last, filters)
        const upTo = archivedVersion < archivedEnd ? archivedVersion : archivedEnd - 1n
        if (upTo <= since) return events
        return [...(yield* archive.collect({ aggregateIds: [aggregateId] }, since, upTo)), ...events]
      })
    )

  /** The event of a log with partitions that has the id, if there is one. */
  const oneById = (id: string): Effect.Effect<Array<StoredEvent>, Reason> =>
    ArchivedEnd.again(
      Effect.gen(function* () {
        const place = sql`(SELECT version FROM ${ids} WHERE id = ${id})`
        const { archivedEnd, archivedVersion, events } = yield* eventsWith(place, [sql`version = ${place}`])
        if (events.length > 0 || archivedVersion === 0n || archivedVersion >= archivedEnd) return events
        return yield* Effect.flatMap(archive.at([archivedVersion]), Effect.forEach(archive.eventOf))
      })
    )

  /** The event with an id. The parameter has the type of the column. */
  const withId = (id: string): Effect.Effect<Array<StoredEvent>, Reason> =>
    readLog({
      ofPlainTable: () =>
        eventsOf(
          fixed`
            SELECT ${columns.sent} FROM (SELECT ${columns.read} FROM ${tables.events} WHERE id = ${id} OFFSET 0) AS page`,
          sql`id = ${id}`
        ),
      ofPartitions: () => oneById(id)
    })

  return {
    byAggregate: (asked: AggregateSince) =>
      readLog({
        ofPlainTable: () =>
          eventsOf(
            fixed`
              SELECT ${columns.sent} FROM (
                SELECT ${columns.read} FROM ${tables.events} WHERE aggregate_id = ${asked.aggregateId} AND version > ${asked.since}
                  AND version >> ${bits} >= ${asked.since}::bigint >> ${bits}
                ORDER BY version OFFSET 0
              ) AS page ORDER BY version`,
            ...ofAggregate(asked.aggregateId, asked.since)
          ),
        ofPartitions: () => allByAggregate(asked)
      }),

    /** A compact log has no other ids than UUIDs, and the server takes no other text for one. */
    byId: (id: string) =>
      isUuid(id) ? withId(id) : Effect.flatMap(isCompact, (compact) => (compact ? Effect.succeed([]) : withId(id)))
  }
}
