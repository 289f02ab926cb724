/** What has to be known of the table of events: whether readers can rely on the sequence behind its versions. */
import { Effect, Schema } from "effect"
import { Denied, Unexpected } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"

const Sequence = Schema.Struct({
  name: Schema.NullOr(Schema.String),
  problem: Schema.NullOr(Schema.String),
  fix: Schema.NullOr(Schema.String),
  generated: Schema.Boolean,
  notifies: Schema.Boolean,
  replicated: Schema.Boolean
})

/**
 * Fails with `Unexpected` if the sequence draws versions in blocks, in other steps than 1 or in a circle: then a lower one
 * can be drawn after a higher one has been seen, by a transaction that nobody could have waited for. Fails with `Denied` if
 * the table is filled by logical replication, whose versions were drawn elsewhere; with `SchemaMissing` if there is none.
 */
export const check = Effect.gen(function* () {
  const { names, query, schema, sql } = yield* PostgresDatabase
  const table = qualify(schema, names.events)
  const decode = decodeRows(Sequence, names.events, [])
  const rows = yield* query(sql`
    SELECT sequence.seqrelid::regclass::text AS name, attidentity = 'a' AS generated,
      EXISTS (
        SELECT FROM pg_subscription_rel
        WHERE srrelid = attrelid OR srrelid IN (SELECT relid FROM pg_partition_tree(attrelid))
      ) AS replicated,
      CASE
        WHEN seqcache > 1 THEN 'CACHE ' || seqcache
        WHEN seqincrement <> 1 THEN 'INCREMENT ' || seqincrement
        WHEN seqcycle THEN 'CYCLE'
      END AS problem,
      CASE WHEN seqcache > 1 THEN 'CACHE 1' WHEN seqincrement <> 1 THEN 'INCREMENT 1' ELSE 'NO CYCLE' END AS fix,
      EXISTS (
        SELECT FROM pg_trigger WHERE tgrelid = attrelid AND tgname = 'events_notify_trigger' AND tgenabled <> 'D'
      ) AS notifies
    FROM pg_attribute
    LEFT JOIN LATERAL (
      SELECT pg_sequence.* FROM pg_sequence JOIN pg_depend ON refclassid = 'pg_class'::regclass AND refobjid = seqrelid
      JOIN pg_attrdef ON classid = 'pg_attrdef'::regclass AND objid = pg_attrdef.oid
      WHERE adrelid = attrelid AND adnum = attnum
      UNION
      SELECT pg_sequence.* FROM pg_sequence JOIN pg_depend ON classid = 'pg_class'::regclass AND objid = seqrelid
      WHERE refclassid = 'pg_class'::regclass AND refobjid = attrelid AND refobjsubid = attnum
    ) AS sequence ON true
    WHERE attrelid = ${table}::regclass AND attname = 'version'`)
  const [sequence] = yield* decode(rows)
  if (sequence === undefined || sequence.name === null) {
    const message = `no sequence gives ${table} its versions; make version BIGINT GENERATED ALWAYS AS IDENTITY`
    return yield* new Unexpected({ message })
  }
  if (sequence.problem !== null) {
    const message =
      `the sequence ${sequence.name} of ${table} has ${sequence.problem}, with which readers would lose events; ` +
      `run ALTER SEQUENCE ${sequence.name} ${sequence.fix}`
    return yield* new Unexpected({ message })
  }
  if (sequence.replicated) {
    const message =
      `${table} is a copy that logical replication fills, in the order of commits: nobody can see here which events are ` +
      "still on their way; use the log of the database that publishes it, or drop the subscription"
    return yield* new Denied({ message })
  }
  return sequence
})

/**
 * The same, with a warning where clients may draw versions themselves. Returns whether the table notifies of each row, as
 * go-sync-kit's does.
 */
export const checkAndWarn = Effect.gen(function* () {
  const { generated, name, notifies } = yield* check
  if (generated) return notifies
  yield* Effect.logWarning(
    `versions from the sequence ${name} are a default that clients can override (BIGSERIAL): readers can lose the events ` +
      "of one that calls nextval itself before it inserts"
  )
  return notifies
})
