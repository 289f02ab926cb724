/** The partitions of the table of events, where it has some: whether the next ones are there, and what makes them. */
import { Effect, Schema } from "effect"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import * as EventTable from "../postgres/events/EventTable.ts"
import { type Findings, ok, problem, relations, rows, warning } from "./Check.ts"

const Partitions = Schema.Struct({
  /** How many there are. */
  count: Schema.Int,
  /** How many versions the last one has. */
  size: Schema.BigInt,
  /** How many versions can still be drawn that have a partition. Null if this role does not see what was drawn. */
  left: Schema.NullOr(Schema.BigInt),
  /** Whether the server compiles plans that seem expensive. */
  jit: Schema.Boolean,
  /** The triggers that are missing, or switched off. */
  missing: Schema.Array(Schema.String),
  /** The functions that are missing, or that do not run as the owner of the table. */
  foreign: Schema.Array(Schema.String)
})

/** Above this number the server may believe that to compile a plan is worth it. */
const manyPartitions = 100

const triggers = ["drawing", "added", "removed", "emptied", "ahead"]

const functions = ["extend", "guard"]

const file = "resources/postgres/0060_events_partitions_versions.sql"

/** Will the next events have a partition, and their ids be unique? */
export const partitions: Findings = Effect.gen(function* () {
  const { names, schema, sql } = yield* PostgresDatabase
  const { events } = yield* relations
  const [found] = yield* rows(
    Partitions,
    sql`
      SELECT count(*)::int4 AS count, max(ending) - max(beginning) AS size, CASE
          WHEN pg_catalog.has_sequence_privilege(sequence, 'USAGE, SELECT')
          THEN max(ending) - 1 - coalesce(pg_sequence_last_value(sequence::regclass), 0)
        END AS "left",
        pg_catalog.current_setting('jit') = 'on'::text AS jit,
        ARRAY(
          SELECT name FROM pg_catalog.unnest(${triggers.map((name) => `${names.events}_${name}`)}::text[]) AS name
          WHERE NOT EXISTS (
            SELECT FROM pg_trigger WHERE tgrelid = log AND tgname = name::name AND tgenabled <> 'D'
          )
        ) AS missing,
        ARRAY(
          SELECT name FROM pg_catalog.unnest(${functions.map((name) => `${names.events}_${name}`)}::text[]) AS name
          WHERE NOT EXISTS (
            SELECT FROM pg_proc WHERE pronamespace = space AND proname = name::name AND proowner = owner AND prosecdef
          )
        ) AS "foreign"
      FROM (
        SELECT pg_class.oid AS log, pg_class.relnamespace AS space, pg_class.relowner AS owner,
          pg_get_serial_sequence(${events}, 'version') AS sequence,
          pg_catalog.split_part(bound, ''''::text, 2)::int8 AS beginning, pg_catalog.split_part(bound, ''''::text, 4)::int8 AS ending
        FROM pg_class JOIN pg_inherits ON inhparent = pg_class.oid JOIN pg_class AS part ON part.oid = inhrelid
        CROSS JOIN LATERAL pg_get_expr(part.relpartbound, part.oid) AS bound
        WHERE pg_class.oid = ${events}::regclass::oid AND pg_class.relkind = 'p'
          AND to_regclass(${EventTable.idsNameOf({ names, schema })}) IS NOT NULL
      ) AS bounds
      GROUP BY log, space, owner, sequence`
  )
  if (found === undefined) return []
  const { count, foreign, jit, left, missing, size } = found
  const findings = [
    ...missing.map((name) =>
      problem(
        `${events} has no trigger ${name} that is switched on: ids are not unique, or no partition is made for the next events`,
        `as the owner: ALTER TABLE ${events} ENABLE TRIGGER ${name}, or run ${file} once more`
      )
    ),
    ...foreign.map((name) =>
      problem(
        `the function ${name} does not run as the owner of ${events}: it makes no partition, or keeps no ids`,
        `run ${file} as the owner of ${events}`
      )
    ),
    ...(left !== null && left < size
      ? [
          problem(
            `partitions are there for ${left} versions more: appends fail after those`,
            `as the owner: SELECT ${names.events}_extend(), in the schema of the log`
          )
        ]
      : []),
    ...(jit && count > manyPartitions
      ? [
          warning(
            `${events} has ${count} partitions, and jit is on: to compile a plan for all of them can take seconds at each read`,
            "run: ALTER ROLE of the application SET jit = off"
          )
        ]
      : [])
  ]
  if (findings.length > 0) return findings
  return ok(`${count} of ${size} versions each${left === null ? "" : `, and there are some for ${left} versions more`}`)
})
