import { PgClient, PgConnection, PgPool } from "@effect/sql-pg"
import { Duration, Effect, Queue, Stream, type Scope } from "effect"
import type { Reactivity } from "effect/reactivity"
import { SqlClient, SqlError, Statement } from "effect/sql"
import type { Connection } from "effect/sql/SqlConnection"
import type { PgliteSession } from "./PgliteSession.ts"
import * as Wire from "./PgliteWire.ts"

/** The options of the client, with the names that they have in `PgClient.PgClientConfig`. */
export type ClientOptions = Pick<
  PgClient.PgClientConfig,
  | "applicationName"
  | "startupParameters"
  | "spanAttributes"
  | "transformResultNames"
  | "transformQueryNames"
  | "transformJson"
  | "types"
>

/** The longest message that the driver accepts. Its default of 16 MiB is less than a parameter may hold. */
const maxMessageBytes = 0x3fffffff

/**
 * A `PgClient` on a session.
 *
 * **Details**
 *
 * `PgClient.make` takes a second connection for a query while the rows of another are streamed, for a listener, and for a
 * `notify` within a transaction. Here it would wait for ever, as there is only one connection. So this client does these
 * three things in its own way, and all else as `PgClient.make` does.
 */
export const make = Effect.fnUntraced(function* (
  session: PgliteSession,
  options: ClientOptions
): Effect.fn.Return<PgClient.PgClient, SqlError.SqlError, Scope.Scope | Reactivity.Reactivity> {
  const config: PgClient.PgClientConfig = {
    ...options,
    username: "postgres",
    database: "postgres",
    // A new connection waits until the one before it has finished its transaction, however long that takes.
    connectTimeout: Duration.infinity,
    maxMessageSize: maxMessageBytes
  }
  const pool = yield* PgPool.make({
    ...config,
    stream: () => session.connect("main"),
    minConnections: 1,
    maxConnections: 1
  })
  const sql = yield* SqlClient.make({
    driver: "pglite",
    // Only streams use the acquirer. All other statements use the borrower or a transaction.
    acquirer: Effect.map(PgConnection.make({ ...config, stream: () => session.connect("stream") }), toConnection),
    borrower: (f) => pool.use((connection) => f(toConnection(connection))),
    transactionAcquirer: Effect.map(pool.reserve, toConnection),
    compiler: PgClient.makeCompiler(options.transformQueryNames, options.transformJson),
    prepareTransactionControls: true,
    commit,
    releaseSavepoint: (name) => `RELEASE SAVEPOINT ${name}`,
    spanAttributes: [
      ...Object.entries(options.spanAttributes ?? {}),
      ["db.system.name", "postgresql"],
      ["db.namespace", "postgres"]
    ],
    transformRows:
      options.transformResultNames === undefined
        ? undefined
        : Statement.defaultTransforms(options.transformResultNames, options.transformJson).array
  })
  return Object.assign(sql, {
    [PgClient.TypeId]: PgClient.TypeId,
    config,
    json: (value: unknown) => Statement.fragment([json(value)]),
    listen: (channel: string) => listen(session, channel),
    notify: (channel: string, payload: string) => notify(session, channel, payload)
  })
})

const json = Statement.custom<PgClient.PgCustom>("PgJson")

const listen = (
  session: PgliteSession,
  channel: string
): Effect.Effect<Queue.Dequeue<PgConnection.Notification, SqlError.SqlError>, SqlError.SqlError, Scope.Scope> =>
  Effect.suspend(() => {
    const invalid =
      tooLong(channel, "listen") ??
      (channel === "" ? Wire.sqlError("42601", 'zero-length delimited identifier at or near """"') : undefined) ??
      hasNul(channel) ??
      session.error
    if (invalid !== undefined) return Effect.fail(invalid)
    return Effect.acquireRelease(
      Effect.tap(Queue.unbounded<PgConnection.Notification, SqlError.SqlError>(), (queue) =>
        Effect.sync(() => session.subscribe(channel, queue))
      ),
      (queue) =>
        Effect.andThen(
          Effect.sync(() => session.unsubscribe(channel, queue)),
          Queue.shutdown(queue)
        )
    )
  })

const notify = (session: PgliteSession, channel: string, payload: string): Effect.Effect<void, SqlError.SqlError> =>
  Effect.suspend(() => {
    const invalid =
      tooLong(channel, "notify") ??
      (channel === "" ? Wire.sqlError("22023", "channel name cannot be empty") : undefined) ??
      (Buffer.byteLength(payload) >= payloadLimitBytes
        ? Wire.sqlError("22023", "payload string too long")
        : undefined) ??
      hasNul(channel) ??
      hasNul(payload) ??
      session.notify(channel, payload)
    return invalid === undefined ? Effect.void : Effect.fail(invalid)
  })

// What the driver and the server would refuse is refused before it is sent: an error of the server would fail the
// transaction that happens to be open.

/** A longer name of a channel would be cut off in silence. */
const maxChannelBytes = 63

/** The server refuses a payload from this length on. */
const payloadLimitBytes = 8000

const tooLong = (channel: string, operation: string): SqlError.SqlError | undefined => {
  if (Buffer.byteLength(channel) <= maxChannelBytes) return undefined
  const message = "PostgreSQL channel names must not exceed 63 UTF-8 bytes"
  const reason = new SqlError.UnknownError({ cause: new Error(message), message, operation })
  return new SqlError.SqlError({ reason })
}

const hasNul = (text: string): SqlError.SqlError | undefined =>
  text.includes("\0") ? Wire.sqlError("22021", 'invalid byte sequence for encoding "UTF8": 0x00') : undefined

/** Commits. Fails if Postgres answers with `ROLLBACK`, as it does without an error where the transaction has failed before. */
const commit = (connection: Connection): Effect.Effect<void, SqlError.SqlError> =>
  Effect.flatMap(connection.executeRaw("COMMIT", []), (result) => {
    if (!isRollback(result)) return Effect.void
    const message = "Pglite: COMMIT rolled back an aborted transaction"
    const reason = new SqlError.UnknownError({ cause: new Error(message), message, operation: "commit" })
    return Effect.fail(new SqlError.SqlError({ reason }))
  })

const isRollback = (result: unknown): boolean =>
  typeof result === "object" && result !== null && "command" in result && result.command === "ROLLBACK"

const toConnection = (connection: PgConnection.PgConnection): Connection => {
  const rows = (sql: string, params: ReadonlyArray<unknown>, prepare = true) =>
    Effect.map(connection.query(sql, params, prepare), (result) => result.rows)
  return {
    execute: (sql, params, transform) =>
      transform === undefined ? rows(sql, params) : Effect.map(rows(sql, params), transform),
    executeRaw: (sql, params) => connection.query(sql, params),
    executeValues: (sql, params) => connection.queryValues(sql, params),
    executeValuesUnprepared: (sql, params) => connection.queryValues(sql, params, false),
    executeUnprepared: (sql, params, transform) =>
      transform === undefined ? rows(sql, params, false) : Effect.map(rows(sql, params, false), transform),
    executeStream: (sql, params, transform) => {
      const stream = connection.stream(sql, params)
      return transform === undefined
        ? stream
        : Stream.flattenIterable(Stream.map(Stream.chunks(stream), (chunk) => transform(chunk)))
    }
  }
}
