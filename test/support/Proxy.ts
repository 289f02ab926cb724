import { Duration, Effect, Schema, type Scope } from "effect"
import { once } from "node:events"
import { connect, createServer, type Server, type Socket } from "node:net"
import { Transform } from "node:stream"
import { freePort } from "./ports.ts"

/** The proxy cannot listen on its port. */
export class ProxyError extends Schema.TaggedError<ProxyError>("strata-test/ProxyError")("ProxyError", {
  port: Schema.Int,
  cause: Schema.Defect()
}) {
  override get message() {
    return `The proxy cannot listen on port ${this.port}`
  }
}

/** A TCP proxy on 127.0.0.1 whose network can be made to fail. */
export interface Proxy {
  readonly host: string
  readonly port: number
  /** The DSN with the proxy's host and port in place of the server's. */
  readonly url: (original: string) => string
  /** How many clients are connected. */
  readonly connections: Effect.Effect<number>
  /** Resets all current connections, on both sides. New ones are accepted as before. */
  readonly cut: Effect.Effect<void>
  /** While on, nothing listens on the port, so new clients find the connection refused. Current ones stay. */
  readonly refuse: (on: boolean) => Effect.Effect<void, ProxyError>
  /**
   * While on, the network is silently dead: sockets stay open and new ones are accepted, but no byte, no end and no
   * reset passes in either direction. All that was held back passes once it is off.
   */
  readonly stall: (on: boolean) => Effect.Effect<void>
  /** The current connections are silently dead from now on, and for ever. New ones are fine. */
  readonly blackhole: Effect.Effect<void>
  /** How much of what was sent on connections that are silently dead is held back: pieces, ends and resets. */
  readonly swallowed: Effect.Effect<number>
  /**
   * The current connections are silently dead from now on, as where a host has vanished: `cut` does not tell their ends,
   * either. Gives what tells the server's ends alone, as its keepalives would.
   */
  readonly bury: Effect.Effect<Effect.Effect<void>>
  /** New connections lead to this port of the server's host. Current ones stay. */
  readonly lead: (port: number) => Effect.Effect<void>
  /** The ports, at the server, of the connections that their clients have ended, whether the server knows it or not. */
  readonly abandoned: Effect.Effect<ReadonlyArray<number>>
  /** Adds this latency to every byte, in both directions, from now on. */
  readonly delay: (duration: Duration.Input) => Effect.Effect<void>
  /** No more bytes than this pass in a second, on each connection in each direction, from now on. */
  readonly throttle: (bytesPerSecond: number) => Effect.Effect<void>
}

/** What is asked to pass while the gate is closed passes when it opens. */
class Gate {
  #closed = false
  #waiting: Array<() => void> = []

  get waiting(): number {
    return this.#waiting.length
  }

  pass(proceed: () => void): void {
    if (this.#closed) this.#waiting.push(proceed)
    else proceed()
  }

  set(closed: boolean): void {
    this.#closed = closed
    if (!closed) for (const proceed of this.#waiting.splice(0)) proceed()
  }
}

interface Network {
  readonly gate: Gate
  latency: number
  bytesPerSecond: number
}

interface Stamped {
  readonly chunk: Buffer
  readonly due: number
}

/** Notes for each chunk when it is due. It reads on while others wait, so that latency does not cost throughput. */
const stamp = (network: Network) =>
  new Transform({
    readableObjectMode: true,
    readableHighWaterMark: 64,
    transform: (chunk: Buffer, _, done) => done(null, { chunk, due: performance.now() + network.latency })
  })

/** Holds chunks, and the end, until they are due, there is room for them on the line, and the gate is open. */
const hold = (network: Network) => {
  let free = 0
  return new Transform({
    writableObjectMode: true,
    writableHighWaterMark: 1,
    transform: ({ chunk, due }: Stamped, _, done) => {
      const pass = () => network.gate.pass(() => done(null, chunk))
      const now = performance.now()
      free = Math.max(free, now) + (chunk.length / network.bytesPerSecond) * 1000
      const wait = Math.max(due, free) - now
      if (wait > 0) setTimeout(pass, wait)
      else pass()
    },
    flush: (done) => network.gate.pass(done)
  })
}

/** `pipe` for backpressure and the end of the stream; errors go on as a reset, and also wait for the gate. */
const link = (from: Socket, to: Socket, network: Network) => {
  from.setNoDelay(true)
  from.pipe(stamp(network)).pipe(hold(network)).pipe(to)
  from.on("error", () => network.gate.pass(() => to.resetAndDestroy()))
}

/**
 * A proxy to a TCP server. It and its connections are closed with the scope.
 *
 * **Gotchas**
 *
 * It runs on real time, also in a test whose clock stands still.
 */
export const make = Effect.fnUntraced(function* (target: {
  readonly host: string
  readonly port: number
}): Effect.fn.Return<Proxy, ProxyError, Scope.Scope> {
  const host = "127.0.0.1"
  const port = yield* freePort
  let network: Network = { gate: new Gate(), latency: 0, bytesPerSecond: Number.POSITIVE_INFINITY }
  // Two sets, as a stall can keep the server's side of a connection open when the client has long gone.
  const clients = new Set<Socket>()
  const servers = new Set<Socket>()

  const buried = new Set<Socket>()
  const dead: Array<Gate> = []
  const abandoned = new Set<number>()
  let { port: upstream } = target

  const accept = (client: Socket) => {
    const server = connect({ host: target.host, port: upstream, allowHalfOpen: true })
    clients.add(client)
    servers.add(server)
    client.once("close", () => clients.delete(client))
    server.once("close", () => servers.delete(server))
    server.once("connect", () => {
      const { localPort } = server
      if (localPort === undefined) return
      abandoned.delete(localPort)
      const abandon = () => abandoned.add(localPort)
      if (client.readableEnded || client.destroyed) abandon()
      client.once("end", abandon).once("error", abandon)
    })
    link(client, server, network)
    link(server, client, network)
  }

  let listener: Server | undefined
  const listen = Effect.tryPromise({
    try: async () => {
      if (listener) return
      const server = createServer({ allowHalfOpen: true }, accept)
      server.listen({ host, port })
      await once(server, "listening")
      listener = server
    },
    catch: (cause) => new ProxyError({ port, cause })
  })
  // It does not wait for the callback, which comes when the current connections have ended; the port is free at once.
  const unlisten = Effect.sync(() => {
    listener?.close()
    listener = undefined
  })
  const reset = (sockets: Iterable<Socket>) => {
    for (const socket of sockets) socket.resetAndDestroy()
  }
  const cut = Effect.sync(() => reset([...clients, ...servers]))
  // What is held back stays so for ever. Connections from now on have a gate of their own.
  const blackhole = Effect.sync(() => {
    network.gate.set(true)
    dead.push(network.gate)
    network = { ...network, gate: new Gate() }
  })
  const bury = Effect.map(blackhole, () => {
    const ends = [...servers]
    for (const socket of [...clients, ...ends]) buried.add(socket)
    clients.clear()
    servers.clear()
    return Effect.sync(() => reset(ends))
  })

  yield* Effect.acquireRelease(listen, () =>
    Effect.andThen(
      Effect.andThen(unlisten, cut),
      Effect.sync(() => reset(buried))
    )
  )

  return {
    host,
    port,
    url: (original) => {
      const url = new URL(original)
      url.host = `${host}:${port}`
      return url.href
    },
    connections: Effect.sync(() => clients.size),
    cut,
    refuse: (on) => (on ? unlisten : listen),
    stall: (on) => Effect.sync(() => network.gate.set(on)),
    blackhole,
    swallowed: Effect.sync(() => dead.reduce((sum, { waiting }) => sum + waiting, 0)),
    bury,
    lead: (to) =>
      Effect.sync(() => {
        upstream = to
      }),
    abandoned: Effect.sync(() => [...abandoned]),
    delay: (duration) =>
      Effect.sync(() => {
        network.latency = Duration.toMillis(duration)
      }),
    throttle: (bytesPerSecond) =>
      Effect.sync(() => {
        network.bytesPerSecond = bytesPerSecond
      })
  }
})
