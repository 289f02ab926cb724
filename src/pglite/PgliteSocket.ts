import { Duplex } from "node:stream"
import * as Wire from "./PgliteWire.ts"

type Callback = (error?: Error | null) => void

/** Which of its two kinds a connection is: see `PgliteSession.connect`. */
export type Role = "main" | "stream"

/** What a connection asks of the session behind it. `PgliteSession` implements it. */
export interface Session {
  /** Answers a startup packet, once the connection may begin. */
  readonly start: (socket: PgliteSocket, parameters: ReadonlyMap<string, string>) => Promise<Buffer>
  /** Runs whole messages, once it is the turn of the connection, and returns the whole answer. */
  readonly run: (socket: PgliteSocket, messages: Buffer) => Promise<Buffer>
  /** Cancels the statement with which the connection with this secret waits. */
  readonly cancel: (secret: number) => void
  /** Hears that the connection has been closed. */
  readonly disconnect: (socket: PgliteSocket) => void
}

// What stands in a startup packet in place of the protocol's version.
const cancelRequest = 80877102
const sslRequest = 80877103
const gssRequest = 80877104

/** The answer to a request for encryption: the connection goes on without. */
const withoutEncryption = Buffer.from("N")

/** The length and the version or request: what every startup packet has. */
const startupHeaderBytes = 8

/** A packet of this length has a process id and a secret after its header. */
const cancelRequestBytes = 16

/** The type and the length: what every other message has. */
const messageHeaderBytes = 5

/**
 * One wire connection to PGlite. The driver uses it as it uses a socket to a server.
 *
 * **Details**
 *
 * PGlite only understands whole messages. So what the driver writes is cut into whole messages, and all that have arrived
 * are handed over at once. A chunk that ends with the end of a message is never copied, and the driver writes no other.
 */
export class PgliteSocket extends Duplex {
  readonly role: Role
  readonly secret: number
  private readonly session: Session
  /** What was written and not handed over, how many bytes it has, and from how many bytes on it is a whole message. */
  private parts: Array<Buffer> = []
  private size = 0
  private needed = startupHeaderBytes
  private started = false
  /** Lets the driver write on, once it has read the answer that did not fit into the buffer. */
  private resumeWriting: Callback | undefined

  constructor(session: Session, role: Role, secret: number) {
    super({ allowHalfOpen: false })
    this.session = session
    this.role = role
    this.secret = secret
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: Callback): void {
    this.size += chunk.length
    this.parts.push(chunk)
    if (this.size < this.needed) return callback()
    const bytes = this.parts.length === 1 ? chunk : Buffer.concat(this.parts)
    this.parts = []
    this.size = 0
    this.receive(bytes).then((reply) => {
      if (this.destroyed || reply === undefined) return callback()
      if (reply.length === 0 || this.push(reply)) return callback()
      this.resumeWriting = callback
    }, callback)
  }

  override _read(): void {
    const resume = this.resumeWriting
    this.resumeWriting = undefined
    resume?.()
  }

  override _final(callback: Callback): void {
    this.push(null)
    callback()
  }

  override _destroy(error: Error | null, callback: Callback): void {
    this.session.disconnect(this)
    callback(error)
  }

  /** Keeps the start of a message until all of its bytes have come. */
  private keep(start: Buffer, needed: number): void {
    this.parts = start.length === 0 ? [] : [start]
    this.size = start.length
    this.needed = needed
  }

  private async receive(bytes: Buffer): Promise<Buffer | undefined> {
    return this.started ? this.receiveMessages(bytes) : this.receiveStartup(bytes)
  }

  private async receiveStartup(bytes: Buffer): Promise<Buffer | undefined> {
    const length = bytes.readUInt32BE(0)
    if (length < startupHeaderBytes) throw new Error(`A startup packet cannot have ${length} bytes`)
    if (bytes.length < length) {
      this.keep(bytes, length)
      return undefined
    }
    const rest = bytes.subarray(length)
    switch (bytes.readUInt32BE(4)) {
      case cancelRequest:
        if (length >= cancelRequestBytes) this.session.cancel(bytes.readInt32BE(12))
        this.destroy()
        return undefined
      case sslRequest:
      case gssRequest:
        return withoutEncryption
      default: {
        const greeting = await this.session.start(this, Wire.readStartup(bytes.subarray(0, length)))
        this.started = true
        const reply = await this.receiveMessages(rest)
        return reply === undefined ? greeting : Buffer.concat([greeting, reply])
      }
    }
  }

  private async receiveMessages(bytes: Buffer): Promise<Buffer | undefined> {
    let end = 0
    let needed = messageHeaderBytes
    let terminated = false
    while (end + messageHeaderBytes <= bytes.length) {
      if (bytes[end] === 0x58 /* X: Terminate */) {
        terminated = true
        break
      }
      const length = bytes.readUInt32BE(end + 1)
      if (bytes[end] === 0 || length < 4) throw new Error("What was written is no PostgreSQL message")
      if (end + 1 + length > bytes.length) {
        needed = 1 + length
        break
      }
      end += 1 + length
    }
    this.keep(terminated ? bytes.subarray(bytes.length) : bytes.subarray(end), needed)
    const reply =
      end === 0 ? undefined : await this.session.run(this, end === bytes.length ? bytes : bytes.subarray(0, end))
    if (terminated) this.destroy()
    return reply
  }
}
