/**
 * The settings of a connection pool, from `Config`: so from the environment, unless another provider is given.
 *
 * | name | default | |
 * |---|---|---|
 * | `DATABASE_URL` | | `postgres://user:password@host:5432/database?sslmode=require` |
 * | `DB_HOST`, `DB_PORT`, `DB_NAME`, `DB_USER`, `DB_PASSWORD`, `DB_SSLMODE` | `localhost`, 5432 | its parts, where there is no URL |
 * | `DB_SCHEMA` | | the schema of the stores' tables |
 * | `DB_QUEUES` | | `shared` where messages of queues are in RetrySpool's table: the option `queues` |
 * | `DB_POOL_SIZE` | 25 | connections at most |
 * | `DB_IDLE_TIMEOUT` | `15 minutes` | an idle connection is closed after this |
 * | `DB_MAX_LIFETIME` | `1 hour` | any connection is replaced after this |
 * | `DB_CONNECT_TIMEOUT` | `5 seconds` | |
 * | `DB_STATEMENT_TIMEOUT` | none | the server cancels a statement after this |
 * | `DB_PREPARE` | `true` | `false` behind a pooler that lends connections by transaction and knows no prepared statements |
 *
 * **Details**
 *
 * `sslmode` is one of `disable`, `allow`, `prefer`, `require`, `verify-ca` and `verify-full`. Certificates are verified in
 * every mode that uses TLS, `require` included. `statement_timeout`, `lock_timeout` and
 * `idle_in_transaction_session_timeout` in the URL, in the server's notation, are settings of each session.
 */
import type { PgClient } from "@effect/sql-pg"
import { Config, Duration, Option, Redacted, Schema } from "effect"

const Url = Schema.Redacted(
  Schema.String.check(
    Schema.makeFilter((text) =>
      /^postgres(ql)?:/.test(text) && URL.canParse(text) ? undefined : "Expected a postgres:// URL"
    )
  )
)

const PoolSize = Schema.Int.check(Schema.isGreaterThan(0))

const TimeLimit = Schema.DurationFromString.check(
  Schema.makeFilter((duration) => (Duration.toMillis(duration) > 0 ? undefined : "Expected a duration above 0"))
)

const SslMode = Schema.Literals(["disable", "allow", "prefer", "require", "verify-ca", "verify-full"])

// Parameters of a URL that other drivers send to the server. This driver does not read them, and libpq does not either.
const sessionSettings = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"]

const applicationNameOf = (url: Redacted.Redacted | undefined) =>
  url !== undefined && new URL(Redacted.value(url)).searchParams.has("application_name") ? undefined : "effect-strata"

const sessionSettingsOf = (url: string): Record<string, string> =>
  Object.fromEntries([...new URL(url).searchParams].filter(([name]) => sessionSettings.includes(name)))

/** In the server's notation: whole milliseconds, and 0 for no limit. */
const millisOf = (limit: Duration.Duration) =>
  Duration.isFinite(limit) ? `${Math.ceil(Duration.toMillis(limit))}` : "0"

const optional = <A>(config: Config.Config<A>) => Config.map(Config.option(config), Option.getOrUndefined)

/** The schema of the stores' tables, if one is set. */
export const schema = optional(Config.String("DB_SCHEMA"))

/** Whether messages of queues share RetrySpool's table. */
export const queues = optional(Config.schema(Schema.Literal("shared"), "DB_QUEUES"))

/** The options of the layers that are set, beside those of the pool. */
export const options = Config.map(Config.all({ schema, queues }), ({ queues, schema }) => ({
  ...(schema === undefined ? {} : { schema }),
  ...(queues === undefined ? {} : { queues })
}))

/** The settings of the pool. */
export const pool: Config.Config<PgClient.PgPoolConfig> = Config.map(
  Config.all({
    url: optional(Config.schema(Url, "DATABASE_URL")),
    host: optional(Config.String("DB_HOST")),
    port: optional(Config.Port("DB_PORT")),
    database: optional(Config.String("DB_NAME")),
    username: optional(Config.String("DB_USER")),
    password: optional(Config.Redacted("DB_PASSWORD")),
    sslMode: Config.withDefault(Config.schema(SslMode, "DB_SSLMODE"), "disable"),
    maxConnections: Config.withDefault(Config.schema(PoolSize, "DB_POOL_SIZE"), 25),
    idleTimeout: Config.withDefault(Config.schema(TimeLimit, "DB_IDLE_TIMEOUT"), Duration.minutes(15)),
    connectionTTL: Config.withDefault(Config.schema(TimeLimit, "DB_MAX_LIFETIME"), Duration.hours(1)),
    connectTimeout: optional(Config.schema(TimeLimit, "DB_CONNECT_TIMEOUT")),
    statementTimeout: optional(Config.schema(TimeLimit, "DB_STATEMENT_TIMEOUT")),
    prepare: Config.withDefault(Config.Boolean("DB_PREPARE"), true)
  }),
  ({ database, host, password, port, sslMode, statementTimeout, url, username, ...limits }) => ({
    ...limits,
    ...(url === undefined
      ? // The driver reads the mode of TLS only from a URL. The settings beside it win over the URL's parts.
        { url: Redacted.make(`postgres://?sslmode=${sslMode}`), host, port, database, username, password }
      : { url }),
    applicationName: applicationNameOf(url),
    // An idle connection is probed after so long a silence, so it is found dead if its other end has gone away in silence.
    keepAlive: "30 seconds",
    startupParameters: {
      ...(url === undefined ? {} : sessionSettingsOf(Redacted.value(url))),
      ...(statementTimeout === undefined ? {} : { statement_timeout: millisOf(statementTimeout) })
    }
  })
)
