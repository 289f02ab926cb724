/**
 * How much has arrived on a connection. The driver tells of an answer once all of it is there, and a page of large events
 * on a slow line takes its time: only bytes say whether the other end still lives.
 */
import type { PgConnection } from "@effect/sql-pg"
import { Duration, Redacted } from "effect"
import { connect, Socket } from "node:net"
import type { Duplex } from "node:stream"

export interface Traffic {
  /** Settings for one connection: the same, but on a socket that is watched. */
  readonly config: PgConnection.Config
  /** How many bytes have arrived, or how many pieces. */
  readonly received: () => number
}

/** Where the server is: what is given beside a URL wins over it, and its parameters win over the rest of it. */
const addressOf = ({ host, path, port, url }: PgConnection.Config) => {
  const parsed = new URL(url === undefined ? "postgres://" : Redacted.value(url))
  const part = (name: string) => parsed.searchParams.getAll(name).at(-1)
  const authority = decodeURIComponent(parsed.hostname.replace(/^\[(.*)\]$/, "$1"))
  const at = host ?? part("host") ?? (authority === "" ? "localhost" : authority)
  const on = port ?? Number(part("port") ?? (parsed.port === "" ? 5432 : parsed.port))
  if (path !== undefined) return { path }
  return at.startsWith("/") ? { path: `${at}/.s.PGSQL.${on}` } : { host: at, port: on }
}

const open = (config: PgConnection.Config): Duplex => {
  if (config.stream !== undefined) return config.stream()
  const { keepAlive } = config
  return connect({
    ...addressOf(config),
    // A statement is one write, which has nothing to wait for.
    noDelay: true,
    ...(keepAlive === undefined
      ? {}
      : { keepAlive: true, keepAliveInitialDelay: Duration.toMillis(Duration.fromInputUnsafe(keepAlive)) })
  })
}

export const watch = (config: PgConnection.Config): Traffic => {
  let received: (() => number) | undefined
  return {
    config: {
      ...config,
      stream: () => {
        const stream = open(config)
        // Only the first: the driver opens another one to cancel a statement.
        if (received !== undefined) return stream
        if (stream instanceof Socket) {
          // Below TLS, too, which reads past a socket's events.
          received = () => stream.bytesRead
        } else {
          let pieces = 0
          received = () => pieces
          stream.on("data", () => {
            pieces++
          })
        }
        return stream
      }
    },
    received: () => received?.() ?? 0
  }
}
