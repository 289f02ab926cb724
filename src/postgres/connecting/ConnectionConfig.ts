/** The settings of a connection as the driver takes them, from a URL and from the environment. */
import type { PgClient } from "@effect/sql-pg"
import { Config, Duration, Effect, Option, Redacted, Result, Schema, SchemaIssue } from "effect"
import { readFile } from "node:fs/promises"
import type { ConnectionOptions } from "node:tls"
import { type Address, type ConnectionUrl, pair, parse } from "./ConnectionUrl.ts"
import { describeHost, type Host } from "./HostSocket.ts"
import { type SessionAttributes, sessionAttributes } from "./HostStartup.ts"
import * as HostStream from "./HostStream.ts"
import * as Security from "./Security.ts"

/** What `PostgresConfig.fromUrl` takes beside the URL. */
export interface Options {
  /** Options of TLS, such as the `ca` to trust. They ask for TLS, also to this machine. */
  readonly tls?: ConnectionOptions | undefined
  /** How long one host may take: 5 seconds, unless the URL says otherwise by `connect_timeout`. */
  readonly connectTimeout?: Duration.Input | undefined
}

/** A setting from somewhere, and where it stands. */
interface Given<A = string> {
  readonly value: A
  readonly path: ReadonlyArray<string>
}

/** What a part of the environment says. */
interface Variables {
  readonly host: Given | undefined
  readonly port: Given | undefined
  readonly database: Given | undefined
  readonly username: Given | undefined
  readonly password: Given<Redacted.Redacted> | undefined
  readonly attributes: Given | undefined
  readonly security: ReadonlyArray<Security.Setting>
}

const defaultConnectTimeout = Duration.seconds(5)

/** An idle connection is probed after so long a silence, so it is found dead if its other end has gone away in silence. */
const keepAlive = Duration.seconds(30)

// Parameters of a URL that other drivers send to the server. This driver does not read them, and libpq does not either.
const sessionSettings = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"]

/** The value of a variable; nothing if it is empty, as for libpq. */
const given = <A>(name: string, config: Config.Config<A>, isEmpty: (value: A) => boolean) =>
  Config.map(Config.option(config), (value): Given<A> | undefined =>
    Option.isSome(value) && !isEmpty(value.value) ? { value: value.value, path: [name] } : undefined
  )

const text = (name: string) => given(name, Config.String(name), (value) => value === "")

const secret = (name: string) => given(name, Config.Redacted(name), (value) => Redacted.value(value) === "")

/** The settings of security among the variables, by their names in a URL. */
const security = (names: Readonly<Record<string, string>>) =>
  Config.map(
    Config.all(
      Object.entries(names).map(([variable, name]) => Config.map(text(variable), (found) => ({ found, name })))
    ),
    (all): ReadonlyArray<Security.Setting> =>
      all.flatMap(({ found, name }) => (found === undefined ? [] : [{ ...found, name }]))
  )

/** The variables that all programs on libpq read. */
const libpq: Config.Config<Variables> = Config.all({
  host: text("PGHOST"),
  port: text("PGPORT"),
  database: text("PGDATABASE"),
  username: text("PGUSER"),
  password: secret("PGPASSWORD"),
  attributes: text("PGTARGETSESSIONATTRS"),
  security: security(Security.variables)
})

/** The parts of a URL, where there is none. */
const parts: Config.Config<Variables> = Config.all({
  host: text("DB_HOST"),
  port: text("DB_PORT"),
  database: text("DB_NAME"),
  username: text("DB_USER"),
  password: secret("DB_PASSWORD"),
  attributes: text("DB_TARGET_SESSION_ATTRS"),
  security: security({ DB_SSLMODE: "sslmode", DB_SSLROOTCERT: "sslrootcert" })
})

const refuse = ({ message, path }: Security.Refusal) => {
  const issue = path.reduceRight<SchemaIssue.Issue>(
    (inner, name) => new SchemaIssue.Pointer([name], inner),
    new SchemaIssue.InvalidValue({ message })
  )
  return Effect.fail(new Config.ConfigError(new Schema.SchemaError(issue)))
}

/** The result, or why the setting that stands there is refused. */
const checked = <A>(result: Result.Result<A, string>, path: ReadonlyArray<string>) =>
  Result.mapError(result, (message) => ({ path, message }))

const isAttributes = (value: string): value is SessionAttributes => sessionAttributes.some((name) => name === value)

/** Everything that says something of a connection. Of two places that name the same, the first one counts. */
interface Places {
  readonly url: ConnectionUrl
  readonly urlName: string
  readonly variables: ReadonlyArray<Variables>
}

const hostsOf = ({ url, urlName, variables }: Places) => {
  const find = (inUrl: ReadonlyArray<string>, name: "host" | "port"): Given<ReadonlyArray<string>> => {
    const found = variables.map((variable) => variable[name]).find((variable) => variable !== undefined)
    if (inUrl.length > 0 || found === undefined) return { value: inUrl, path: [urlName] }
    return { value: found.value.split(",").map((part) => part.trim()), path: found.path }
  }
  const ports = find(url.ports, "port")
  return checked(pair(find(url.hosts, "host").value, ports.value), ports.path)
}

const attributesOf = ({ url, urlName, variables }: Places): Result.Result<SessionAttributes, Security.Refusal> => {
  const name = "target_session_attrs"
  const inUrl = url.parameters.get(name)
  const found =
    inUrl === undefined
      ? variables.map(({ attributes }) => attributes).find((attributes) => attributes !== undefined)
      : { value: inUrl, path: [urlName, name] }
  if (found === undefined) return Result.succeed("any")
  return isAttributes(found.value)
    ? Result.succeed(found.value)
    : Result.fail({ path: found.path, message: `Expected one of ${sessionAttributes.join(", ")}` })
}

const connectTimeoutOf = ({ url, urlName }: Places, { connectTimeout }: Options) => {
  const name = "connect_timeout"
  const inUrl = url.parameters.get(name)
  if (connectTimeout !== undefined) return Result.succeed(Duration.fromInputUnsafe(connectTimeout))
  if (inUrl === undefined) return Result.succeed(defaultConnectTimeout)
  return /^\d+$/.test(inUrl)
    ? Result.succeed(Number(inUrl) === 0 ? Duration.infinity : Duration.seconds(Number(inUrl)))
    : Result.fail({ path: [urlName, name], message: "Expected seconds, or 0 for no limit" })
}

const securityOf = ({ url, urlName, variables }: Places, hosts: ReadonlyArray<Address>, { tls }: Options) =>
  Security.make(
    [
      ...[...url.parameters].map(([name, value]) => ({ name, value, path: [urlName, name] })),
      ...variables.flatMap(({ security }) => security)
    ],
    hosts.map(({ name }) => name),
    tls !== undefined
  )

/** Reads the files that the settings name. `system` stands for the authorities that Node knows. */
const certificates = (files: Security.Security["files"]) =>
  Effect.map(
    Effect.forEach(["ca", "cert", "key"] as const, (name) => {
      const file = files[name]
      if (file === undefined || file.value === "system") return Effect.succeed({})
      return Effect.tryPromise(() => readFile(file.value)).pipe(
        Effect.map((content): ConnectionOptions => ({ [name]: content })),
        Effect.catch(() => refuse({ path: file.path, message: "Expected a file that can be read" }))
      )
    }),
    (all): ConnectionOptions => Object.assign({}, ...all)
  )

/** What only the URL names, as far as it does, and else the environment. */
const whoOf = ({ url, variables }: Places, rest: URL): PgClient.PgClientConfig => {
  const find = (name: "database" | "username") =>
    variables.map((variable) => variable[name]?.value).find((value) => value !== undefined)
  const hasDatabase = rest.pathname.length > 1 || url.parameters.has("dbname")
  const hasUser = rest.username !== "" || url.parameters.has("user")
  const hasPassword = rest.password !== "" || url.parameters.has("password")
  const password = variables.map((variable) => variable.password?.value).find((value) => value !== undefined)
  return {
    ...(hasDatabase ? {} : { database: find("database") }),
    ...(hasUser ? {} : { username: find("username") }),
    ...(hasPassword ? {} : { password }),
    ...(url.parameters.has("application_name") ? {} : { applicationName: "effect-strata" }),
    startupParameters: Object.fromEntries([...url.parameters].filter(([name]) => sessionSettings.includes(name)))
  }
}

/** Where the driver connects to. It knows one host; several, and what is asked of them, are the business of a stream. */
const whereOf = (
  hosts: ReadonlyArray<Host>,
  wanted: SessionAttributes,
  connectTimeout: Duration.Duration,
  tls: ConnectionOptions
): PgClient.PgClientConfig => {
  const [first] = hosts
  if (hosts.length === 1 && first !== undefined && wanted === "any") {
    const ssl = { never: false, offered: undefined, always: tls }[first.tls]
    return { host: first.name, port: first.port, ssl, connectTimeout }
  }
  const tries = wanted === "prefer-standby" ? 2 * hosts.length : hosts.length
  return {
    stream: HostStream.make({ hosts, wanted, connectTimeout, tls, keepAlive }),
    // TLS is negotiated in the stream. The host is only what spans name.
    ssl: false,
    host: hosts.map(describeHost).join(","),
    // The stream says what was wrong with each host. A moment more lets it do so.
    connectTimeout: Duration.sum(Duration.times(connectTimeout, tries), Duration.seconds(1))
  }
}

const resolve = Effect.fnUntraced(function* (places: Places, options: Options) {
  const settings = Result.gen(function* () {
    const addresses = yield* hostsOf(places)
    return {
      addresses,
      wanted: yield* attributesOf(places),
      connectTimeout: yield* connectTimeoutOf(places, options),
      security: yield* securityOf(places, addresses, options)
    }
  })
  if (Result.isFailure(settings)) return yield* refuse(settings.failure)
  const { addresses, connectTimeout, security, wanted } = settings.success
  const hosts = addresses.map(({ name, port }) => ({ name, port, tls: security.tlsOf(name) }))
  const isEncrypted = hosts.some((host) => host.tls !== "never")
  const tls = { ...(isEncrypted ? yield* certificates(security.files) : {}), ...options.tls }
  const rest = places.url.without(["host", "port", "sslmode", "connect_timeout"])
  if (hosts.some((host) => host.tls === "offered")) rest.searchParams.set("sslmode", "prefer")
  const config: PgClient.PgClientConfig = {
    url: Redacted.make(rest.href),
    ...whoOf(places, rest),
    ...whereOf(hosts, wanted, connectTimeout, tls),
    keepAlive
  }
  return config
})

/** Checks the text of a URL. */
const parsed = (name: string, url: Redacted.Redacted) => {
  const result = parse(Redacted.value(url))
  return Result.isSuccess(result) ? Effect.succeed(result.success) : refuse({ path: [name], message: result.failure })
}

/** The settings of a connection to this URL. What it leaves out, libpq's variables say. */
export const fromUrl = (url: Redacted.Redacted, options: Options = {}): Config.Config<PgClient.PgClientConfig> =>
  Config.mapEffect(libpq, (variables) =>
    Effect.flatMap(parsed("url", url), (url) => resolve({ url, urlName: "url", variables: [variables] }, options))
  )

/** The same for the URL that a variable holds, if it holds one. */
export const fromVariable = (name: string): Config.Config<PgClient.PgClientConfig | undefined> =>
  Config.mapEffect(Config.all({ libpq, found: secret(name) }), ({ found, libpq }) =>
    found === undefined
      ? Effect.undefined
      : Effect.flatMap(parsed(name, found.value), (url) => resolve({ url, urlName: name, variables: [libpq] }, {}))
  )

/** The same for `DATABASE_URL`, or for its parts where there is none. */
export const fromEnvironment = (options: Config.Config<Options>): Config.Config<PgClient.PgClientConfig> =>
  Config.mapEffect(
    Config.all({ url: secret("DATABASE_URL"), parts, libpq, options }),
    Effect.fnUntraced(function* ({ libpq, options, parts, url: found }) {
      const url = yield* parsed("DATABASE_URL", found?.value ?? Redacted.make("postgres://"))
      // Settings of safety count wherever they stand.
      const { attributes, security } = parts
      const none = { host: undefined, port: undefined, database: undefined, username: undefined, password: undefined }
      const variables = [found === undefined ? parts : { ...none, attributes, security }, libpq]
      return yield* resolve({ url, urlName: "DATABASE_URL", variables }, options)
    })
  )

/** Whether the environment names a database at all, in any of these ways. */
export const isNamed: Config.Config<boolean> = Config.map(
  Config.all({ url: secret("DATABASE_URL"), parts, libpq }),
  ({ libpq, parts, url }) =>
    url !== undefined ||
    [parts, libpq].some(({ database, host, username }) => (database ?? host ?? username) !== undefined)
)
