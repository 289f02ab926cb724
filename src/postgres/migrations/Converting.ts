/**
 * Prepares a table that has had events for partitions, while others go on to write to it. What is left then is done in a moment, by
 * `resources/postgres/0065_events_partitions_versions.sql`.
 *
 * **Details**
 *
 * 1. A trigger gathers the ids of new events in a table beside the log, and the migration those of the events that are there.
 * 2. A check says that all versions are below a limit, so that the table can become a partition without a look at its rows. It is
 *    validated while others write. Versions above it would be refused, so it is far away, and moved where writers come near it.
 *
 * Each step is a transaction of its own. A process that comes later looks at what is there, and goes on from that.
 */
import { Effect, Schema } from "effect"
import type { SqlError } from "effect/sql"
import { type Reason, Unexpected } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify, quote, reference } from "../database/Identifier.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import type { Tell } from "./Building.ts"
import { loadFile, type Migration, withNames } from "./MigrationFiles.ts"

type Database = PostgresDatabase["Service"]

/** Whether a migration divides the table of events. */
export const isOf = ({ part, table }: Migration): boolean => table === "events" && part === "partitions_versions"

/** How many ids are gathered at once. A DELETE of one of these events waits for that. */
const idsAtOnce = 10_000

/** How many versions are left to the writers, at least, from the check on until the table is a partition. */
const leastRoom = 250_000n

const Plain = Schema.Struct({
  /** Whether the trigger gathers the ids of new events. */
  isGathering: Schema.Boolean,
  drawn: Schema.BigInt,
  /** The limit of the versions, if there is one. */
  ending: Schema.NullOr(Schema.BigInt),
  isValidated: Schema.Boolean
})

/** The table, and what a conversion makes beside it. The tables and the function are qualified and quoted. */
export const namesOf = ({ names, schema }: Pick<Database, "names" | "schema">) => ({
  events: qualify(schema, names.events),
  /** The table in which ids are gathered, and the function of the triggers that do so. */
  gathered: qualify(schema, `${names.events}_gathered`),
  gather: qualify(schema, `${names.events}_gather`),
  /** The constraint that limits the versions. */
  limit: `${names.events}_first`
})

/** SQL that gives the limit of a constraint, if there is one. */
export const limitIn = (constraint: string): string =>
  `(pg_catalog.regexp_match(pg_get_constraintdef(${constraint}), '< ''?([0-9]+)'::text))[1]::int8`

/** What there is of a table without partitions. */
const look = (database: Database) => {
  const { events, limit } = namesOf(database)
  return Effect.map(
    Effect.flatMap(
      database.query(database.sql`
        SELECT EXISTS (
            SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = log.oid AND tgname = ${`${database.names.events}_gather_emptied`}::name
          ) AS "isGathering",
          coalesce(pg_sequence_last_value(pg_get_serial_sequence(${events}, 'version')::regclass), 0) AS drawn,
          ${database.sql.literal(limitIn("con.oid"))} AS ending,
          coalesce(con.convalidated, false) AS "isValidated"
        FROM pg_catalog.pg_class AS log
        LEFT JOIN pg_catalog.pg_constraint AS con ON con.conrelid = log.oid AND con.conname = ${limit}::name
        WHERE log.oid = to_regclass(${events})::oid AND log.relkind = 'r'::"char"`),
      decodeRows(Plain, "pg_class", [])
    ),
    ([found]) => found
  )
}

const Answer = Schema.Struct({ answer: Schema.Boolean })

/** Whether the table has no partitions, and has had events. */
export const isNeeded = Effect.fnUntraced(function* (database: Database): Effect.fn.Return<boolean, Reason> {
  const found = yield* look(database)
  if (found === undefined) return false
  if (found.drawn > 0n) return true
  const [row] = yield* Effect.flatMap(
    database.query(database.sql`SELECT EXISTS (SELECT FROM ${database.tables.events}) AS answer`),
    decodeRows(Answer, "pg_class", [])
  )
  return row?.answer === true
})

const Obstacle = Schema.Struct({ text: Schema.String })

/**
 * Refuses what would go with the table, and not with the log: it would see, or promise, only what the first partition has.
 */
export const refuseObstacles = Effect.fnUntraced(function* (database: Database): Effect.fn.Return<void, Reason> {
  const { events } = namesOf(database)
  const log = database.sql.literal(`${reference(events)}::regclass::oid`)
  const found = yield* Effect.flatMap(
    database.query(database.sql`
      SELECT pg_catalog.format('the view %s', ev_class::regclass) AS text
      FROM pg_depend JOIN pg_rewrite ON pg_rewrite.oid = objid
      WHERE classid = 'pg_rewrite'::regclass::oid AND refclassid = 'pg_class'::regclass::oid AND refobjid = ${log} AND ev_class <> ${log}
      UNION
      SELECT pg_catalog.format('the function %s', objid::regprocedure) FROM pg_depend
      WHERE classid = 'pg_proc'::regclass::oid AND refclassid = 'pg_class'::regclass::oid AND refobjid = ${log}
      UNION
      SELECT pg_catalog.format('the rule %I', rulename) FROM pg_rewrite WHERE ev_class = ${log}
      UNION
      SELECT pg_catalog.format('the policy %I', polname) FROM pg_policy WHERE polrelid = ${log}
      UNION
      SELECT pg_catalog.format('the foreign key %I of %s', conname, conrelid::regclass) FROM pg_constraint
      WHERE confrelid = ${log}
      UNION
      SELECT pg_catalog.format('the publication %I, to whose subscribers events would come from another table', pubname)
      FROM pg_publication
      WHERE puballtables OR EXISTS (SELECT FROM pg_publication_rel WHERE prpubid = pg_publication.oid AND prrelid = ${log})
        OR EXISTS (
          SELECT FROM pg_publication_namespace JOIN pg_class ON relnamespace = pnnspid
          WHERE pnpubid = pg_publication.oid AND pg_class.oid = ${log}
        )
      UNION
      SELECT pg_catalog.format('the subscription that fills it') FROM pg_subscription_rel WHERE srrelid = ${log}
      UNION
      SELECT pg_catalog.format('the child table %s', inhrelid::regclass) FROM pg_inherits WHERE inhparent = ${log}
      UNION
      SELECT pg_catalog.format('the parent table %s', inhparent::regclass) FROM pg_inherits WHERE inhrelid = ${log}
      UNION
      SELECT pg_catalog.format('the unique index %s, which each partition would have for itself', indexrelid::regclass)
      FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
      WHERE indrelid = ${log} AND (indisunique OR indisexclusion)
        AND NOT (indnkeyatts = 1 AND indpred IS NULL AND attname IN ('id'::name, 'version'::name))
      ORDER BY 1`),
    decodeRows(Obstacle, "pg_class", [])
  )
  if (found.length === 0) return
  const all = found.map(({ text }) => text).join("; ")
  return yield* new Unexpected({
    message: `${events} cannot be divided into partitions beside ${all}: drop it, and make it again on the divided table`
  })
})

/** A step of the conversion, in a transaction that has the lock of all migrations. */
export interface Step {
  /** Whether it takes strong locks of the table, for a moment. */
  readonly isStrong: boolean
  readonly run: Effect.Effect<unknown, Reason | SqlError.SqlError>
}

const UpTo = Schema.Struct({ version: Schema.NullOr(Schema.BigInt) })

/** Says what comes next, in the transaction in which it is to be done: `"ready"` once the table can become a partition. */
export const make = (database: Database, file: string, tell: Tell) => {
  const { partitionSize: size, query, sql, tables } = database
  const { events, gathered, limit } = namesOf(database)
  const decode = decodeRows(UpTo, database.names.events, ["version"])
  const room = 4n * size > leastRoom ? 4n * size : leastRoom
  // The ids of all events up to this version are gathered, by this process. The next one would begin anew.
  let after = -1n
  let end: bigint | undefined

  const highest = Effect.map(
    Effect.flatMap(query(sql`SELECT max(version) AS version FROM ${tables.events}`), decode),
    ([row]) => row?.version ?? 0n
  )

  const begin = Effect.gen(function* () {
    yield* refuseObstacles(database)
    const names = new Map(Object.entries(database.names))
    for (const statement of yield* loadFile("prepare_partitions.sql")) {
      yield* sql.unsafe(withNames(names, statement)).unprepared
    }
  })

  const gather = Effect.gen(function* () {
    // The trigger waited for all who wrote without it, so what they have written can be seen.
    end ??= yield* highest
    const [row] = yield* Effect.flatMap(
      query(sql`
        WITH part AS MATERIALIZED (
          SELECT id, version FROM ${tables.events} WHERE version > ${after}::bigint ORDER BY version LIMIT ${idsAtOnce}::bigint
        ), added AS (
          INSERT INTO ${sql.literal(gathered)} (id, version) SELECT id, version FROM part ON CONFLICT DO NOTHING
        )
        SELECT max(version) AS version FROM part`),
      decode
    )
    after = row?.version ?? end
    yield* tell({ file, doing: "gathering ids", share: end === 0n ? 1 : Math.min(1, Number(after) / Number(end)) })
  })

  const setLimit = (before: bigint | null) =>
    Effect.gen(function* () {
      const drawn = (yield* look(database))?.drawn ?? 0n
      const last = yield* highest
      const ending = (((drawn > last ? drawn : last) + room) / size + 1n) * size
      const drop = before === null ? "" : `DROP CONSTRAINT ${quote(limit)}, `
      yield* sql.unsafe(
        `ALTER TABLE ${events} ${drop}ADD CONSTRAINT ${quote(limit)} CHECK (version >= 0 AND version < ${ending}) NOT VALID`
      ).unprepared
    })

  const validate = Effect.andThen(
    tell({ file, doing: "validating the limit of versions", share: undefined }),
    Effect.suspend(() => sql.unsafe(`ALTER TABLE ${events} VALIDATE CONSTRAINT ${quote(limit)}`).unprepared)
  )

  return Effect.map(look(database), (found): Step | "ready" => {
    if (found === undefined) return "ready"
    const { drawn, ending, isGathering, isValidated } = found
    if (!isGathering) return { isStrong: true, run: begin }
    if (ending === null && (end === undefined || after < end)) return { isStrong: false, run: gather }
    if (ending === null || drawn > ending - room / 2n) return { isStrong: true, run: setLimit(ending) }
    return isValidated ? "ready" : { isStrong: true, run: validate }
  })
}
