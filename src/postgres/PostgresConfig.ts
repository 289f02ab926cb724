/**
 * The settings of a connection pool, from `Config`: so from the environment, unless another provider is given.
 *
 * `DATABASE_URL` is enough: `postgres://user:password@host:5432/database?sslmode=verify-full`. Its parts can be given instead,
 * as `DB_HOST`, `DB_NAME`, `DB_USER` and `DB_PASSWORD`. `DB_POOL_SIZE` and its like set the pool. The reference of settings
 * (`resources/reference/settings.md`) lists each variable with its default. What neither the URL nor these say is read from
 * `PGHOST`, `PGSSLMODE` and the others, as by every program on libpq.
 *
 * **Several hosts**
 *
 * `postgres://db1:5432,db2:5432/app?target_session_attrs=read-write`, or the same lists in `host` and `port`, in `DB_HOST` and
 * `DB_PORT`, in `PGHOST` and `PGPORT`: each new connection tries the hosts in their order, and uses the first one that
 * answers and is what `target_session_attrs` says (`any`, `read-write`, `read-only`, `primary`, `standby`, `prefer-standby`).
 * So after a failover new connections lead to the new primary. A host that has said nothing within its time is tried last for a
 * minute. A host that refuses the login ends the search. A pooler among the hosts repeats what its server has told it once, which
 * may no longer be so.
 *
 * **Safety**
 *
 * `sslmode` is one of `disable`, `allow`, `prefer`, `require`, `verify-ca` and `verify-full`. The server's certificate and name
 * are verified in every mode that uses TLS, `require` included. `sslrootcert` names the file of the authority to trust, or
 * `system`; `sslcert` and `sslkey` are the client's own. To another machine the default is `verify-full`, and `allow` and
 * `prefer` are refused, as they would send the password to whoever answers without TLS: `disable` asks for that by name. A
 * setting of security that would be ignored, such as `require_auth`, `channel_binding=require` or `SSLMODE`, is refused.
 *
 * **Settings of the session**
 *
 * `statement_timeout`, `lock_timeout` and `idle_in_transaction_session_timeout` in the URL, in the server's notation, are
 * settings of each session.
 */
import type { PgClient } from "@effect/sql-pg"
import { Config, Duration, Option, type Redacted, Schema } from "effect"
import { maxRowBytes } from "../internal/Fields.ts"
import * as ConnectionConfig from "./connecting/ConnectionConfig.ts"

export type { Options as ConnectionOptions } from "./connecting/ConnectionConfig.ts"

const PoolSize = Schema.Int.check(Schema.isGreaterThan(0))

const MessageSize = Schema.Int.check(Schema.isGreaterThanOrEqualTo(maxRowBytes))

const TimeLimit = Schema.DurationFromString.check(
  Schema.makeFilter((duration) => (Duration.toMillis(duration) > 0 ? undefined : "Expected a duration above 0"))
)

/** In the server's notation: whole milliseconds, and 0 for no limit. */
const millisOf = (limit: Duration.Duration) =>
  Duration.isFinite(limit) ? `${Math.ceil(Duration.toMillis(limit))}` : "0"

const optional = <A>(config: Config.Config<A>) => Config.map(Config.option(config), Option.getOrUndefined)

/** The schema of the stores' tables, if one is set. */
export const schema = optional(Config.String("DB_SCHEMA"))

/** The connection that listens, if it is not made with the settings of the pool. */
export const listen: Config.Config<PgClient.PgClientConfig | undefined> = ConnectionConfig.fromVariable("DB_LISTEN_URL")

/** The connection of the role that migrates, if it is another one than that of the pool. */
export const owner: Config.Config<PgClient.PgClientConfig | undefined> = ConnectionConfig.fromVariable("DB_OWNER_URL")

/** Whether messages of queues share RetrySpool's table. */
export const queues = optional(Config.schema(Schema.Literal("shared"), "DB_QUEUES"))

/** The directory of archived events, if one is set. */
export const archive = optional(Config.String("DB_ARCHIVE_DIR"))

/** The options of the layers that are set, beside those of the pool. */
export const options = Config.map(Config.all({ listen, queues, schema }), ({ listen, queues, schema }) => ({
  ...(listen === undefined ? {} : { listen }),
  ...(queues === undefined ? {} : { queues }),
  ...(schema === undefined ? {} : { schema })
}))

const connection = ConnectionConfig.fromEnvironment(
  Config.all({ connectTimeout: optional(Config.schema(TimeLimit, "DB_CONNECT_TIMEOUT")) })
)

/** What is set of any pool. */
const limits = Config.map(
  Config.all({
    maxConnections: Config.withDefault(Config.schema(PoolSize, "DB_POOL_SIZE"), 25),
    idleTimeout: Config.withDefault(Config.schema(TimeLimit, "DB_IDLE_TIMEOUT"), Duration.minutes(15)),
    connectionTTL: Config.withDefault(Config.schema(TimeLimit, "DB_MAX_LIFETIME"), Duration.hours(1)),
    statementTimeout: optional(Config.schema(TimeLimit, "DB_STATEMENT_TIMEOUT")),
    prepare: Config.withDefault(Config.Boolean("DB_PREPARE"), true),
    maxMessageSize: Config.withDefault(Config.schema(MessageSize, "DB_MAX_MESSAGE_SIZE"), maxRowBytes)
  }),
  ({ statementTimeout, ...rest }) => ({
    rest,
    parameters: statementTimeout === undefined ? {} : { statement_timeout: millisOf(statementTimeout) }
  })
)

const poolOf = (
  connection: PgClient.PgClientConfig,
  { parameters, rest }: Config.Success<typeof limits>
): PgClient.PgPoolConfig => ({
  ...connection,
  ...rest,
  startupParameters: { ...connection.startupParameters, ...parameters }
})

/** The settings of the pool. */
export const pool: Config.Config<PgClient.PgPoolConfig> = Config.map(
  Config.all({ connection, limits }),
  ({ connection, limits }) => poolOf(connection, limits)
)

/** The pool of the standbys, with the limits of the other one, if one is set; and how long a read waits for them. */
export const replica: Config.Config<{
  readonly pool: PgClient.PgPoolConfig | undefined
  readonly wait: Duration.Duration
}> = Config.map(
  Config.all({
    connection: ConnectionConfig.fromVariable("DB_REPLICA_URL"),
    limits,
    wait: Config.withDefault(Config.schema(Schema.DurationFromString, "DB_REPLICA_WAIT"), Duration.seconds(1))
  }),
  ({ connection, limits, wait }) => ({ pool: connection && poolOf(connection, limits), wait })
)

/**
 * The settings of a client of your own: `PgClient`'s own `url` knows one host, and sends the password in plain text unless
 * `sslmode` says otherwise.
 *
 * **Details**
 *
 * The URL means what it means for `DATABASE_URL`, and what it leaves out is read from libpq's variables. All but the settings
 * that tell where and how to connect (`url`, `host`, `port`, `path`, `ssl`, `stream`, `connectTimeout`) can be changed.
 *
 * ```ts
 * import { PgClient } from "@effect/sql-pg"
 * import { Effect, Layer, Redacted } from "effect"
 * import { PostgresConfig } from "effect-strata/postgres"
 *
 * const url = Redacted.make("postgres://app:secret@db1,db2/app?target_session_attrs=read-write")
 *
 * export const Database = Layer.unwrap(
 *   Effect.map(PostgresConfig.fromUrl(url), (config) => PgClient.layer({ ...config, maxConnections: 10 }))
 * )
 * ```
 */
export const fromUrl: (
  url: Redacted.Redacted,
  options?: ConnectionConfig.Options
) => Config.Config<PgClient.PgClientConfig> = ConnectionConfig.fromUrl
