/** The way to the server: what stands between, and whether notifications come through. */
import { PgConnection } from "@effect/sql-pg"
import { Duration, Effect, Option, Queue } from "effect"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import { reasonOf } from "../postgres/database/Reasons.ts"
import { type Findings, ok, warning } from "./Check.ts"

/** A notification that takes longer than this does not arrive at all. */
const notificationTimeout = Duration.seconds(3)

/** Which process of the server serves the connection at this moment? */
const servingProcess = (connection: PgConnection.PgConnection) =>
  Effect.map(connection.queryValues("SELECT pg_backend_pid()"), ([row]) => Number(row?.[0]))

/** Is there a pooler in between, and does it keep a connection to one session of the server? */
export const pooler: Findings = Effect.gen(function* () {
  const { sql } = yield* PostgresDatabase
  if (sql.driver === "pglite") return ok("none, in this process")
  const [one, another] = [yield* PgConnection.make(sql.config), yield* PgConnection.make(sql.config)]
  const first = yield* servingProcess(one)
  // A pooler greets a connection with an id of its own, where the server names the process that serves it.
  if (first === one.processId) return ok("none, this is the server itself")
  yield* another.query("BEGIN")
  const shared = (yield* servingProcess(another)) === first || (yield* servingProcess(one)) !== first
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

/** Does a notification come back to a connection that listens? */
export const notifications: Findings = Effect.gen(function* () {
  const { listen, query, sql } = yield* PostgresDatabase
  const channel = `strata_doctor_${crypto.randomUUID().slice(0, 8)}`
  const listening = listen === undefined ? sql : yield* PgConnection.make(listen)
  const heard = yield* listening.listen(channel)
  yield* query(sql`SELECT pg_notify(${channel}, 'round trip')`)
  const arrived = yield* Effect.timeoutOption(Queue.take(heard), notificationTimeout)
  return Option.isSome(arrived)
    ? ok("a notification makes its round trip")
    : [
        warning(
          "notifications do not arrive, as behind a pooler in transaction mode: events and messages are looked for once a second",
          "connect to the server directly, or let the option listen (DB_LISTEN_URL) name a connection that does"
        )
      ]
}).pipe(
  Effect.scoped,
  Effect.catchTag("SqlError", (error) => Effect.fail(reasonOf(error)))
)
