/** A socket to one server, with TLS where it is asked for. */
import { PgProtocol } from "@effect/sql-pg"
import { Duration, Effect, Schema } from "effect"
import { connect as connectTcp, isIP, type Socket } from "node:net"
import type { Duplex } from "node:stream"
import { connect as connectTls, type ConnectionOptions } from "node:tls"

/** Where a server is, and whether its connections are encrypted. */
export interface Host {
  /** A name or an address; a path is the directory of a Unix socket. */
  readonly name: string
  readonly port: number
  /** `"offered"` encrypts if the server says that it can: so not if somebody else says that it cannot. */
  readonly tls: "never" | "offered" | "always"
}

export interface SocketOptions {
  /** The options of TLS, the same for all hosts: the name that the certificate has to have is that of the host. */
  readonly tls: ConnectionOptions
  /** An idle connection is probed after so long a silence. */
  readonly keepAlive: Duration.Duration
}

/** Why a host is not the one. */
export class HostFailure extends Schema.TaggedError<HostFailure>("effect-strata/postgres/HostFailure")("HostFailure", {
  message: Schema.String
}) {}

/** An open connection, and the address that it has found: a name can have several. */
export interface Opened {
  readonly socket: Duplex
  readonly address: string | undefined
}

export const describeHost = ({ name, port }: Host): string =>
  name.startsWith("/") ? `${name}/.s.PGSQL.${port}` : `${name}:${port}`

/** If a name has several addresses, the error has no message of its own, but one for each. */
const failureOf = (error: Error): HostFailure => {
  const first: unknown = error instanceof AggregateError ? error.errors[0] : error
  return new HostFailure({ message: first instanceof Error ? first.message : String(first) })
}

const closed = new HostFailure({ message: "the server closed the connection" })

/** The next time that the socket says `event`. It fails if the socket does before. */
export const next = <A extends ReadonlyArray<unknown>>(socket: Duplex, event: string): Effect.Effect<A, HostFailure> =>
  Effect.callback((resume) => {
    const happened = (...values: A) => settle(Effect.succeed(values))
    const failed = (error: Error) => settle(Effect.fail(failureOf(error)))
    const ended = () => settle(Effect.fail(closed))
    const settle = (result: Effect.Effect<A, HostFailure>) => {
      forget()
      resume(result)
    }
    const forget = () => {
      socket.off(event, happened).off("error", failed).off("close", ended)
    }
    socket.on(event, happened).on("error", failed).on("close", ended)
    return Effect.sync(forget)
  })

const dial = ({ name, port }: Host, address: string | undefined, keepAlive: Duration.Duration): Socket =>
  connectTcp({
    ...(name.startsWith("/") ? { path: `${name}/.s.PGSQL.${port}` } : { host: address ?? name, port }),
    // A statement is one write: the socket need not wait for more of it.
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: Duration.toMillis(keepAlive)
  })

/** Asks for TLS, and gives the encrypted socket. What the server says before it is encrypted is one byte, and no more. */
const encrypt = Effect.fnUntraced(function* (raw: Socket, { name, tls }: Host, options: ConnectionOptions) {
  raw.write(PgProtocol.encodeSslRequest())
  const [answer] = yield* next<[Buffer]>(raw, "data")
  if (answer.length === 1 && answer[0] === 0x4e && tls === "offered") return raw
  if (answer.length !== 1 || answer[0] !== 0x53) {
    return yield* new HostFailure({
      message: answer[0] === 0x4e ? "The server does not support TLS" : "The server does not answer as PostgreSQL does"
    })
  }
  const host = isIP(name) === 0 ? { host: name, servername: name } : { host: name, servername: "" }
  const socket = connectTls({ ...options, ...host, socket: raw })
  socket.on("error", ignore)
  yield* next(socket, "secureConnect")
  return socket
})

// A socket that has been given up may still fail.
const ignore = () => {}

/** Connects to the host; to this address of it, if one is given. */
export const open = (host: Host, options: SocketOptions, address?: string): Effect.Effect<Opened, HostFailure> =>
  Effect.suspend(() => {
    const raw = dial(host, address, options.keepAlive)
    raw.on("error", ignore)
    const opening: Effect.Effect<Duplex, HostFailure> = Effect.andThen(
      next(raw, "connect"),
      host.tls === "never" ? Effect.succeed(raw) : encrypt(raw, host, options.tls)
    )
    return opening.pipe(
      Effect.map((socket) => ({ socket, address: raw.remoteAddress })),
      Effect.onError(() => Effect.sync(() => raw.destroy()))
    )
  })
