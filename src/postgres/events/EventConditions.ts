/** What filters and queries say of the aggregate, the types and the tags of an event, as conditions of a statement. */
import type { Fragment } from "effect/sql/Statement"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as TagTable from "./TagTable.ts"

export const make = (database: PostgresDatabase["Service"]) => {
  const { sql, tables } = database
  const tagTable = TagTable.tableOf(database)

  // The index has the events of one aggregate in order, so `=` finds them by it. For several the whole log may be walked.
  const among = (aggregateIds: ReadonlyArray<string>) =>
    aggregateIds.length === 1
      ? sql`aggregate_id = ${aggregateIds[0]}`
      : sql`aggregate_id = ANY(${aggregateIds}::text[])`

  const ofTypes = (eventTypes: ReadonlyArray<string> | undefined): ReadonlyArray<Fragment> =>
    eventTypes === undefined ? [] : [sql`event_type = ANY(${eventTypes}::text[])`]

  /** Whether the event with a version has the tag. */
  const hasTag = (tag: string, version: string) =>
    sql`EXISTS (
      SELECT FROM ${tagTable} AS other WHERE other.tag = ${tag}::text AND other.version = ${sql.literal(version)} OFFSET 0
    )`

  /** Whether the event of a tag has one of the types. Rows from before the table of tags had types have none: see `0064`. */
  const isOfTypes = (eventTypes: Fragment) => sql`(
    tagged.event_type = ANY(${eventTypes}) OR tagged.event_type IS NULL AND EXISTS (
      SELECT FROM ${tables.events} AS event
      WHERE event.version = tagged.version AND event.event_type = ANY(${eventTypes}) OFFSET 0
    ))`

  return { among, ofTypes, hasTag, isOfTypes }
}
