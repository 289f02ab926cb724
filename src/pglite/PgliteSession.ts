import type { PgConnection } from "@effect/sql-pg"
import type { PGlite } from "@electric-sql/pglite"
import { Cause, Queue } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { randomInt } from "node:crypto"
import { quote } from "../postgres/database/Identifier.ts"
import { PgliteSocket, type Role } from "./PgliteSocket.ts"
import * as Wire from "./PgliteWire.ts"

type Listener = Queue.Queue<PgConnection.Notification, SqlError>

// Asking is one small query, so not after every run. Recovery reads the log since: 2.3 GB of it took 5.8 seconds.
const runsPerCheck = 64
const isCheckpointDue = Wire.query(
  "SELECT FROM pg_control_checkpoint() WHERE pg_current_wal_lsn() - redo_lsn > 64 * 1024 * 1024"
)

interface Waiter {
  readonly socket: PgliteSocket
  readonly resume: () => void
}

const leave = (queue: Array<Waiter>, socket: PgliteSocket): void => {
  const index = queue.findIndex((waiter) => waiter.socket === socket)
  if (index !== -1) queue.splice(index, 1)
}

/**
 * Shares the one session PGlite has between the wire connections of a client, as a server would see them.
 *
 * A connection holds the session from its first message until the session is outside a transaction again, so
 * transactions never interleave; the others wait in the order in which they came. Everything PGlite does is synchronous,
 * so what this class itself sends (`LISTEN`, `NOTIFY`, clean-up) always falls between two messages, never inside one.
 */
export class PgliteSession {
  private readonly pglite: PGlite
  private readonly greeting: Buffer
  private status: Wire.Status = "idle"
  private holder: PgliteSocket | undefined
  private readonly waiting: Array<Waiter> = []
  private main: PgliteSocket | undefined
  private readonly mainWaiting: Array<Waiter> = []
  private readonly sockets = new Set<PgliteSocket>()
  private readonly channels = new Map<string, Set<Listener>>()
  private readonly listening = new Set<string>()
  private settled = true
  private notifications: Array<Uint8Array> = []
  private runs = 0
  private failure: Error | undefined

  constructor(pglite: PGlite) {
    this.pglite = pglite
    this.greeting = this.exchange(Wire.startup({ user: "postgres", database: "postgres" })).bytes
  }

  /**
   * Opens a wire connection.
   *
   * There is one `"main"` connection at a time, and it starts clean: a second one waits until the first is closed. It may
   * hold prepared statements and transactions. `"stream"` connections come and go, and must do neither.
   */
  connect(role: Role): PgliteSocket {
    const socket = new PgliteSocket(this, role, randomInt(1, 0x7fffffff))
    this.sockets.add(socket)
    return socket
  }

  /** Answers a startup packet. */
  async start(socket: PgliteSocket, parameters: ReadonlyMap<string, string>): Promise<Buffer> {
    if (socket.role === "main") {
      // The pool opens the replacement of a retired connection while that one may still run a transaction.
      if (this.main === undefined) this.main = socket
      else await new Promise<void>((resume) => this.mainWaiting.push({ socket, resume }))
      await this.turn(socket)
      if (this.holder !== socket) return Wire.emptyReply.bytes
      const refused = this.reset(parameters)
      this.yield(socket)
      if (refused !== undefined) return refused.raw
    }
    if (this.failure !== undefined) throw this.failure
    return Wire.withSecret(this.greeting, socket.secret)
  }

  /** Runs whole messages and returns the whole answer. */
  async run(socket: PgliteSocket, messages: Buffer): Promise<Buffer> {
    await this.turn(socket)
    if (this.holder !== socket) return Wire.emptyReply.bytes
    if (!this.settled) this.settle()
    const { bytes, done, unlistened } = Wire.mayCopyIn(messages) ? this.copyIn(messages) : this.exchange(messages)
    if (unlistened) {
      this.listening.clear()
      this.settled = false
    }
    if (!this.settled) this.settle()
    if (++this.runs % runsPerCheck === 0) this.checkpoint()
    this.yield(socket)
    await done
    return bytes
  }

  /** Ends the connection that waits under this secret. One whose statement already runs has its answer: leave it. */
  cancel(secret: number): void {
    const index = this.waiting.findIndex(({ socket }) => socket.secret === secret)
    if (index !== -1) this.waiting.splice(index, 1)[0]?.socket.destroy()
  }

  /** Forgets a closed connection, and rolls back what it left open. */
  disconnect(socket: PgliteSocket): void {
    this.sockets.delete(socket)
    leave(this.waiting, socket)
    leave(this.mainWaiting, socket)
    if (this.holder === socket) {
      // A cycle that was cut off before its Sync would make the session skip everything up to the next one.
      this.exchange(Wire.sync)
      if (this.status !== "idle") this.exchange(Wire.query("ROLLBACK"))
      this.settle()
      this.yield(socket)
    }
    if (this.main === socket) {
      const next = this.mainWaiting.shift()
      this.main = next?.socket
      next?.resume()
    }
  }

  /** Adds a listener; from its return on, no notification on the channel is missed. */
  subscribe(channel: string, listener: Listener): void {
    const listeners = this.channels.get(channel)
    if (listeners !== undefined) {
      listeners.add(listener)
      return
    }
    this.channels.set(channel, new Set([listener]))
    this.settle()
  }

  /** Removes a listener; the last one of a channel ends the `LISTEN`. */
  unsubscribe(channel: string, listener: Listener): void {
    const listeners = this.channels.get(channel)
    if (listeners === undefined || !listeners.delete(listener) || listeners.size > 0) return
    this.channels.delete(channel)
    this.settle()
  }

  /**
   * Notifies outside of any transaction. While one is open there is no outside: the notification then goes out when it
   * ends, whether it commits or rolls back.
   */
  notify(channel: string, payload: string): SqlError | undefined {
    if (this.failure !== undefined) return this.failed(this.failure)
    const message = Wire.query(`SELECT pg_notify(${Wire.literal(channel)}, ${Wire.literal(payload)})`)
    if (this.status === "idle") return this.exchange(message).error?.sqlError
    this.notifications.push(message)
    this.settled = false
    return undefined
  }

  /** Why the session is over, if it is. */
  get error(): SqlError | undefined {
    return this.failure === undefined ? undefined : this.failed(this.failure)
  }

  /** Ends every listener, interrupting its consumers, and every connection. */
  close(): void {
    this.end(new Error("PGlite is closed"), Cause.interrupt())
  }

  /** Waits for the session. Without it afterwards, the connection was closed as soon as its turn came. */
  private async turn(socket: PgliteSocket): Promise<void> {
    if (this.holder === undefined) this.holder = socket
    else if (this.holder !== socket) await new Promise<void>((resume) => this.waiting.push({ socket, resume }))
  }

  private yield(socket: PgliteSocket): void {
    if (this.holder !== socket || this.status !== "idle") return
    // Handed over at once, so that nobody who comes in between overtakes the one who waited.
    const next = this.waiting.shift()
    this.holder = next?.socket
    next?.resume()
  }

  /** Leaves nothing of the connection before: no settings, prepared statements, temporary tables or locks. */
  private reset(parameters: ReadonlyMap<string, string>): Wire.ErrorResponse | undefined {
    this.exchange(Wire.query("DISCARD ALL"))
    this.listening.clear()
    this.settle()
    for (const [name, value] of parameters) {
      const { error } = this.exchange(
        Wire.query(`SELECT set_config(${Wire.literal(name)}, ${Wire.literal(value)}, false)`)
      )
      if (error !== undefined) return error
    }
    return undefined
  }

  /**
   * Brings what PGlite listens to in line with the listeners, and sends held-back notifications.
   *
   * Inside a transaction `LISTEN` counts from its commit on and is undone by a rollback (also to a savepoint). So it is
   * repeated before every statement until the transaction is over: nobody but that transaction can notify meanwhile.
   */
  private settle(): void {
    this.settled = false
    if (this.failure !== undefined || this.status === "failed" || this.status === "busy") return
    for (const channel of this.channels.keys()) {
      if (this.listening.has(channel)) continue
      this.exchange(Wire.query(`LISTEN ${quote(channel)}`))
      if (this.status === "idle") this.listening.add(channel)
    }
    if (this.status !== "idle") return
    for (const channel of this.listening) {
      if (this.channels.has(channel)) continue
      this.exchange(Wire.query(`UNLISTEN ${quote(channel)}`))
      this.listening.delete(channel)
    }
    this.settled = true
    const notifications = this.notifications
    this.notifications = []
    for (const message of notifications) this.exchange(message)
  }

  /**
   * Runs what may be a `COPY .. FROM STDIN`. Postgres then reads on, finds the end of its input and exits for good; a
   * `CopyFail` in front of that makes it an error. Outside of a copy that is ignored, and the second `Sync` answered.
   */
  private copyIn(messages: Buffer): Wire.Reply & { readonly done: Promise<void> } {
    const reply = this.exchange(Buffer.concat([messages, Wire.copyFail, Wire.sync]))
    return reply.copiesIn ? reply : { ...reply, bytes: reply.bytes.subarray(0, -Wire.readyLength) }
  }

  /** A server's checkpointer does this. Without it the log only grows: on disk, or, for a database in memory, there. */
  private checkpoint(): void {
    if (this.status === "idle" && this.exchange(isCheckpointDue).bytes.includes("SELECT 1")) {
      this.exchange(Wire.query("CHECKPOINT"))
    }
  }

  /** One synchronous exchange with PGlite. `done` fails, and with it the session, when PGlite itself broke. */
  private exchange(messages: Uint8Array): Wire.Reply & { readonly done: Promise<void> } {
    if (this.failure !== undefined) {
      const done = Promise.reject(this.failure)
      done.catch(() => {})
      this.status = "idle"
      return { ...Wire.emptyReply, done }
    }
    const chunks: Array<Buffer> = []
    // The plain `execProtocolRaw` keeps every message it ever parsed, and parses them all.
    const done = this.pglite.execProtocolRawStream(messages, {
      // The bytes are a view of PGlite's memory, which the next call overwrites.
      onRawData: (bytes) => void chunks.push(Buffer.from(bytes))
    })
    done.catch((cause) => this.end(new Error("PGlite has failed", { cause }), undefined))
    const reply = Wire.readReply(chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks))
    this.status = reply.status
    for (const notification of reply.notifications) {
      for (const listener of this.channels.get(notification.channel) ?? []) Queue.offerUnsafe(listener, notification)
    }
    return { ...reply, done }
  }

  private failed(cause: Error): SqlError {
    return Wire.sqlError("08006", cause.message, cause)
  }

  private end(error: Error, cause: Cause.Cause<SqlError> | undefined): void {
    if (this.failure !== undefined) return
    this.failure = error
    for (const listeners of this.channels.values()) {
      for (const listener of listeners) Queue.failCauseUnsafe(listener, cause ?? Cause.fail(this.failed(error)))
    }
    this.channels.clear()
    for (const socket of this.sockets) socket.destroy(error)
  }
}
