/** The table of tags beside that of events: a row for each tag of an event. See `resources/postgres/0034_events_tags.sql`. */
import { Effect, Schema } from "effect"
import type { Fragment } from "effect/sql/Statement"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import { PostgresDatabase, type Query } from "../database/PostgresDatabase.ts"

/** The name of the table. */
export const nameOf = ({ names }: Pick<PostgresDatabase["Service"], "names">): string => `${names.events}_tags`

/** The table, qualified and quoted. */
export const tableOf = (database: Pick<PostgresDatabase["Service"], "names" | "schema" | "sql">): Fragment =>
  database.sql.literal(qualify(database.schema, nameOf(database)))

const Row = Schema.Struct({ version: Schema.BigInt, tag: Schema.String })

const noTags: ReadonlySet<string> = new Set()

/** The tags of some versions: of all that they have, those that were asked for. */
export type TagsOf = (version: bigint) => ReadonlySet<string>

/** With more tags than these it is cheaper to read all tags of the versions. */
const mostWanted = 64

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { query, sql } = database
  const table = tableOf(database)
  const decode = decodeRows(Row, nameOf(database), ["version", "tag"])

  return {
    /** Which of the wanted tags the events above `after` up to `last` have. There may be others as well. */
    between: (
      wanted: ReadonlySet<string>,
      after: bigint,
      last: bigint,
      run: Query = query
    ): Effect.Effect<TagsOf, Reason> =>
      Effect.map(
        Effect.flatMap(
          run(
            wanted.size > mostWanted
              ? sql`
                  SELECT version, tag FROM ${table}
                  WHERE version + 0 > ${after} AND version + 0 <= ${last} AND tag <> ''`
              : sql`
                  SELECT version, tag FROM ${table}
                  WHERE tag = ANY(${[...wanted]}::text[]) AND version > ${after} AND version <= ${last}`
          ),
          decode
        ),
        (rows) => {
          const found = new Map<bigint, Set<string>>()
          for (const { tag, version } of rows) {
            const tags = found.get(version)
            if (tags === undefined) found.set(version, new Set([tag]))
            else tags.add(tag)
          }
          return (version) => found.get(version) ?? noTags
        }
      )
  }
})
