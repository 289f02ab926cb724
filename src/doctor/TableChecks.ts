/** What the tables hold: dead rows, offsets beyond the log, and messages whose worker has died. */
import { Effect, Schema } from "effect"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import { code } from "../postgres/spool/MessageState.ts"
import { type Finding, type Findings, ok, orOk, problem, relations, rows, texts, warning } from "./Check.ts"

/** Below this many dead rows, a table is not worth a VACUUM. */
const fewDeadRows = 10_000

/** An index of a smaller size is not worth a REINDEX. */
const smallIndexBytes = 100_000_000

/** Indexes that take more for each row are bloated. */
const manyIndexBytesPerRow = 2000

/** An offset from here on is no version, as no log is so long: eGo stores times in nanoseconds. */
const lowestTimeOffset = 1_000_000_000_000_000n

const Table = Schema.Struct({
  name: Schema.String,
  rows: Schema.Number,
  dead: Schema.Number,
  tableSize: Schema.String,
  indexSize: Schema.String,
  indexBytes: Schema.Number
})

const sizeOf = ({ dead, indexBytes, indexSize, name, rows, tableSize }: typeof Table.Type): ReadonlyArray<Finding> => {
  const says = `${name}: ${tableSize}, indexes ${indexSize}`
  if (dead > fewDeadRows && dead > rows / 2) {
    return [warning(`${says}; ${dead} dead rows beside ${rows}`, `run: VACUUM (ANALYZE) ${name}`)]
  }
  if (indexBytes > smallIndexBytes && indexBytes > rows * manyIndexBytesPerRow) {
    return [warning(`${says}, for ${rows} rows`, `run: REINDEX TABLE CONCURRENTLY ${name}`)]
  }
  return ok(says)
}

/** How large are the tables and their indexes, with their partitions, and is that justified by their rows? */
export const sizes: Findings = Effect.gen(function* () {
  const { sql } = yield* PostgresDatabase
  const names = Object.values(yield* relations)
  const found = yield* rows(
    Table,
    sql`
      SELECT log::regclass::text AS name, sum(n_live_tup)::float8 AS rows, sum(n_dead_tup)::float8 AS dead,
        pg_size_pretty(sum(pg_table_size(relid::regclass))) AS "tableSize",
        pg_size_pretty(sum(pg_indexes_size(relid::regclass))) AS "indexSize",
        sum(pg_indexes_size(relid::regclass))::float8 AS "indexBytes"
      FROM pg_catalog.unnest(${names}::text[]::regclass[]::oid[]) AS log
      JOIN pg_stat_user_tables ON relid = log OR relid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = log)
      GROUP BY log ORDER BY log`
  )
  return found.flatMap(sizeOf)
})

/** Is a projection ahead of the log, so that it will skip events? */
export const offsetsAhead: Findings = PostgresDatabase.use(({ sql, tables }) =>
  Effect.map(
    texts(sql`
      SELECT pg_catalog.format('shard %s of %L is at %s, the log ends at %s', shard_number, projection_name, current_offset, highest)
        AS text
      FROM ${tables.offsets}, (SELECT coalesce(max(version), 0) AS highest FROM ${tables.events}) AS log
      WHERE current_offset > highest AND current_offset < ${lowestTimeOffset}
      ORDER BY projection_name, shard_number LIMIT 10`),
    (found) =>
      orOk(
        found.map((text) =>
          problem(
            `${text}: events up to there will be skipped`,
            "was a backup restored? Go back: strata offsets set, or reset"
          )
        ),
        "none is ahead of the log"
      )
  )
)

/** Did the lease of a message run out, without a worker that recovers the message? */
export const strandedMessages: Findings = PostgresDatabase.use(({ sql, tables }) =>
  Effect.map(
    texts(sql`
      SELECT count(*)::text AS text FROM (
        SELECT lease_until, updated FROM ${tables.messages} WHERE state = ${code.active} UNION ALL
        SELECT lease_until, updated FROM ${tables.spool} WHERE state = ${code.active}
      ) AS message
      WHERE coalesce(lease_until, updated + interval '10 minutes') < now()
      HAVING count(*) > 0`),
    (found) =>
      orOk(
        found.map((count) =>
          warning(
            `${count} active messages are held by nobody any more: their workers have died, and none has recovered them`,
            "start a worker, or run: strata spool recover"
          )
        ),
        "no message is stranded"
      )
  )
)
