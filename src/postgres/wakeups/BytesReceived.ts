/**
 * How much has arrived on a connection. The driver tells of an answer once all of it is there, and a page of large events
 * takes its time on a slow network: only the bytes that arrive say whether the other end still lives.
 */
import type { PgConnection } from "@effect/sql-pg"
import { Duration, Redacted } from "effect"
import { connect, Socket } from "node:net"
import type { Duplex } from "node:stream"

export interface WatchedConfig {
  /** The settings of a connection, whose stream is watched. They are for one connection. */
  readonly config: PgConnection.Config
  /** How many bytes have arrived: or how many chunks, on a stream that is no socket. */
  readonly received: () => number
}

/** Where the server is. A setting wins over the URL, and a parameter of the URL wins over the rest of it. */
const addressOf = ({ host, path, port, url }: PgConnection.Config) => {
  const parsed = new URL(url === undefined ? "postgres://" : Redacted.value(url))
  const part = (name: string) => parsed.searchParams.getAll(name).at(-1)
  const authority = decodeURIComponent(parsed.hostname.replace(/^\[(.*)\]$/, "$1"))
  const server = host ?? part("host") ?? (authority === "" ? "localhost" : authority)
  const serverPort = port ?? Number(part("port") ?? (parsed.port === "" ? 5432 : parsed.port))
  if (path !== undefined) return { path }
  return server.startsWith("/") ? { path: `${server}/.s.PGSQL.${serverPort}` } : { host: server, port: serverPort }
}

const open = (config: PgConnection.Config): Duplex => {
  if (config.stream !== undefined) return config.stream()
  const { keepAlive } = config
  return connect({
    ...addressOf(config),
    // A statement is one write: the socket need not wait for more of it.
    noDelay: true,
    ...(keepAlive === undefined
      ? {}
      : { keepAlive: true, keepAliveInitialDelay: Duration.toMillis(Duration.fromInputUnsafe(keepAlive)) })
  })
}

export const watch = (config: PgConnection.Config): WatchedConfig => {
  let received: (() => number) | undefined
  return {
    config: {
      ...config,
      stream: () => {
        const stream = open(config)
        // Only the first stream is watched: the driver opens another one to cancel a statement.
        if (received !== undefined) return stream
        if (stream instanceof Socket) {
          // `bytesRead` counts below TLS, too: TLS reads from the socket without its events.
          received = () => stream.bytesRead
        } else {
          let chunks = 0
          received = () => chunks
          stream.on("data", () => {
            chunks++
          })
        }
        return stream
      }
    },
    received: () => received?.() ?? 0
  }
}
