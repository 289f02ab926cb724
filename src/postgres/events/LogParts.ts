/**
 * How large the log is, and parts of it: blocks of the table that are chosen at random and stand for the whole, which are looked
 * at as quickly beside 10^8 events as beside 10^6; or all events, a part after the other.
 */
import { Effect, Schema } from "effect"
import type { Fragment } from "effect/sql/Statement"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify, reference } from "../database/Identifier.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { familyOf } from "./EventTable.ts"

/** Of a table of more blocks so many are looked at. One of fewer is looked at as a whole. */
export const manyBlocks = 1000

const Extent = Schema.Struct({
  /** How many blocks of the server the table has, with its partitions, and without its indexes. */
  blocks: Schema.Int,
  /** How many rows it has by the statistics of the server, if it has any. They are as dense in new blocks as in those before. */
  rows: Schema.NullOr(Schema.Number),
  /** Whether an index finds the events of an aggregate, of a type, and of a time. */
  hasAggregateIndex: Schema.Boolean,
  hasTypeIndex: Schema.Boolean,
  hasTimeIndex: Schema.Boolean
})

export type Extent = typeof Extent.Type

/** How large the table of events is, by what the server keeps of it. */
export const extent = Effect.gen(function* () {
  const { names, query, schema, sql } = yield* PostgresDatabase
  const table = `${reference(qualify(schema, names.events))}::regclass::oid`
  const hasIndex = (column: string) => sql`EXISTS (
    SELECT FROM pg_catalog.pg_index JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
    WHERE indrelid = ${sql.literal(table)} AND attname = ${column}::name AND indisvalid AND indpred IS NULL
  )`
  const rows = yield* query(sql`
    SELECT coalesce(sum(blocks), 0::numeric)::float8 AS blocks,
      sum(reltuples::float8 / relpages::float8 * blocks::float8) FILTER (WHERE relpages > 0 AND reltuples >= 0::real)
        * sum(blocks)::float8 / (sum(blocks) FILTER (WHERE relpages > 0 AND reltuples >= 0::real))::float8 AS rows,
      ${hasIndex("aggregate_id")} AS "hasAggregateIndex", ${hasIndex("event_type")} AS "hasTypeIndex",
      ${hasIndex("created_at")} AS "hasTimeIndex"
    FROM (
      SELECT relpages, reltuples,
        pg_catalog.pg_relation_size(oid::regclass) / current_setting('block_size')::int8 AS blocks
      FROM pg_catalog.pg_class WHERE oid IN (${sql.literal(familyOf(table))}) AND relkind = 'r'::"char"
    ) AS part`)
  const [found] = yield* decodeRows(Extent, names.events, [])(rows)
  return found ?? { blocks: 0, rows: null, hasAggregateIndex: false, hasTypeIndex: false, hasTimeIndex: false }
})

/** About so many blocks of the table, as an item of FROM. The same ones each time, until the table has grown. */
export const sample = Effect.fnUntraced(function* ({ blocks }: Extent, wantedBlocks: number) {
  const { sql, tables } = yield* PostgresDatabase
  const percent = Math.min(100, (100 * wantedBlocks) / Math.max(blocks, 1))
  return {
    percent,
    events: sql`${tables.events} AS event TABLESAMPLE pg_catalog.system (${percent}::real) REPEATABLE (0::float8)`
  }
})

/** How many events a part has at most: what looks at one takes a tenth of a second. */
const eventsPerPart = 250_000

/** What is found in a part: the last version of it, and how many events were looked at. There is one for each group of events. */
export const Found = { upTo: Schema.BigInt, looked: Schema.Int }

/** What a statement has to select for `Found`. */
export const found = `max(version) AS "upTo", count(*)::float8 AS looked`

/**
 * Looks at all events up to a version, a part at a time, which the statement finds as an item of FROM with these columns. Gives what
 * was found in all parts.
 */
export const eachPart = <A extends { readonly upTo: bigint; readonly looked: number }, E, R>(
  { columns, upTo }: { readonly columns: string; readonly upTo: bigint },
  look: (part: Fragment) => Effect.Effect<ReadonlyArray<A>, E, R>,
  advance: (count: number) => Effect.Effect<void>
) =>
  Effect.gen(function* () {
    const { sql, tables } = yield* PostgresDatabase
    const all: Array<A> = []
    let after = -1n
    while (true) {
      const groups = yield* look(sql`(
        SELECT version, ${sql.literal(columns)} FROM ${tables.events}
        WHERE version > ${after} AND version <= ${upTo} ORDER BY version LIMIT ${eventsPerPart}
      ) AS part`)
      if (groups.length === 0) return all
      all.push(...groups)
      let looked = 0
      for (const group of groups) {
        if (group.upTo > after) after = group.upTo
        looked += group.looked
      }
      yield* advance(looked)
    }
  })
