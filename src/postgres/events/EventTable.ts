/** What has to be known of the table of events before it is used: whether readers can rely on the order of its versions. */
import { Context, Effect, Layer, Schema } from "effect"
import type { Fragment } from "effect/sql/Statement"
import { Denied, type Reason, Unexpected } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify, reference } from "../database/Identifier.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"

/** A row that has `sequenceColumns`. */
export const SequenceColumns = Schema.Struct({
  /** The sequence behind the versions, if there is one that can be seen. */
  name: Schema.NullOr(Schema.String),
  cache: Schema.NullOr(Schema.BigInt),
  increment: Schema.NullOr(Schema.BigInt),
  cycles: Schema.NullOr(Schema.Boolean)
})

const Description = Schema.Struct({
  ...SequenceColumns.fields,
  /** Whether only the sequence gives versions. If not, it is a default that clients can override. */
  generated: Schema.Boolean,
  /** Whether the table has partitions, and its ids are in a table of their own: see `Partitions`. */
  partitioned: Schema.Boolean,
  /** Whether ids are UUIDs and no name of a stream is stored: see `resources/postgres/0049_events_layout_compact.sql`. */
  compact: Schema.Boolean,
  /** Whether a trigger notifies of each row, as go-sync-kit's does. */
  notifies: Schema.Boolean,
  /** Whether logical replication fills the table. */
  replicated: Schema.Boolean
})

type Sequence = typeof SequenceColumns.Type

/** What is known of a table that readers can rely on. */
export type Description = typeof Description.Type

/** What `fromVersionOf` has to say of the sequence. */
export const sequenceColumns = `sequence.seqrelid::regclass::text AS name, seqcache AS cache, seqincrement AS increment,
  seqcycle AS cycles`

/** The part of a statement after FROM that finds the column `version`, and the sequence behind it. */
export const fromVersionOf = ({ names, schema }: Pick<PostgresDatabase["Service"], "names" | "schema">) => `pg_attribute
    LEFT JOIN LATERAL (
      SELECT pg_sequence.* FROM pg_sequence JOIN pg_depend ON refclassid = 'pg_class'::regclass::oid AND refobjid = seqrelid
      JOIN pg_attrdef ON classid = 'pg_attrdef'::regclass::oid AND objid = pg_attrdef.oid
      WHERE adrelid = attrelid AND adnum = attnum
      UNION
      SELECT pg_sequence.* FROM pg_sequence JOIN pg_depend ON classid = 'pg_class'::regclass::oid AND objid = seqrelid
      WHERE refclassid = 'pg_class'::regclass::oid AND refobjid = attrelid AND refobjsubid = attnum
    ) AS sequence ON true
    WHERE attrelid = ${reference(qualify(schema, names.events))}::regclass::oid AND attname = 'version'`

/** The table of the ids of a log that has partitions, qualified and quoted. */
export const idsNameOf = ({ names, schema }: Pick<PostgresDatabase["Service"], "names" | "schema">): string =>
  qualify(schema, `${names.events}_ids`)

/**
 * SQL for the id of the event with a version, if there is one. It is asked for as a range: a server that is asked for the
 * version of a log with partitions takes it that all of them are read, unless it plans the statement anew each time, which
 * takes longer.
 */
export const idAt = ({ sql, tables }: PostgresDatabase["Service"], version: bigint | Fragment): Fragment =>
  sql`(SELECT id FROM ${tables.events} WHERE version >= ${version} AND version <= ${version} ORDER BY version LIMIT 1)`

/** SQL for the oids of the tables whose rows a table has: its own, and those of its partitions and other children. */
export const familyOf = (table: string) => `
  WITH RECURSIVE family AS (
    SELECT ${table}::oid AS relation
    UNION
    SELECT inhrelid FROM pg_inherits JOIN family ON inhparent = relation
  )
  SELECT relation FROM family`

const describe = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { names, query, sql } = database
  const decode = decodeRows(Description, names.events, [])
  const rows = yield* query(sql`
    SELECT ${sql.literal(sequenceColumns)}, attidentity = 'a' OR EXISTS (
        SELECT FROM pg_trigger WHERE tgrelid = attrelid AND tgname = ${`${names.events}_added`}::name AND tgenabled <> 'D'
      ) AS generated, to_regclass(${idsNameOf(database)}) IS NOT NULL AS partitioned,
      EXISTS (
        SELECT FROM pg_attribute AS id
        WHERE id.attrelid = pg_attribute.attrelid AND id.attname = 'id' AND id.atttypid = 'pg_catalog.uuid'::regtype::oid
      ) AS compact,
      EXISTS (
        SELECT FROM pg_trigger WHERE tgrelid = attrelid AND tgname = 'events_notify_trigger' AND tgenabled <> 'D'
      ) AS notifies,
      EXISTS (
        SELECT FROM pg_subscription_rel
        WHERE srrelid IN (${sql.literal(familyOf("attrelid"))})
      ) AS replicated
    FROM ${sql.literal(fromVersionOf(database))}`)
  const [description] = yield* decode(rows)
  return description
})

const withoutSequence = (table: string) =>
  new Unexpected({
    message: `no sequence gives ${table} its versions; make version BIGINT GENERATED ALWAYS AS IDENTITY`
  })

/** What is wrong with the sequence, and the clause that mends it. */
const faultOf = ({ cache, cycles, increment }: Sequence): readonly [fault: string, remedy: string] | undefined => {
  if (cache !== 1n) return [`CACHE ${cache}`, "CACHE 1"]
  if (increment !== 1n) return [`INCREMENT ${increment}`, "INCREMENT 1"]
  return cycles === true ? ["CYCLE", "NO CYCLE"] : undefined
}

/**
 * A sequence that draws versions in blocks, in other steps than 1 or in a circle can draw a lower version after a higher
 * one has been seen, for a transaction that no reader could have waited for.
 */
export const outOfOrder = (table: string, sequence: Sequence): Unexpected | undefined => {
  const { name } = sequence
  if (name === null) return withoutSequence(table)
  const fault = faultOf(sequence)
  if (fault === undefined) return undefined
  const [has, remedy] = fault
  return new Unexpected({
    message:
      `the sequence ${name} of ${table} has ${has}, with which readers would lose events; ` +
      `run ALTER SEQUENCE ${name} ${remedy}`
  })
}

/** The error for a copy of a log: its versions were drawn elsewhere, so its locks say nothing about them. */
const copied = (table: string, { replicated }: Description) =>
  replicated
    ? new Denied({
        message:
          `${table} is a copy that logical replication fills, in the order of commits: nobody can see here which events are ` +
          "still on their way; use the log of the database that publishes it, or drop the subscription"
      })
    : undefined

/**
 * Describes the table. Fails with `Unexpected` if no sequence gives the table its versions, or a sequence that does not
 * keep their order; with `Denied` if logical replication fills it; with `SchemaMissing` if it is not there.
 */
export const check = Effect.gen(function* () {
  const { names, schema } = yield* PostgresDatabase
  const table = qualify(schema, names.events)
  const description = yield* describe
  if (description === undefined) return yield* withoutSequence(table)
  const refusal = outOfOrder(table, description) ?? copied(table, description)
  if (refusal !== undefined) return yield* refusal
  return description
})

/** The same, with a warning where clients may draw versions themselves. */
export const checkAndWarn = Effect.tap(check, ({ generated, name }) =>
  generated
    ? Effect.void
    : Effect.logWarning(
        `versions from the sequence ${name} are a default that clients can override (BIGSERIAL): readers can lose the events ` +
          "of a client that calls nextval itself before it inserts"
      )
)

/** The table of events, as the store of this layer has found it. */
export class EventTable extends Context.Service<
  EventTable,
  {
    /**
     * Checks the table before the first append, or the first read that relies on the order of its versions. Later it
     * costs nothing: readers look again at a hole, and now and then. A failure is not remembered, as it may be mended.
     */
    readonly inspect: Effect.Effect<Description, Reason>
  }
>()("effect-strata/postgres/EventTable") {}

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  let found: Effect.Effect<Description> | undefined
  const first = checkAndWarn.pipe(
    Effect.provideService(PostgresDatabase, database),
    Effect.tap((description) => Effect.sync(() => (found = Effect.succeed(description))))
  )
  return EventTable.of({ inspect: Effect.suspend(() => found ?? first) })
})

export const layer: Layer.Layer<EventTable, never, PostgresDatabase> = Layer.effect(EventTable, make)
