/**
 * What the settings ask for to keep a connection safe: TLS, and whom to believe.
 *
 * **Details**
 *
 * To another machine the connection is encrypted, and its certificate verified, unless `sslmode=disable` asks for a plain one
 * by name: who can answer in the place of the server would else be sent the password. A setting that would be ignored is
 * refused.
 */
import { Result } from "effect"
import { isIPv4 } from "node:net"
import type { Host } from "./HostSocket.ts"

/** Where a setting stands, and what it says. */
export interface Setting {
  /** Its name in a URL. */
  readonly name: string
  readonly value: string
  /** What an error names: the variable of the environment, or the URL and the parameter. */
  readonly path: ReadonlyArray<string>
}

/** What is wrong with a setting. */
export interface Refusal {
  readonly path: ReadonlyArray<string>
  readonly message: string
}

export interface Security {
  readonly tlsOf: (host: string) => Host["tls"]
  /** The file of each, if there is one. `ca` vouches for the server; the others are the client's own. */
  readonly files: Readonly<Record<"ca" | "cert" | "key", Setting | undefined>>
}

const modes = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] as const
type Mode = (typeof modes)[number]

const isMode = (value: string): value is Mode => modes.some((mode) => mode === value)

/** Settings of libpq for which there is nothing to do as long as they have one of these values. */
const harmless: ReadonlyMap<string, ReadonlyArray<string>> = new Map([
  ["channel_binding", ["disable", "prefer"]],
  ["gssencmode", ["disable", "prefer"]],
  ["sslcertmode", ["allow"]],
  ["sslcompression", ["0"]],
  ["sslnegotiation", ["postgres"]],
  ["sslsni", ["1"]],
  ["ssl_min_protocol_version", ["TLSv1", "TLSv1.1", "TLSv1.2"]]
])

const understood = ["sslmode", "ssl", "sslrootcert", "sslcert", "sslkey"]

/** The names of what is about security in URLs of libpq and of other drivers, or leads to another server. */
const isAboutSecurity = (name: string): boolean =>
  /^(hostaddr|service|ssl|tls|gss|krb|scram|require|channel_?binding|oauth|uselibpqcompat|(min|max)_protocol)/i.test(
    name
  )

/** The variables of libpq about security, or that lead to another server, and what they are called in a URL. */
export const variables = {
  PGSSLMODE: "sslmode",
  PGSSLROOTCERT: "sslrootcert",
  PGSSLCERT: "sslcert",
  PGSSLKEY: "sslkey",
  PGSERVICE: "service",
  PGHOSTADDR: "hostaddr",
  PGREQUIREAUTH: "require_auth",
  PGREQUIREPEER: "requirepeer",
  PGREQUIRESSL: "requiressl",
  PGCHANNELBINDING: "channel_binding",
  PGGSSENCMODE: "gssencmode",
  PGSSLCERTMODE: "sslcertmode",
  PGSSLCRL: "sslcrl",
  PGSSLCRLDIR: "sslcrldir",
  PGSSLNEGOTIATION: "sslnegotiation",
  PGSSLSNI: "sslsni",
  PGSSLMINPROTOCOLVERSION: "ssl_min_protocol_version",
  PGSSLMAXPROTOCOLVERSION: "ssl_max_protocol_version"
} as const

/** Whether nobody but this machine can answer under this name. */
const isThisMachine = (host: string): boolean =>
  host.startsWith("/") ||
  host.toLowerCase() === "localhost" ||
  host === "::1" ||
  (isIPv4(host) && host.startsWith("127."))

const refused = ({ name, path, value }: Setting): Refusal | undefined => {
  if (!isAboutSecurity(name) || understood.includes(name) || harmless.get(name)?.includes(value)) return undefined
  const lower = name.toLowerCase()
  if (lower !== name && (understood.includes(lower) || harmless.has(lower))) {
    return { path, message: `This setting would be ignored: its name is written ${lower}` }
  }
  return {
    path,
    message: "This setting is not supported, and would be ignored: leave it out if the connection is safe without it"
  }
}

const modeOf = (find: (name: string) => Setting | undefined): Result.Result<Mode | undefined, Refusal> => {
  const mode = find("sslmode")
  const ssl = find("ssl")
  if (ssl !== undefined) {
    // What stands in a variable is no contradiction: the URL counts before it.
    return ssl.value === "true" && mode?.path[0] !== ssl.path[0]
      ? Result.succeed("require")
      : Result.fail({ path: ssl.path, message: "Expected true, and no sslmode beside it: sslmode alone says more" })
  }
  if (mode === undefined) return Result.succeed(undefined)
  return isMode(mode.value)
    ? Result.succeed(mode.value)
    : Result.fail({ path: mode.path, message: `Expected one of ${modes.join(", ")}` })
}

const isOptional = (mode: Mode | undefined) => mode === "allow" || mode === "prefer"

/**
 * What the settings mean for these hosts. Of two settings with the same name the first one counts. `hasOptions` says that
 * there are options of TLS beside them.
 */
export const make = (
  settings: ReadonlyArray<Setting>,
  hosts: ReadonlyArray<string>,
  hasOptions: boolean
): Result.Result<Security, Refusal> => {
  const problem = settings.map(refused).find((refusal) => refusal !== undefined)
  if (problem !== undefined) return Result.fail(problem)
  const find = (name: string) => settings.find((setting) => setting.name === name)
  const files = { ca: find("sslrootcert"), cert: find("sslcert"), key: find("sslkey") }
  const hasCertificates = hasOptions || Object.values(files).some((file) => file !== undefined)

  return Result.flatMap(modeOf(find), (mode) => {
    if (isOptional(mode) && !hosts.every(isThisMachine)) {
      return Result.fail({
        path: find("sslmode")?.path ?? [],
        message:
          "Whoever answers in the place of the server would be sent the password: write verify-full, or disable for a plain connection"
      })
    }
    if (hasCertificates && isOptional(mode)) {
      return Result.fail({
        path: find("sslmode")?.path ?? [],
        message: "Expected verify-full, as there are certificates"
      })
    }
    const tlsOf = (host: string): Host["tls"] => {
      if (mode === "disable") return "never"
      if (isOptional(mode)) return "offered"
      return mode !== undefined || hasCertificates || !isThisMachine(host) ? "always" : "never"
    }
    return Result.succeed({ tlsOf, files })
  })
}
