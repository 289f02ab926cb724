import type { PgConnection } from "@effect/sql-pg"
import { Cause, Queue } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { randomInt } from "node:crypto"
import { quote } from "../postgres/database/Identifier.ts"
import { PgliteSocket, type Role, type Session } from "./PgliteSocket.ts"
import * as Wire from "./PgliteWire.ts"

type Listener = Queue.Queue<PgConnection.Notification, SqlError>

/** After how many runs the session asks whether a checkpoint is due. The question is a small query, but not free. */
const runsPerCheckpointCheck = 64

/** Answers with a row when a recovery would have to read more than 64 MiB of log. To read 2.3 GB took 5.8 seconds. */
const isCheckpointDue = Wire.query(
  "SELECT FROM pg_control_checkpoint() WHERE pg_current_wal_lsn() - redo_lsn > 64 * 1024 * 1024"
)

/** Secrets are positive 32-bit integers, below this one. */
const secretLimit = 0x7fffffff

interface Waiter {
  readonly socket: PgliteSocket
  readonly resume: () => void
}

/** The error of a connection to a server that is gone, which has the code `connection_failure`. */
const connectionError = (cause: Error): SqlError => Wire.sqlError("08006", cause.message, cause)

const leave = (queue: Array<Waiter>, socket: PgliteSocket): void => {
  const index = queue.findIndex((waiter) => waiter.socket === socket)
  if (index !== -1) queue.splice(index, 1)
}

/** What a session needs of PGlite. PGlite's own types need others that it does not bring: no declaration may name them. */
export interface Engine {
  readonly execProtocolRawStream: (
    messages: Uint8Array,
    options: { readonly onRawData: (bytes: Uint8Array) => void }
  ) => Promise<void>
}

/**
 * Lets the connections of a client use the one session of PGlite in turn, each as if it had a session of its own.
 *
 * **Details**
 *
 * A connection owns the session from its first message until the session is outside a transaction again, so that
 * transactions never interleave. The other connections wait in the order in which they came. PGlite answers each exchange
 * synchronously, so that what this class itself sends (`LISTEN`, `NOTIFY`, clean-up) always falls between two messages of
 * a connection, never inside one.
 */
export class PgliteSession implements Session {
  private readonly pglite: Engine
  private readonly greeting: Buffer
  /** Where the last exchange has left the session. */
  private status: Wire.Status = "idle"
  /** The connection that uses the session now, and those that wait for it. */
  private owner: PgliteSocket | undefined
  private readonly waiting: Array<Waiter> = []
  /** The one main connection, and those that wait to become it. */
  private main: PgliteSocket | undefined
  private readonly mainWaiting: Array<Waiter> = []
  private readonly sockets = new Set<PgliteSocket>()
  /** The listeners of each channel, and the channels that PGlite itself listens to. */
  private readonly channels = new Map<string, Set<Listener>>()
  private readonly listening = new Set<string>()
  /** Notifications that wait for the end of the open transaction. */
  private notifications: Array<Uint8Array> = []
  /** Whether PGlite listens to exactly the channels that have listeners, and no notification waits. */
  private upToDate = true
  private runs = 0
  /** Why the session is over, once it is. */
  private failure: Error | undefined

  constructor(pglite: Engine) {
    this.pglite = pglite
    this.greeting = this.exchange(Wire.startup({ user: "postgres", database: "postgres" })).bytes
  }

  /**
   * Opens a wire connection.
   *
   * **Details**
   *
   * There is one `"main"` connection at a time: a second one waits until the first is closed, and starts with nothing of
   * it. The main connection may prepare statements and open transactions. `"stream"` connections come and go, and must do
   * neither.
   */
  connect(role: Role): PgliteSocket {
    const socket = new PgliteSocket(this, role, randomInt(1, secretLimit))
    this.sockets.add(socket)
    return socket
  }

  async start(socket: PgliteSocket, parameters: ReadonlyMap<string, string>): Promise<Buffer> {
    if (socket.role === "main") {
      // The pool opens the replacement of a retired connection while the retired one may still run a transaction.
      if (this.main === undefined) this.main = socket
      else await new Promise<void>((resume) => this.mainWaiting.push({ socket, resume }))
      await this.acquire(socket)
      if (this.owner !== socket) return Wire.emptyReply.bytes
      const refused = this.reset(parameters)
      this.release(socket)
      if (refused !== undefined) return refused.raw
    }
    if (this.failure !== undefined) throw this.failure
    return Wire.withSecret(this.greeting, socket.secret)
  }

  async run(socket: PgliteSocket, messages: Buffer): Promise<Buffer> {
    await this.acquire(socket)
    if (this.owner !== socket) return Wire.emptyReply.bytes
    if (!this.upToDate) this.update()
    const { bytes, done, unlistened } = Wire.mayCopyIn(messages) ? this.copyIn(messages) : this.exchange(messages)
    if (unlistened) {
      this.listening.clear()
      this.upToDate = false
    }
    if (!this.upToDate) this.update()
    if (++this.runs % runsPerCheckpointCheck === 0) this.checkpoint()
    this.release(socket)
    await done
    return bytes
  }

  /** Closes the connection with this secret if it waits. If it has run its statement already, there is nothing to cancel. */
  cancel(secret: number): void {
    const index = this.waiting.findIndex(({ socket }) => socket.secret === secret)
    if (index !== -1) this.waiting.splice(index, 1)[0]?.socket.destroy()
  }

  /** Forgets a closed connection, and rolls back the transaction that it left open. */
  disconnect(socket: PgliteSocket): void {
    this.sockets.delete(socket)
    leave(this.waiting, socket)
    leave(this.mainWaiting, socket)
    if (this.owner === socket) {
      // After an error in a cycle that was cut off before its Sync, the session skips all messages up to the next Sync.
      this.exchange(Wire.sync)
      if (this.status !== "idle") this.exchange(Wire.query("ROLLBACK"))
      this.update()
      this.release(socket)
    }
    if (this.main === socket) {
      const next = this.mainWaiting.shift()
      this.main = next?.socket
      next?.resume()
    }
  }

  /** Adds a listener. Once this has returned, the listener misses no notification on the channel. */
  subscribe(channel: string, listener: Listener): void {
    const listeners = this.channels.get(channel)
    if (listeners !== undefined) {
      listeners.add(listener)
      return
    }
    this.channels.set(channel, new Set([listener]))
    this.update()
  }

  /** Removes a listener. Once a channel has none left, PGlite stops listening to it. */
  unsubscribe(channel: string, listener: Listener): void {
    const listeners = this.channels.get(channel)
    if (listeners === undefined || !listeners.delete(listener) || listeners.size > 0) return
    this.channels.delete(channel)
    this.update()
  }

  /**
   * Notifies outside any transaction. While a transaction is open, the one session is inside it: the notification then
   * goes out when the transaction ends, whether it commits or rolls back.
   */
  notify(channel: string, payload: string): SqlError | undefined {
    if (this.failure !== undefined) return connectionError(this.failure)
    const message = Wire.query(`SELECT pg_notify(${Wire.literal(channel)}, ${Wire.literal(payload)})`)
    if (this.status === "idle") return this.exchange(message).error?.sqlError
    this.notifications.push(message)
    this.upToDate = false
    return undefined
  }

  /** Why the session is over, if it is. */
  get error(): SqlError | undefined {
    return this.failure === undefined ? undefined : connectionError(this.failure)
  }

  /** Closes every connection, and ends every listener with an interruption of its consumers. */
  close(): void {
    this.end(new Error("PGlite is closed"), Cause.interrupt())
  }

  /** Waits for the session. A connection that does not own the session afterwards was closed as soon as its turn had come. */
  private async acquire(socket: PgliteSocket): Promise<void> {
    if (this.owner === undefined) this.owner = socket
    else if (this.owner !== socket) await new Promise<void>((resume) => this.waiting.push({ socket, resume }))
  }

  /** Passes the session on, unless the connection has a transaction open. */
  private release(socket: PgliteSocket): void {
    if (this.owner !== socket || this.status !== "idle") return
    // The next connection owns the session at once, so that a connection which comes before it resumes cannot overtake it.
    const next = this.waiting.shift()
    this.owner = next?.socket
    next?.resume()
  }

  /**
   * Removes what the main connection before has left (settings, prepared statements, temporary tables, locks), and applies
   * the settings of the new one.
   */
  private reset(parameters: ReadonlyMap<string, string>): Wire.ErrorResponse | undefined {
    this.exchange(Wire.query("DISCARD ALL"))
    this.listening.clear()
    this.update()
    for (const [name, value] of parameters) {
      const { error } = this.exchange(
        Wire.query(`SELECT set_config(${Wire.literal(name)}, ${Wire.literal(value)}, false)`)
      )
      if (error !== undefined) return error
    }
    return undefined
  }

  /**
   * Makes PGlite listen to the channels that have listeners, and sends the notifications that wait.
   *
   * **Details**
   *
   * Inside a transaction, `LISTEN` takes effect with the commit, and a rollback (also to a savepoint) undoes it. So it is
   * repeated before every statement until the transaction is over. No notification is missed, as only that transaction
   * could send one meanwhile.
   */
  private update(): void {
    this.upToDate = false
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
    this.upToDate = true
    const notifications = this.notifications
    this.notifications = []
    for (const message of notifications) this.exchange(message)
  }

  /**
   * Runs messages that may contain a `COPY .. FROM STDIN`. Postgres would go on to read the data of the copy, find the end
   * of its input, and exit for good. A `CopyFail` makes the copy an error instead. Without a copy, Postgres ignores the
   * `CopyFail` and answers the second `Sync`, whose answer is cut off.
   */
  private copyIn(messages: Buffer): Wire.Reply & { readonly done: Promise<void> } {
    const reply = this.exchange(Buffer.concat([messages, Wire.copyFail, Wire.sync]))
    return reply.copiesIn ? reply : { ...reply, bytes: reply.bytes.subarray(0, -Wire.readyBytes) }
  }

  /** Makes the checkpoints that a server's checkpointer would make. Without them the log only grows, on disk or in memory. */
  private checkpoint(): void {
    if (this.status === "idle" && this.exchange(isCheckpointDue).bytes.includes("SELECT 1")) {
      this.exchange(Wire.query("CHECKPOINT"))
    }
  }

  /** Exchanges messages with PGlite, synchronously. If PGlite itself breaks, `done` fails and the session is over. */
  private exchange(messages: Uint8Array): Wire.Reply & { readonly done: Promise<void> } {
    if (this.failure !== undefined) {
      const done = Promise.reject(this.failure)
      done.catch(() => {})
      this.status = "idle"
      return { ...Wire.emptyReply, done }
    }
    const chunks: Array<Buffer> = []
    // `execProtocolRaw`, without a stream, parses every message and keeps all of them.
    const done = this.pglite.execProtocolRawStream(messages, {
      // The bytes are a view of PGlite's memory, which the next exchange overwrites.
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

  /** Ends the session, with all of its connections and listeners. */
  private end(error: Error, cause: Cause.Cause<SqlError> | undefined): void {
    if (this.failure !== undefined) return
    this.failure = error
    for (const listeners of this.channels.values()) {
      for (const listener of listeners) Queue.failCauseUnsafe(listener, cause ?? Cause.fail(connectionError(error)))
    }
    this.channels.clear()
    for (const socket of this.sockets) socket.destroy(error)
  }
}
