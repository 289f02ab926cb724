/**
 * What the driver has of a connection but does not tell: its socket, and whether an answer is still to come. With another
 * version of the driver these may be missing: then the connection has no line, and nobody notices when it is dead.
 */
import { PgConnection } from "@effect/sql-pg"
import { Effect, Predicate } from "effect"
import { connect, Socket } from "node:net"
import { Duplex } from "node:stream"
import type { Reason } from "../../StoreError.ts"
import * as HostStream from "../connecting/HostStream.ts"

/** Where the other end of a line is. */
export interface Address {
  readonly host: string
  readonly port: number
}

/** How another connection gets to the server of a line. */
export interface Way {
  /** The same for all lines that lead to the same server. */
  readonly name: string
  /** Absent for a Unix socket, and for a stream that is no socket. */
  readonly address: Address | undefined
  /** The settings of such a connection. */
  readonly settings: (config: PgConnection.Config) => PgConnection.Config
}

export interface Line {
  readonly connection: PgConnection.PgConnection
  readonly way: Way
  /** Whether a statement is on its way, or its answer, and is read: a slow reader of a stream pauses the socket. */
  readonly isAwaiting: () => boolean
  /** How many bytes have arrived, or how many chunks on a stream that is no socket: part of an answer counts. */
  readonly received: () => number
  /** How many bytes were given to the socket. Nobody knows of a stream that is no socket. */
  readonly sent: (() => number) | undefined
  readonly isClosed: () => boolean
  /** Closes it at once. What is on its way fails with the reason, and the pool opens another connection in its place. */
  readonly close: (reason: Reason) => void
  /** Closes it, and waits until the driver knows: then the pool gives it to nobody any more. */
  readonly retire: (reason: Reason) => Effect.Effect<void>
}

const isConnection = (value: unknown): value is PgConnection.PgConnection =>
  Predicate.hasProperty(value, PgConnection.TypeId)

/** The driver's own connection, of what its pool, its client or a transaction has given. */
export const connectionOf = (given: unknown): PgConnection.PgConnection | undefined => {
  const connection = Predicate.hasProperty(given, "connection") ? given.connection : given
  const base = Predicate.hasProperty(connection, "base") ? connection.base : connection
  return isConnection(base) ? base : undefined
}

const addressOf = (socket: Duplex): Address | undefined => {
  if (!(socket instanceof Socket)) return undefined
  const { remoteAddress: host, remotePort: port } = socket
  return host === undefined || port === undefined ? undefined : { host, port }
}

/** The address is the server's own where its name has several. A stream of the application's own knows the way by itself. */
const wayOf = (socket: Duplex): Way => {
  const under = HostStream.underOf(socket)
  if (under !== undefined) {
    const { again, name } = under
    return { name, address: undefined, settings: (config) => ({ ...config, stream: again }) }
  }
  const address = addressOf(socket)
  if (address === undefined) return { name: "", address, settings: (config) => config }
  return {
    name: `${address.host} ${address.port}`,
    address,
    settings: (config) =>
      config.stream === undefined ? { ...config, stream: () => connect({ ...address, noDelay: true }) } : config
  }
}

/** How many chunks have arrived on streams that are no sockets. Many layers on one pool share the listener that counts them. */
const chunksOf = new WeakMap<Duplex, { count: number }>()

const countChunks = (stream: Duplex): { readonly count: number } => {
  const known = chunksOf.get(stream)
  if (known !== undefined) return known
  const chunks = { count: 0 }
  chunksOf.set(stream, chunks)
  stream.on("data", () => {
    chunks.count++
  })
  return chunks
}

const countersOf = (socket: Duplex): Pick<Line, "received" | "sent"> => {
  if (socket instanceof Socket) return { received: () => socket.bytesRead, sent: () => socket.bytesWritten }
  const chunks = countChunks(socket)
  return { received: () => chunks.count, sent: undefined }
}

export const of = (connection: PgConnection.PgConnection): Line | undefined => {
  if (!Predicate.hasProperty(connection, "consumer") || !Predicate.hasProperty(connection, "session")) return undefined
  const socket = Predicate.hasProperty(connection.session, "socket") ? connection.session.socket : undefined
  if (!(socket instanceof Duplex)) return undefined
  return {
    connection,
    way: wayOf(socket),
    isAwaiting: () => connection.consumer !== undefined && !socket.isPaused(),
    ...countersOf(HostStream.underOf(socket)?.socket ?? socket),
    isClosed: () => socket.destroyed,
    // The driver passes the error of a socket on to the statement that waits.
    close: (reason) => socket.destroy(reason),
    retire: (reason) =>
      Effect.callback((resume) => {
        if (socket.destroyed) return resume(Effect.void)
        const end = () => resume(Effect.void)
        // The driver has listened to the socket for longer, so it has been told by then.
        socket.once("error", end).once("close", end).destroy(reason)
      })
  }
}

/** Whether anything accepts a TCP connection at the address, within the time limit. */
export const accepts = (address: Address, limitMillis: number): Effect.Effect<boolean> =>
  Effect.callback((resume) => {
    const socket = connect({ ...address, timeout: limitMillis })
    const end = (isAccepted: boolean) => () => {
      socket.destroy()
      resume(Effect.succeed(isAccepted))
    }
    socket.once("connect", end(true)).once("timeout", end(false)).on("error", end(false))
    return Effect.sync(() => socket.destroy())
  })
