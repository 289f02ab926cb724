/**
 * Connections to the first of several servers that answers and fits, in the shape in which the driver takes them: as a stream.
 *
 * **Details**
 *
 * The driver opens a stream for each connection, writes its first packet at once, and knows one server only. So the stream
 * keeps that packet, and sends it to one server after the other. The driver answers each that asks for a password, and learns
 * of none but the one that is used. TLS is negotiated here, below the driver, because a certificate has to have the name of
 * the server that shows it. A request to cancel a statement goes to the server that runs the statement.
 */
import { type Duration, Effect, type Fiber, Result } from "effect"
import { Duplex } from "node:stream"
import { describeHost, type Host, HostFailure, open, type SocketOptions } from "./HostSocket.ts"
import { Refused, type SessionAttributes, startUp } from "./HostStartup.ts"

export interface Settings extends SocketOptions {
  readonly hosts: ReadonlyArray<Host>
  readonly wanted: SessionAttributes
  /** How long one host may take until the session has started. */
  readonly connectTimeout: Duration.Duration
}

type Callback = (error?: Error | null) => void

/** What stands in a packet in place of the protocol's version. */
const cancelRequest = 80877102
const sslRequest = 80877103

/** The length and the version or request: what every first packet has. */
const packetHeaderBytes = 8

/** A host that has said nothing at all is tried last for so long: it may be gone, and each try takes the whole time limit. */
const silenceMillis = 60_000

/** What the connections to the same hosts share. */
class Hosts {
  readonly settings: Settings
  /** By process id and secret: where the statements of a session run. */
  readonly sessions = new Map<string, { readonly host: Host; readonly address: string | undefined }>()
  private readonly silentUntil = new Map<Host, number>()

  constructor(settings: Settings) {
    this.settings = settings
  }

  /** Which hosts are tried, and what each has to be. A standby that is only preferred is looked for first. */
  candidates(): ReadonlyArray<Candidate> {
    const { hosts, wanted } = this.settings
    const now = performance.now()
    const isSilent = (host: Host) => (this.silentUntil.get(host) ?? 0) > now
    const order = [...hosts.filter((host) => !isSilent(host)), ...hosts.filter(isSilent)]
    const passes = wanted === "prefer-standby" ? (["standby", "any"] as const) : [wanted]
    return passes.flatMap((pass) => order.map((host) => [host, pass] as const))
  }

  markSilent(host: Host): void {
    this.silentUntil.set(host, performance.now() + silenceMillis)
  }
}

/** What lies under a stream that uses a server. */
export interface Under {
  readonly socket: Duplex
  /** The name of the server: the same for all streams that lead there. */
  readonly name: string
  /** Opens another stream to the same server, whatever it is by now. */
  readonly again: () => Duplex
}

/** The connection of the driver: a wire to one server at a time. */
class HostStream extends Duplex {
  private readonly begin: (stream: HostStream, packet: Buffer) => Fiber.Fiber<void>
  private connecting: Fiber.Fiber<void> | undefined
  /** The server that is asked, or used. */
  private server: Duplex | undefined
  /** What lies under the stream, once a server is used. */
  under: Under | undefined

  constructor(begin: (stream: HostStream, packet: Buffer) => Fiber.Fiber<void>) {
    super({ allowHalfOpen: false })
    this.begin = begin
  }

  /** What is written goes to this server from now on; to none, it is dropped: it answers a server that has been given up. */
  lead(server: Duplex | undefined): void {
    this.server = server
  }

  /** Uses the server from now on. */
  adopt(server: Duplex, unread: Buffer): void {
    this.server = server
    let hasEnded = false
    server
      .on("data", (chunk: Buffer) => {
        if (!this.push(chunk)) server.pause()
      })
      .on("error", (error) => this.destroy(error))
      .once("end", () => {
        hasEnded = true
        this.push(null)
        // Nobody may be reading, as after a request to cancel: without a read there would be no end, and so no close.
        this.read(0)
      })
      .once("close", () => {
        if (!hasEnded) this.destroy()
      })
    if (unread.length === 0 || this.push(unread)) server.resume()
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: Callback): void {
    if (this.server === undefined) {
      if (this.connecting === undefined) this.connecting = this.begin(this, chunk)
      callback()
    } else if (this.server.write(chunk)) callback()
    else this.server.once("drain", callback)
  }

  override _read(): void {
    this.server?.resume()
  }

  override _final(callback: Callback): void {
    if (this.server === undefined) callback()
    else this.server.end(() => callback())
  }

  override _destroy(error: Error | null, callback: Callback): void {
    this.connecting?.interruptUnsafe()
    this.server?.destroy()
    callback(error)
  }
}

const silence = new HostFailure({ message: "no answer in time" })

/** A host, what it has to be, and its address if it matters which of several. */
type Candidate = readonly [host: Host, wanted: SessionAttributes, address?: string | undefined]

/** Uses the host if it is what is wanted. */
const tryHost = (stream: HostStream, hosts: Hosts, packet: Buffer, [host, wanted, known]: Candidate) =>
  Effect.gen(function* () {
    const { address, socket } = yield* open(host, hosts.settings, known)
    const ask = (message: Buffer) => {
      stream.lead(socket)
      stream.push(message)
    }
    const { key, unread } = yield* Effect.onError(startUp(socket, packet, wanted, ask), () =>
      Effect.sync(() => {
        stream.lead(undefined)
        socket.destroy()
      })
    )
    hosts.sessions.set(key, { host, address })
    stream.once("close", () => hosts.sessions.delete(key))
    stream.under = {
      socket,
      name: `${describeHost(host)} ${address ?? ""}`,
      again: () => streamBy((other, packet) => begin(other, hosts, packet, () => [[host, "any", address]]))
    }
    stream.adopt(socket, unread)
  }).pipe(
    Effect.timeoutOrElse({
      duration: hosts.settings.connectTimeout,
      orElse: () => {
        hosts.markSilent(host)
        return Effect.fail(silence)
      }
    })
  )

/** Sends the packet to one host after the other until one is ready and fits. */
const start = Effect.fnUntraced(function* (
  stream: HostStream,
  hosts: Hosts,
  packet: Buffer,
  candidates: ReadonlyArray<Candidate>
) {
  const failures = new Set<string>()
  for (const candidate of candidates) {
    const [host] = candidate
    const result = yield* Effect.result(tryHost(stream, hosts, packet, candidate))
    if (Result.isSuccess(result)) return
    if (result.failure instanceof Refused) {
      // The driver says what the error means, and gives the stream up.
      stream.push(result.failure.message)
      return
    }
    failures.add(`${describeHost(host)}: ${result.failure.message}`)
  }
  return yield* new HostFailure({ message: [...failures].join("; ") })
})

/** Sends the request to the server that runs the statement. It answers by closing the connection. */
const cancel = Effect.fnUntraced(function* (stream: HostStream, hosts: Hosts, packet: Buffer) {
  const session = hosts.sessions.get(packet.toString("hex", packetHeaderBytes))
  if (session === undefined) return yield* new HostFailure({ message: "the session has ended" })
  const { socket } = yield* open(session.host, hosts.settings, session.address)
  stream.adopt(socket, Buffer.alloc(0))
  socket.write(packet)
})

const begin = (
  stream: HostStream,
  hosts: Hosts,
  packet: Buffer,
  candidates: () => ReadonlyArray<Candidate>
): Effect.Effect<void, HostFailure> => {
  switch (packet.length < packetHeaderBytes ? 0 : packet.readInt32BE(4)) {
    case cancelRequest:
      return cancel(stream, hosts, packet)
    case sslRequest:
      return Effect.fail(
        new HostFailure({ message: "the options of TLS belong into those of PostgresConfig.fromUrl, not beside it" })
      )
    default:
      return start(stream, hosts, packet, candidates())
  }
}

const streamBy = (beginning: (stream: HostStream, packet: Buffer) => Effect.Effect<void, HostFailure>): Duplex =>
  new HostStream((stream, packet) =>
    // By the clock of the world, and without the spans and logs of the operation that happens to need the connection.
    Effect.runFork(
      Effect.catch(beginning(stream, packet), ({ message }) =>
        Effect.sync(() => {
          stream.destroy(new Error(message))
        })
      )
    )
  )

/** What opens a stream for each connection to the hosts. */
export const make = (settings: Settings): (() => Duplex) => {
  const hosts = new Hosts(settings)
  return () => streamBy((stream, packet) => begin(stream, hosts, packet, () => hosts.candidates()))
}

/** What lies under the stream, if it is one of several hosts and uses a server. */
export const underOf = (stream: Duplex): Under | undefined => (stream instanceof HostStream ? stream.under : undefined)
