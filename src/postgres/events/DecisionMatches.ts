/**
 * The statements that read all events that match the query of a decision. They are planned once, without knowing the tags: each
 * item with tags is found by its first one, in the table of tags.
 */
import { Statement } from "effect/sql"
import type { Fragment } from "effect/sql/Statement"
import type { QueryItem } from "../../Event.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { longestBytes } from "../database/RowSize.ts"
import * as EventConditions from "./EventConditions.ts"
import { columnsOf } from "./EventRow.ts"
import * as TagTable from "./TagTable.ts"

const hasTags = ({ tags = [] }: QueryItem): boolean => tags.length > 0

const unionAll = Statement.join(" UNION ALL ", false)

export const make = (database: PostgresDatabase["Service"]) => {
  const { sql, tables } = database
  const events = tables.events
  const tagTable = TagTable.tableOf(database)
  const { hasTag, isOfTypes, ofTypes } = EventConditions.make(database)
  const { read, sent } = columnsOf(longestBytes(sql))

  /**
   * All versions that match an item with tags. There is one way to them. The planner is not told the first tag and the types:
   * if it knew them, the server would plan the statement each time, which takes as long as to read 100 events.
   */
  const versionsWith = ({ eventTypes, tags: [first = "", ...others] = [] }: QueryItem) => {
    const conditions = [
      sql`tagged.tag = (SELECT ${first}::text)`,
      ...(eventTypes === undefined ? [] : [isOfTypes(sql`(SELECT ${eventTypes}::text[])::text[]`)]),
      ...others.map((tag) => hasTag(tag, "tagged.version"))
    ]
    return sql`SELECT tagged.version FROM ${tagTable} AS tagged WHERE ${sql.and(conditions)}`
  }

  /**
   * The events with these versions. The server goes through the primary key once: 100 events take a quarter less time than with a
   * look for each, and those of a type of 800 less than half. To the planner an unknown limit is a tenth of the rows, so that the
   * order of the key looks cheaper than to read the whole table, as it might where that was small when the plan was made.
   */
  const eventsAt = (versions: Fragment) =>
    sql`(SELECT * FROM ${events} WHERE version = ANY(ARRAY(${versions})) ORDER BY version LIMIT (SELECT NULL::bigint)) AS event`

  /** All events that match an item. */
  const eventsOfItem = (item: QueryItem): Fragment =>
    hasTags(item) ? eventsAt(versionsWith(item)) : sql`${events} AS event WHERE ${sql.and(ofTypes(item.eventTypes))}`

  /** All versions that match an item, with the bit of the item. */
  const versionsOfItem = (item: QueryItem, place: number): Fragment => {
    const versions = hasTags(item) ? versionsWith(item) : sql`SELECT event.version FROM ${eventsOfItem(item)}`
    return sql`(SELECT version, ${BigInt.asIntN(64, 1n << BigInt(place))}::bigint AS item FROM (${versions}) AS matching)`
  }

  /** The versions with the tags of the items that have some, whatever their types, with the bit of each item. */
  const taggedOf = (items: ReadonlyArray<QueryItem>): Fragment | undefined => {
    const tagged = items.flatMap(({ tags = [] }, place) => (tags.length === 0 ? [] : [versionsOfItem({ tags }, place)]))
    return tagged.length === 0 ? undefined : unionAll(tagged)
  }

  /** All events that match a query, with the bits of the items that they match as `items`. */
  const matchesOf = (items: ReadonlyArray<QueryItem>): Fragment => {
    const [only, another] = items
    if (only !== undefined && another === undefined) {
      return sql`
        SELECT ${sql.literal(sent)}, 1::bigint AS items
        FROM (SELECT ${sql.literal(read)} FROM ${eventsOfItem(only)} OFFSET 0) AS page`
    }
    return sql`
      SELECT ${sql.literal(sent)}, items FROM (
        SELECT ${sql.literal(read)}, items
        FROM (
          SELECT version AS place, pg_catalog.bit_or(item) AS items
          FROM (${unionAll(items.map(versionsOfItem))}) AS matching GROUP BY version
        ) AS found
        CROSS JOIN LATERAL (SELECT * FROM ${events} WHERE version = found.place OFFSET 0) AS event
        OFFSET 0
      ) AS page`
  }

  return { matchesOf, taggedOf }
}
