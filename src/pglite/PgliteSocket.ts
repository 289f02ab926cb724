import { Duplex } from "node:stream"
import * as Wire from "./PgliteWire.ts"

type Callback = (error?: Error | null) => void

/** Which of its two kinds a connection is: see `PgliteSession.connect`. */
export type Role = "main" | "stream"

/** What a connection asks of the session behind it. */
export interface Session {
  /** Answers a startup packet. */
  readonly start: (socket: PgliteSocket, parameters: ReadonlyMap<string, string>) => Promise<Buffer>
  /** Answers whole messages. */
  readonly run: (socket: PgliteSocket, messages: Buffer) => Promise<Buffer>
  /** Cancels what the connection with this secret waits for. */
  readonly cancel: (secret: number) => void
  /** Ends the connection. */
  readonly disconnect: (socket: PgliteSocket) => void
}

const cancelRequest = 80877102
const sslRequest = 80877103
const gssRequest = 80877104
const refused = Buffer.from("N")

/**
 * One wire connection to PGlite: what a socket to a server is to the driver.
 *
 * It cuts what is written into whole messages, which is all that PGlite understands, and hands over as many at once as
 * there are. A chunk that ends with a message (the driver writes nothing else) is never copied.
 */
export class PgliteSocket extends Duplex {
  readonly role: Role
  readonly secret: number
  private readonly session: Session
  private parts: Array<Buffer> = []
  private size = 0
  private needed = 8
  private started = false
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

  /** Keeps the start of a message until the rest has come. */
  private keep(rest: Buffer, needed: number): void {
    this.parts = rest.length === 0 ? [] : [rest]
    this.size = rest.length
    this.needed = needed
  }

  private async receive(bytes: Buffer): Promise<Buffer | undefined> {
    return this.started ? this.receiveMessages(bytes) : this.receiveStartup(bytes)
  }

  private async receiveStartup(bytes: Buffer): Promise<Buffer | undefined> {
    const length = bytes.readUInt32BE(0)
    if (length < 8) throw new Error(`A startup packet cannot have ${length} bytes`)
    if (bytes.length < length) {
      this.keep(bytes, length)
      return undefined
    }
    const rest = bytes.subarray(length)
    switch (bytes.readUInt32BE(4)) {
      case cancelRequest:
        if (length >= 16) this.session.cancel(bytes.readInt32BE(12))
        this.destroy()
        return undefined
      case sslRequest:
      case gssRequest:
        return refused
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
    let needed = 5
    let terminated = false
    while (end + 5 <= bytes.length) {
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
