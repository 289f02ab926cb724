/**
 * Lines of events as rows of the table, in SQL: the server takes the JSON apart, so that no number is rounded. What is verified and
 * what is restored is made by the same expressions.
 */
import { Effect, Schema } from "effect"
import type { Fragment } from "effect/sql/Statement"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"

type Database = PostgresDatabase["Service"]

/** The columns of a row that a line has. */
const columns = "version, id, aggregate_id, event_type, data, metadata, created_at"

/** A part of a line that is JSON, or SQL's NULL if the line says so. */
const partOf = (name: "data" | "metadata") =>
  `CASE WHEN NOT coalesce(pg_catalog.jsonb_exists(json -> 'nulls'::text, '${name}'::text), false)
        THEN json -> '${name}'::text END`

/** The lines as rows, for FROM. */
const rowsOf = ({ sql }: Database, lines: ReadonlyArray<string>): Fragment => sql`(
    SELECT (json ->> 'version'::text)::int8 AS version, json ->> 'id'::text AS id, json ->> 'aggregateId'::text AS aggregate_id,
      json ->> 'eventType'::text AS event_type, ${sql.literal(partOf("data"))} AS data,
      ${sql.literal(partOf("metadata"))} AS metadata,
      (json ->> 'createdAt'::text)::timestamptz AS created_at
    FROM pg_catalog.unnest(${lines}::text[]) AS line (text) CROSS JOIN LATERAL (SELECT line.text::jsonb AS json OFFSET 0) AS parsed
  ) AS filed`

const Different = Schema.Struct({ version: Schema.BigInt })

/**
 * The first version of these lines whose event in the partition is another one, or is not there. JSON is compared as the text that
 * readers get: `1.0` is not `1.00`.
 */
export const firstDifference = (
  database: Database,
  partition: string,
  lines: ReadonlyArray<string>
): Effect.Effect<bigint | undefined, Reason> => {
  const { names, query, sql } = database
  return query(sql`
    SELECT filed.version FROM ${rowsOf(database, lines)}
    WHERE NOT EXISTS (
      SELECT FROM ${sql.literal(partition)} AS event
      WHERE event.version = filed.version AND event.id::text = filed.id AND event.aggregate_id = filed.aggregate_id
        AND event.event_type = filed.event_type AND event.data::text IS NOT DISTINCT FROM filed.data::text
        AND event.metadata::text IS NOT DISTINCT FROM filed.metadata::text
        AND event.created_at IS NOT DISTINCT FROM filed.created_at
      OFFSET 0
    ) ORDER BY 1 LIMIT 1`).pipe(
    Effect.flatMap(decodeRows(Different, names.events, ["version"])),
    Effect.map(([row]) => row?.version)
  )
}

/** Inserts the events of these lines into a table that is to be a partition, of a log that is compact or not. */
export const insert = (
  database: Database,
  table: string,
  compact: boolean,
  lines: ReadonlyArray<string>
): Effect.Effect<unknown, Reason> => {
  const { query, sql } = database
  const values = compact ? "version, id::uuid, aggregate_id, event_type, data, metadata, created_at" : columns
  return query(sql`
    INSERT INTO ${sql.literal(table)} (${sql.literal(columns)})
    SELECT ${sql.literal(values)} FROM ${rowsOf(database, lines)} ORDER BY version`)
}
