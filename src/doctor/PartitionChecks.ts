/** The partitions of the table of events, where it has some: whether the next ones are there, and what makes them. */
import { Effect, Schema } from "effect"
import { qualify, quote, unquoted } from "../postgres/database/Identifier.ts"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import * as EventTable from "../postgres/events/EventTable.ts"
import * as Converting from "../postgres/migrations/Converting.ts"
import { type Finding, type Findings, ok, problem, relations, rows, warning } from "./Check.ts"

const Partitions = Schema.Struct({
  /** How many there are. */
  count: Schema.Int,
  /** How many versions the last one has. */
  size: Schema.BigInt,
  /** How many versions can still be drawn that have a partition. Null if this role does not see what was drawn. */
  left: Schema.NullOr(Schema.BigInt),
  /** The first versions that have no partition, though some above them have one. */
  gaps: Schema.Array(Schema.String),
  /** The partition of all versions that have no other one. */
  rest: Schema.NullOr(Schema.String),
  /** Whether the server compiles plans that seem expensive. */
  jit: Schema.Boolean,
  /** The triggers that are missing, or switched off. */
  missing: Schema.Array(Schema.String),
  /** The functions that are missing, or that do not run as the owner of the table. */
  foreign: Schema.Array(Schema.String),
  /** The indexes that not every partition has. */
  partial: Schema.Array(Schema.String),
  /** Whether the table of ids is there, and has a key. */
  hasIds: Schema.Boolean,
  hasKey: Schema.Boolean
})

/** Above this number the server may believe that to compile a plan is worth it. */
const manyPartitions = 100

const triggers = ["drawing", "added", "removed", "emptied", "ahead"]

const functions = ["extend", "guard"]

const file = "resources/postgres/0065_events_partitions_versions.sql"

const look = Effect.gen(function* () {
  const { names, schema, sql } = yield* PostgresDatabase
  const { events } = yield* relations
  const ids = EventTable.idsNameOf({ names, schema })
  const [found] = yield* rows(
    Partitions,
    sql`
      SELECT count(*)::int4 AS count, max(ending) - max(beginning) AS size, CASE
          WHEN pg_catalog.has_sequence_privilege(sequence, 'USAGE, SELECT')
          THEN max(ending) - 1 - coalesce(pg_sequence_last_value(sequence::regclass), 0)
        END AS "left",
        coalesce(pg_catalog.array_agg(ending::text ORDER BY ending) FILTER (WHERE next > ending), '{}'::text[]) AS gaps,
        max(part::text) FILTER (WHERE bound = 'DEFAULT'::text) AS rest,
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
        ) AS "foreign",
        ARRAY(SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = log AND NOT indisvalid ORDER BY 1) AS partial,
        to_regclass(${ids}) IS NOT NULL AS "hasIds",
        EXISTS (
          SELECT FROM pg_index WHERE indrelid = to_regclass(${ids})::oid AND indisunique AND indisvalid AND indnkeyatts = 1
            AND indpred IS NULL AND ${sql.literal(unquoted("pg_get_indexdef(indexrelid, 1, true)"))} = 'id'::text
        ) AS "hasKey"
      FROM (
        SELECT *, pg_catalog.lead(beginning) OVER (ORDER BY beginning) AS next FROM (
          SELECT pg_class.oid AS log, pg_class.relnamespace AS space, pg_class.relowner AS owner,
            pg_get_serial_sequence(${events}, 'version') AS sequence, part.oid::regclass AS part, bound,
            nullif(pg_catalog.split_part(bound, ''''::text, 2), ''::text)::int8 AS beginning,
            nullif(pg_catalog.split_part(bound, ''''::text, 4), ''::text)::int8 AS ending
          FROM pg_class JOIN pg_inherits ON inhparent = pg_class.oid JOIN pg_class AS part ON part.oid = inhrelid
          CROSS JOIN LATERAL pg_get_expr(part.relpartbound, part.oid) AS bound
          WHERE pg_class.oid = ${events}::regclass::oid AND pg_class.relkind = 'p' AND (
            to_regclass(${ids}) IS NOT NULL
            OR EXISTS (SELECT FROM pg_trigger WHERE tgrelid = pg_class.oid AND tgname = ${`${names.events}_added`}::name)
          )
        ) AS bounds
      ) AS bounds
      GROUP BY log, space, owner, sequence`
  )
  return found
})

/** Will the next events have a partition, and their ids be unique? */
const ofPartitions = Effect.gen(function* () {
  const { names, schema } = yield* PostgresDatabase
  const { events } = yield* relations
  const ids = EventTable.idsNameOf({ names, schema })
  const extend = `SELECT ${qualify(schema, `${names.events}_extend`)}()`
  const found = yield* look
  if (found === undefined) return []
  const { count, foreign, gaps, hasIds, hasKey, jit, left, missing, partial, rest, size } = found
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
      ? [problem(`partitions are there for ${left} versions more: appends fail after those`, `as the owner: ${extend}`)]
      : []),
    ...gaps.map((version) =>
      problem(
        `${events} has no partition for version ${version}, and some for versions above it: events are missing, or appends fail there`,
        `attach the partition again that was detached: ALTER TABLE ${events} ATTACH PARTITION .. FOR VALUES FROM (${version}) TO (..)`
      )
    ),
    ...(rest === null
      ? []
      : [
          problem(
            `${rest} is the default partition of ${events}: no partition can be made for a version of which it has an event`,
            `as the owner: ALTER TABLE ${events} DETACH PARTITION ${rest}; then ${extend}; then insert what it has`
          )
        ]),
    ...partial.map((name) =>
      problem(
        `not every partition of ${events} has an index of ${name}: reads go through all events of those that have none`,
        `as the owner: make the index on each partition without it, and ALTER INDEX ${name} ATTACH PARTITION .., or DROP INDEX ${name} and run: strata migrate`
      )
    ),
    ...(hasIds && !hasKey
      ? [problem(`no key keeps the ids in ${ids} unique`, `as the owner: ALTER TABLE ${ids} ADD PRIMARY KEY (id)`)]
      : []),
    ...(hasIds
      ? []
      : [
          problem(
            `${ids} is missing, the table of the ids of ${events}: appends fail, and what is archived is not found`,
            "restore it from a backup; those of events that are not archived are in the log"
          )
        ]),
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

/** What of a table without partitions is left of a conversion. */
const Begun = Schema.Struct({
  /** Whether something gathers ids: the table or the function. */
  gathers: Schema.Boolean,
  /** The limit of the versions, if there is one. */
  limit: Schema.NullOr(Schema.BigInt),
  /** How many versions can still be drawn below the limit. Null if this role does not see what was drawn. */
  left: Schema.NullOr(Schema.BigInt)
})

/** Below this number of versions that a log can still draw, its appends may be refused any day. */
const fewVersions = 100_000n

/** Was a table without partitions to get some, and has not? Nothing is wrong with its events then. */
const ofConversion = Effect.gen(function* () {
  const { names, schema, sql } = yield* PostgresDatabase
  const { events, gather, gathered, limit: check } = Converting.namesOf({ names, schema })
  const [found] = yield* rows(
    Begun,
    sql`
      SELECT gathers, "limit", CASE
          WHEN pg_catalog.has_sequence_privilege(sequence, 'USAGE, SELECT')
          THEN "limit" - 1 - coalesce(pg_sequence_last_value(sequence::regclass), 0)
        END AS "left"
      FROM (
        SELECT to_regclass(${gathered}) IS NOT NULL OR to_regproc(${gather}) IS NOT NULL AS gathers,
          ${sql.literal(Converting.limitIn("pg_constraint.oid"))} AS "limit",
          pg_get_serial_sequence(${events}, 'version') AS sequence
        FROM pg_class LEFT JOIN pg_constraint ON conrelid = pg_class.oid AND conname = ${check}::name
        WHERE pg_class.oid = ${events}::regclass::oid AND pg_class.relkind = 'r'
      ) AS log`
  )
  if (found === undefined || (!found.gathers && found.limit === null)) return []
  const { left, limit } = found
  const undo = [
    `ALTER TABLE ${events} DROP CONSTRAINT IF EXISTS ${quote(check)}`,
    `DROP FUNCTION IF EXISTS ${gather}() CASCADE`,
    `DROP TABLE IF EXISTS ${gathered}`
  ].join("; ")
  const does =
    limit === null
      ? `each append also writes its ids to ${names.events}_gathered`
      : `appends are refused from version ${limit} on${left === null ? "" : `, ${left} versions from here`}`
  const finding = left !== null && left < fewVersions ? problem : warning
  return [
    finding(
      `${events} is being divided into partitions, or was, and that was given up: ${does}`,
      `run strata migrate --partitions again, which goes on; or to give it up, as the owner: ${undo}`
    )
  ]
})

/** Whether the table has partitions that are as they should be, or is on its way to some. */
export const partitions: Findings = Effect.gen(function* () {
  const found: ReadonlyArray<Finding> = yield* ofPartitions
  return found.length > 0 ? found : yield* ofConversion
})
