import { assert, describe, it } from "@effect/vitest"
import { PGlite } from "@electric-sql/pglite"
import { once } from "node:events"
import { afterAll, beforeAll } from "vitest"
import { PgliteSession } from "../../src/pglite/PgliteSession.ts"
import type { PgliteSocket } from "../../src/pglite/PgliteSocket.ts"
import * as Wire from "../../src/pglite/PgliteWire.ts"
import { quote } from "../../src/postgres/database/Identifier.ts"

const packet = (code: number, ...rest: ReadonlyArray<number>): Buffer => {
  const bytes = Buffer.alloc(8 + 4 * rest.length)
  bytes.writeInt32BE(bytes.length, 0)
  bytes.writeInt32BE(code, 4)
  rest.forEach((value, index) => bytes.writeInt32BE(value, 8 + 4 * index))
  return bytes
}

const hello = Wire.startup({ user: "someone", database: "something", application_name: "raw" })
const terminate = Buffer.from([0x58, 0, 0, 0, 4])

/** Reads until that many `ReadyForQuery` have come, and gives the types of all messages. */
const answer = async (socket: PgliteSocket, ready: number): Promise<string> => {
  let bytes = Buffer.alloc(0)
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    bytes = Buffer.concat([bytes, chunk])
    const types: Array<string> = []
    for (let at = 0; at + 5 <= bytes.length; at += 1 + bytes.readUInt32BE(at + 1)) {
      types.push(String.fromCharCode(bytes[at] ?? 0))
    }
    if (types.filter((type) => type === "Z").length >= ready) return types.join("").replace(/S+/, "S")
  }
  return assert.fail("the connection ended")
}

const open = async (session: PgliteSession, role: "main" | "stream" = "main") => {
  const socket = session.connect(role)
  socket.write(hello)
  assert.strictEqual(await answer(socket, 1), "RSKZ")
  return socket
}

const end = async (socket: PgliteSocket) => {
  const closed = once(socket, "close")
  socket.end(terminate)
  await closed
}

describe("PgliteSocket", () => {
  let pglite: PGlite
  let session: PgliteSession
  beforeAll(async () => {
    pglite = await PGlite.create()
    session = new PgliteSession(pglite)
  })
  afterAll(async () => {
    session.close()
    await pglite.close()
  })

  it("understands messages that come byte by byte, and many in one chunk", async () => {
    const socket = session.connect("main")
    for (const byte of hello) socket.write(Buffer.of(byte))
    assert.strictEqual(await answer(socket, 1), "RSKZ")
    for (const byte of Wire.query("SELECT 1")) socket.write(Buffer.of(byte))
    assert.strictEqual(await answer(socket, 1), "TDCZ")
    const three = Buffer.concat([Wire.query("SELECT 1"), Wire.query("SELECT 1 / 0"), Wire.query("SELECT 2")])
    socket.write(three.subarray(0, 30))
    socket.write(three.subarray(30))
    assert.strictEqual(await answer(socket, 3), "TDCZEZTDCZ")
    await end(socket)
    const hasty = session.connect("main")
    hasty.write(Buffer.concat([hello, Wire.query("SHOW application_name")]))
    await once(hasty, "readable")
    assert.include(String(hasty.read()), "raw")
    await end(hasty)
  })

  it("refuses TLS, and goes on in the clear", async () => {
    const socket = session.connect("main")
    socket.write(packet(80877103))
    const [chunk] = await once(socket, "data")
    assert.strictEqual(String(chunk), "N")
    socket.pause()
    socket.write(hello)
    assert.strictEqual(await answer(socket, 1), "RSKZ")
    await end(socket)
  })

  it("ends a side connection that asks to cancel, and nothing else but what waits", async () => {
    const main = await open(session)
    main.write(Wire.query("BEGIN"))
    assert.strictEqual(await answer(main, 1), "CZ")
    const waiting = await open(session, "stream")
    waiting.write(Wire.query("SELECT 1"))
    for (const secret of [main.secret, 0, waiting.secret]) {
      const side = session.connect("stream")
      side.write(packet(80877102, 42, secret))
      await once(side, "close")
      assert.strictEqual(waiting.destroyed, secret === waiting.secret)
    }
    main.write(Wire.query("COMMIT"))
    assert.strictEqual(await answer(main, 1), "CZ")
    await end(main)
  })

  it("starts a second connection when the first has ended, however it did, and rolls that back", async () => {
    const first = await open(session)
    first.write(Wire.query("CREATE TABLE raw (n int); SET work_mem = '9MB'"))
    await answer(first, 1)
    first.write(Wire.query("BEGIN; INSERT INTO raw VALUES (1)"))
    await answer(first, 1)
    const second = session.connect("main")
    const third = session.connect("main")
    second.write(hello)
    third.write(hello)
    await new Promise((resume) => setTimeout(resume, 20))
    assert.strictEqual(second.readableLength, 0)
    first.destroy()
    assert.strictEqual(await answer(second, 1), "RSKZ")
    second.write(Wire.query("SELECT FROM raw"))
    assert.strictEqual(await answer(second, 1), "TCZ")
    // Cut off within an extended query, before its Sync.
    second.write(Buffer.from("P\0\0\0\x10\0SELECT 1\0\0\0"))
    await new Promise((resume) => setTimeout(resume, 20))
    second.destroy()
    assert.strictEqual(await answer(third, 1), "RSKZ")
    third.write(Wire.query("SHOW work_mem"))
    const [chunk] = await once(third, "data")
    assert.include(String(chunk), "4MB")
    await end(third)
  })

  it("does not run ahead of a reader that has paused", async () => {
    const socket = await open(session)
    for (let n = 0; n < 20; n++) socket.write(Wire.query("SELECT repeat('x', 1000000)"))
    await new Promise((resume) => setTimeout(resume, 100))
    assert.isBelow(socket.readableLength, 3_000_000)
    assert.isAbove(socket.writableLength, 0)
    assert.strictEqual(await answer(socket, 20), "TDCZ".repeat(20))
    await end(socket)
  })

  it("ends a connection that does not speak the protocol, and only that", async () => {
    for (const bytes of [Buffer.from([0, 0, 0, 1, 0, 0, 0, 0]), Buffer.concat([hello, Buffer.from("Q\0\0\0\0?")])]) {
      const socket = session.connect("main")
      socket.resume().write(bytes)
      const [error] = await once(socket, "error")
      assert.instanceOf(error, Error)
    }
    await end(await open(session))
  })

  it("quotes", async () => {
    for (const text of ["plain", "o'clock", "back\\slash", "\\'", 'quo"te', "žluť"]) {
      const { rows } = await pglite.query(`SELECT ${Wire.literal(text)} AS text, 1 AS ${quote(text)}`)
      assert.deepStrictEqual(rows, [{ text, [text]: 1 }])
    }
  })
})
