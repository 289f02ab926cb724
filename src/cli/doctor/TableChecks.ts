/**
 * What `strata doctor` looks at: each check finds that something is well, or what is wrong with it and what to do.
 *
 * **Details**
 *
 * A `problem` loses events, fails operations, or holds up readers for good; a `warning` may be meant so, or costs speed. A
 * check that fails by itself is a problem with what that says: a role may not see what the check needs, for instance.
 */
import { PgConnection } from "@effect/sql-pg"
import { Effect, Option, Queue, Schema } from "effect"
import type { Statement } from "effect/sql/Statement"
import { decodeRows } from "../../postgres/database/DecodeRows.ts"
import { qualify } from "../../postgres/database/Identifier.ts"
import { PostgresDatabase } from "../../postgres/database/PostgresDatabase.ts"
import { reasonOf } from "../../postgres/database/Reasons.ts"
import * as EventTable from "../../postgres/events/EventTable.ts"
import * as LockHolders from "../../postgres/events/LockHolders.ts"
import * as Migrations from "../../postgres/Migrations.ts"
import { StoreError } from "../../StoreError.ts"

export interface Finding {
  readonly level: "ok" | "warning" | "problem"
  readonly says: string
  /** What to do about it. */
  readonly remedy?: string
}

export interface Check {
  readonly name: string
  readonly run: Effect.Effect<ReadonlyArray<Finding>>
}

const ok = (says: string): ReadonlyArray<Finding> => [{ level: "ok", says }]
const problem = (says: string, remedy: string): Finding => ({ level: "problem", says, remedy })
const warning = (says: string, remedy: string): Finding => ({ level: "warning", says, remedy })

/** The findings, or that there are none. */
const orOk = (findings: ReadonlyArray<Finding>, says: string) => (findings.length === 0 ? ok(says) : findings)

const Server = Schema.Struct({
  version: Schema.String,
  number: Schema.Int,
  role: Schema.String,
  database: Schema.String,
  standby: Schema.Boolean,
  synchronous: Schema.String,
  fsync: Schema.String
})

const Text = Schema.Struct({ text: Schema.String })

const Trigger = Schema.Struct({ name: Schema.String, notifies: Schema.Boolean, long: Schema.Boolean })

const Sequence = Schema.Struct({ behind: Schema.Boolean, name: Schema.String, highest: Schema.BigInt })

const Table = Schema.Struct({
  name: Schema.String,
  rows: Schema.Number,
  dead: Schema.Number,
  tableSize: Schema.String,
  indexSize: Schema.String,
  indexBytes: Schema.Number
})

/** A transaction that is open for so long has been forgotten, or holds up the removal of dead rows at least. */
const long = "5 minutes"

export const make = Effect.gen(function* () {
  const { names, query, schema, sql, tables: table } = yield* PostgresDatabase
  const { describe, look } = yield* LockHolders.make
  const context = yield* Effect.context<PostgresDatabase>()
  const events = qualify(schema, names.events)
  const offsets = qualify(schema, names.offsets)
  const states = qualify(schema, names.states)
  const spool = qualify(schema, names.spool)

  const rows = <Row extends Schema.ConstraintDecoder<unknown>>(schema: Row, statement: Statement<unknown>) =>
    Effect.flatMap(query(statement), decodeRows(schema, "pg_catalog", []))
  const texts = (statement: Statement<unknown>) =>
    Effect.map(rows(Text, statement), (all) => all.map(({ text }) => text))

  const check = <E extends Error>(
    name: string,
    body: Effect.Effect<ReadonlyArray<Finding>, E, PostgresDatabase>
  ): Check => ({
    name,
    run: body.pipe(
      Effect.provideContext(context),
      Effect.catch((error: Error) => {
        const { message } = error instanceof StoreError ? error.reason : error
        return Effect.succeed([problem(`could not be checked: ${message}`, "see to that first")])
      })
    )
  })

  const found = Effect.map(
    rows(
      Server,
      sql`
        SELECT split_part(current_setting('server_version'), ' ', 1) AS version,
          current_setting('server_version_num')::int AS number, current_user::text AS role,
          current_database()::text AS database, pg_is_in_recovery() AS standby,
          current_setting('synchronous_commit') AS synchronous, current_setting('fsync') AS fsync`
    ),
    ([found]) => Option.fromUndefinedOr(found)
  )

  const onServer = (find: (server: typeof Server.Type) => ReadonlyArray<Finding>) =>
    Effect.map(found, Option.match({ onNone: () => [], onSome: find }))

  /** Nothing where it is a standby: that has been said, and what to do. */
  const onPrimary = <E, R>(body: Effect.Effect<ReadonlyArray<Finding>, E, R>) =>
    Effect.flatMap(found, (server) =>
      Option.exists(server, ({ standby }) => standby) ? Effect.succeed<ReadonlyArray<Finding>>([]) : body
    )

  const version = onServer(({ database, number, role, version }) => {
    const says = `PostgreSQL ${version}, database ${database}, role ${role}`
    return number < 120_000
      ? [problem(says, "generated columns take PostgreSQL 12 or later: upgrade")]
      : number < 150_000
        ? [warning(says, "this version gets no fixes any more: upgrade")]
        : ok(says)
  })

  const primary = onServer(({ standby }) =>
    standby
      ? [
          problem(
            "a standby, where nobody can see which events are still on their way",
            "connect to the primary to append, to subscribe and to read the log; here only single aggregates can be read"
          )
        ]
      : ok("a primary")
  )

  const subscriber = Effect.map(
    texts(sql`SELECT srsubid::text AS text FROM pg_subscription_rel WHERE srrelid = ${events}::regclass`),
    (found) =>
      orOk(
        found.map(() =>
          problem(
            `${events} is filled by logical replication, which copies events in the order of their commits`,
            "read the log where it is written"
          )
        ),
        "no logical replication writes to the log"
      )
  )

  const durability = onServer(({ fsync, synchronous }) => [
    ...(fsync !== "off"
      ? []
      : sql.driver === "pglite"
        ? [warning("an embedded database never flushes its files", "use a server for what must survive a power cut")]
        : [problem("fsync is off: a crash can destroy the database", "set fsync = on")]),
    ...(synchronous === "off"
      ? [
          warning(
            "synchronous_commit is off: a crash of the server can lose appends that were acknowledged",
            "set synchronous_commit = on for this role: ALTER ROLE .. SET synchronous_commit = on"
          )
        ]
      : fsync === "off"
        ? []
        : ok(`synchronous_commit is ${synchronous}`))
  ])

  const migrations = Effect.map(Migrations.status, (statuses) => {
    const pending = statuses.flatMap(({ appliedAt, file }) => (Option.isNone(appliedAt) ? [file] : []))
    return pending.length === 0
      ? ok(`${statuses.length} run, none pending`)
      : [problem(`pending: ${pending.join(", ")}`, "run: strata migrate")]
  })

  const grants = Effect.map(
    texts(sql`
      SELECT format('GRANT %s ON %s TO %I', privilege, name::regclass, current_user) AS text
      FROM (VALUES
        (${events}, 'SELECT, INSERT'),
        (${offsets}, 'SELECT, INSERT, UPDATE, DELETE'),
        (${states}, 'SELECT, INSERT, UPDATE, DELETE'),
        (${spool}, 'SELECT, INSERT, UPDATE, DELETE')
      ) AS needed (name, privileges)
      CROSS JOIN LATERAL regexp_split_to_table(privileges, ', ') AS privilege
      WHERE NOT has_table_privilege(name::regclass, privilege)
      UNION ALL
      SELECT format('GRANT USAGE ON SEQUENCE %s TO %I', seqrelid::regclass, current_user)
      FROM pg_attribute JOIN pg_sequence ON seqrelid = pg_get_serial_sequence(${events}, 'version')::regclass
      WHERE attrelid = ${events}::regclass AND attname = 'version' AND attidentity = ''
        AND NOT has_sequence_privilege(seqrelid, 'USAGE')
      UNION ALL
      SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I', procedure.oid::regprocedure, current_user)
      FROM (VALUES (${events}, '_append'), (${states}, '_write'), (${spool}, '_claim')) AS named (name, ending)
      JOIN pg_class AS class ON class.oid = name::regclass
      JOIN pg_proc AS procedure ON pronamespace = relnamespace AND proname = relname || ending
      WHERE NOT has_function_privilege(procedure.oid, 'EXECUTE')`),
    (missing) =>
      orOk(
        missing.map((grant) => problem("this role may not do all that the stores do", `as the owner: ${grant}`)),
        "this role may do what the stores do"
      )
  )

  const sequence = Effect.gen(function* () {
    // Which is what the sequence of a copy would be refused for, too.
    if ((yield* subscriber).some(({ level }) => level === "problem")) return []
    const found = yield* Effect.result(EventTable.check)
    if (found._tag === "Failure") {
      const [says = "", remedy = "see the README"] = found.failure.message.split("; ")
      return [problem(says, remedy)]
    }
    const { generated, name } = found.success
    // Who may not use the sequence does not see where it is either. On an identity column nobody has to.
    const position = yield* rows(
      Sequence,
      sql`
        SELECT has_sequence_privilege(${name}, 'USAGE, SELECT')
            AND coalesce(pg_sequence_last_value(${name}::regclass), 0) < highest AS behind, ${name}::text AS name, highest
        FROM (SELECT coalesce(max(version), 0) AS highest FROM ${table.events}) AS log`
    )
    const behind = position.flatMap(({ behind, highest, name }) =>
      behind
        ? [
            problem(
              `the sequence ${name} is behind the last event: the next append fails, or is never seen by readers`,
              `run: SELECT setval('${name ?? ""}', ${highest})`
            )
          ]
        : []
    )
    if (behind.length > 0) return behind
    return generated
      ? ok("one version at a time, always generated")
      : [
          warning(
            `versions are a default that clients can override (BIGSERIAL, sequence ${name})`,
            "see that no client calls nextval itself before it inserts: readers can lose such an event"
          )
        ]
  })

  const triggers = Effect.map(
    rows(
      Trigger,
      sql`
        SELECT tgname::text AS name, prosrc ~ 'pg_notify' AS notifies,
          prosrc ~ 'pg_notify.*(stream_name|aggregate_id)'
            AND EXISTS (SELECT FROM ${table.events} WHERE octet_length(aggregate_id) > 56) AS long
        FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
        WHERE tgrelid = ${events}::regclass AND NOT tgisinternal AND tgenabled <> 'D'`
    ),
    (found) =>
      orOk(
        found.map(({ long, name, notifies }) =>
          long
            ? problem(
                `the trigger ${name} notifies a channel per aggregate, and there are aggregate ids of more than 56 bytes`,
                "appends to those fail: shorten the ids, or drop the trigger once no Go service listens"
              )
            : warning(
                `the trigger ${name} runs for each event${notifies ? " and notifies, which makes commits wait for each other" : ""}`,
                "drop it once nobody needs it"
              )
        ),
        "no foreign triggers"
      )
  )

  const listen = Effect.gen(function* () {
    const channel = `strata_doctor_${crypto.randomUUID().slice(0, 8)}`
    const heard = yield* sql.listen(channel)
    yield* query(sql`SELECT pg_notify(${channel}, 'round trip')`)
    const arrived = yield* Effect.timeoutOption(Queue.take(heard), "3 seconds")
    return Option.isSome(arrived)
      ? ok("a notification makes its round trip")
      : [
          warning(
            "notifications do not arrive, as behind a pooler in transaction mode: new events are looked for once a second",
            "connect to the server directly, or to a pooler in session mode"
          )
        ]
  }).pipe(
    Effect.scoped,
    Effect.catchTag("SqlError", (error) => Effect.fail(reasonOf(error)))
  )

  const pooler = Effect.gen(function* () {
    if (sql.driver === "pglite") return ok("none, in this process")
    const [one, another] = [yield* PgConnection.make(sql.config), yield* PgConnection.make(sql.config)]
    const serving = (connection: PgConnection.PgConnection) =>
      Effect.map(connection.queryValues("SELECT pg_backend_pid()"), ([row]) => Number(row?.[0]))
    const first = yield* serving(one)
    // A pooler names itself where the server would name the process that serves the connection.
    if (first === one.processId) return ok("none, this is the server itself")
    yield* another.query("BEGIN")
    const shared = (yield* serving(another)) === first || (yield* serving(one)) !== first
    return shared
      ? [
          warning(
            "a pooler in transaction mode, which gives every transaction another connection of the server",
            "build the PgClient with prepare: false, or connect to the server, or to a pooler in session mode"
          )
        ]
      : ok("one in session mode")
  }).pipe(
    Effect.scoped,
    Effect.catchTag("SqlError", (error) => Effect.fail(reasonOf(error)))
  )

  const tail = Effect.gen(function* () {
    const { holders } = yield* look(query)
    if (holders.size === 0) return ok("nobody holds up readers")
    yield* Effect.sleep("1 second")
    const still = LockHolders.remaining(holders, (yield* look(query)).holders)
    if (still.size === 0) return ok("writers come and go, nobody holds up readers")
    return [
      problem(
        `readers may have to wait for ${yield* describe(query, still)}`,
        "end that transaction: SELECT pg_terminate_backend(its pid)"
      )
    ]
  })

  const prepared = Effect.map(
    texts(sql`
      SELECT format('%L, for %s', gid, date_trunc('second', now() - prepared)) AS text FROM pg_prepared_xacts
      WHERE database = current_database() AND prepared < now() - ${long}::interval`),
    (found) =>
      orOk(
        found.map((text) =>
          problem(`a prepared transaction was left behind: ${text}`, "COMMIT PREPARED it, or ROLLBACK PREPARED it")
        ),
        "no prepared transaction was left behind"
      )
  )

  const transactions = Effect.map(
    texts(sql`
      SELECT format('pid %s, %s for %s, application %L', pid, state, date_trunc('second', now() - xact_start),
        application_name) AS text
      FROM pg_stat_activity
      WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start < now() - ${long}::interval
      ORDER BY xact_start`),
    (found) =>
      orOk(
        found.map((text) =>
          warning(
            `a transaction is open for long: ${text}`,
            "dead rows cannot be removed meanwhile: end it if it was forgotten"
          )
        ),
        `no transaction is open for more than ${long}`
      )
  )

  const bloat = Effect.map(
    rows(
      Table,
      sql`
        SELECT relid::regclass::text AS name, n_live_tup::float8 AS rows, n_dead_tup::float8 AS dead,
          pg_size_pretty(pg_table_size(relid)) AS "tableSize", pg_size_pretty(pg_indexes_size(relid)) AS "indexSize",
          pg_indexes_size(relid)::float8 AS "indexBytes"
        FROM pg_stat_user_tables WHERE relid = ANY(${[events, offsets, states, spool]}::text[]::regclass[]) ORDER BY relid`
    ),
    (found) =>
      found.flatMap(({ dead, indexBytes, indexSize, name, rows, tableSize }): ReadonlyArray<Finding> => {
        const says = `${name}: ${tableSize}, indexes ${indexSize}`
        return dead > 10_000 && dead > rows / 2
          ? [warning(`${says}; ${dead} dead rows beside ${rows}`, `run: VACUUM (ANALYZE) ${name}`)]
          : indexBytes > 100_000_000 && indexBytes > rows * 2000
            ? [warning(`${says}, for ${rows} rows`, `run: REINDEX TABLE CONCURRENTLY ${name}`)]
            : ok(says)
      })
  )

  // An offset can also be a time in nanoseconds, in eGo: no log is so long.
  const ahead = Effect.map(
    texts(sql`
      SELECT format('shard %s of %L is at %s, the log ends at %s', shard_number, projection_name, current_offset, highest)
        AS text
      FROM ${table.offsets}, (SELECT coalesce(max(version), 0) AS highest FROM ${table.events}) AS log
      WHERE current_offset > highest AND current_offset < 1000000000000000 ORDER BY projection_name, shard_number LIMIT 10`),
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

  const stranded = Effect.map(
    texts(sql`
      SELECT count(*)::text AS text FROM ${table.spool}
      WHERE state = 1 AND coalesce(lease_until, updated + interval '10 minutes') < now() HAVING count(*) > 0`),
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

  const missing = Effect.map(
    texts(sql`
      SELECT name AS text FROM unnest(${[events, offsets, states, spool]}::text[]) AS name WHERE to_regclass(name) IS NULL`),
    (names) => names.map((name) => problem(`there is no table ${name}`, "run: strata migrate"))
  )

  const server: ReadonlyArray<Check> = [
    check("server", version),
    check("primary", primary),
    check("durability", durability),
    check("pooler", pooler),
    check("listen", onPrimary(listen)),
    check("prepared", prepared),
    check("transactions", transactions),
    check("migrations", migrations)
  ]
  const tables: ReadonlyArray<Check> = [
    check("grants", grants),
    check("sequence", sequence),
    check("triggers", triggers),
    check("replication", subscriber),
    check("tail", onPrimary(tail)),
    check("tables", bloat),
    check("offsets", ahead),
    check("spool", stranded)
  ]
  return { server, missing: check("tables", missing), tables }
})
