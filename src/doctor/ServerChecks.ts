/** The server itself: its version, whether it is a primary, and whether a commit survives its crash. */
import { Effect, Schema } from "effect"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import * as MarkTable from "../postgres/events/MarkTable.ts"
import { type Finding, type Findings, ok, problem, rows, warning } from "./Check.ts"

/** The oldest major version that the stores are tested on. */
const oldestVersion = 15

const Server = Schema.Struct({
  version: Schema.String,
  majorVersion: Schema.Int,
  role: Schema.String,
  database: Schema.String,
  standby: Schema.Boolean,
  encoding: Schema.String,
  synchronousCommit: Schema.String,
  fsync: Schema.String
})

type Server = typeof Server.Type

/** What the server says of itself. */
const server = PostgresDatabase.use(({ sql }) =>
  rows(
    Server,
    sql`
      SELECT split_part(current_setting('server_version'), ' ', 1) AS version,
        current_setting('server_version_num')::int / 10000 AS "majorVersion", current_user::text AS role,
        current_database()::text AS database, pg_is_in_recovery() AS standby, current_setting('server_encoding') AS encoding,
        current_setting('synchronous_commit') AS "synchronousCommit", current_setting('fsync') AS fsync`
  )
)

const onServer = (find: (server: Server) => ReadonlyArray<Finding>): Findings =>
  Effect.map(server, (found) => found.flatMap(find))

/** Runs a check that makes no sense on a standby only elsewhere: `primary` has said already what is wrong there. */
export const onPrimary = (findings: Findings): Findings =>
  Effect.flatMap(server, (found) => (found.some(({ standby }) => standby) ? Effect.succeed([]) : findings))

/** Is the server recent enough, and can the database keep every text? */
export const version: Findings = onServer(({ database, encoding, majorVersion, role, version }) => {
  const says = `PostgreSQL ${version}, database ${database}, role ${role}`
  if (majorVersion < oldestVersion) {
    return [problem(says, `the stores need PostgreSQL ${oldestVersion} or later: upgrade`)]
  }
  if (encoding === "UTF8") return ok(says)
  return [
    problem(
      `the database has the encoding ${encoding}, which lacks texts that events and messages can have`,
      "move to a database with ENCODING 'UTF8'"
    )
  ]
})

/** Is the server a primary, so that it can be seen which events are still in flight? */
export const primary: Findings = onServer(({ standby }) =>
  standby
    ? [
        warning(
          "a standby, where nobody can see which events are still on their way",
          "connect to the primary to append and to subscribe; Postgres.layerReplica reads from here what the primary has settled"
        )
      ]
    : ok("a primary")
)

const Replay = Schema.Struct({
  paused: Schema.Boolean,
  version: Schema.BigInt,
  mark: Schema.NullOr(Schema.BigInt)
})

/** How far has a standby come? */
const replayed = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { sql, tables } = database
  const found = yield* rows(
    Replay,
    sql`
      SELECT pg_is_wal_replay_paused() AS paused, (SELECT coalesce(max(version), 0::bigint) FROM ${tables.events}) AS version,
        (SELECT version FROM (${MarkTable.current(database)}) AS current) AS mark`
  )
  return found.flatMap(({ mark, paused, version }) => {
    const upTo = `up to version ${version}`
    if (paused) {
      return [
        warning(`the replay is paused ${upTo}: readers get nothing newer`, "run there: SELECT pg_wal_replay_resume()")
      ]
    }
    return ok(`${upTo}, with ${mark === null ? "no mark of its primary" : `the mark ${mark} of its primary`}`)
  })
})

/** Does a standby replay what its primary has done? On a primary there is nothing to say. */
export const replay: Findings = Effect.flatMap(server, (found) =>
  found.some(({ standby }) => standby) ? replayed : Effect.succeed([])
)

/** Does the server flush its files before it acknowledges a commit? */
const flushing = Effect.gen(function* () {
  const { sql } = yield* PostgresDatabase
  return yield* onServer(({ fsync }) => {
    if (fsync !== "off") return []
    return sql.driver === "pglite"
      ? [warning("an embedded database never flushes its files", "use a server for what must survive a power cut")]
      : [problem("fsync is off: a crash can destroy the database", "set fsync = on")]
  })
})

/** Does a commit wait until it is flushed? */
const committing = onServer(({ fsync, synchronousCommit }) => {
  if (synchronousCommit === "off") {
    return [
      warning(
        "synchronous_commit is off: a crash of the server can lose appends that were acknowledged",
        "set synchronous_commit = on for this role: ALTER ROLE .. SET synchronous_commit = on"
      )
    ]
  }
  return fsync === "off" ? [] : ok(`synchronous_commit is ${synchronousCommit}`)
})

/** Does a commit survive a crash of the server? */
export const durability: Findings = Effect.map(Effect.all([flushing, committing]), (findings) => findings.flat())
