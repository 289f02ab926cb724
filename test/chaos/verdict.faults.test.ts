/** The verdict on what real stores have made of real writes, and on the same with one thing wrong. */
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import { EventStore, OffsetStore, SpoolStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { Reactivity } from "effect/reactivity"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { connect, type Socket } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { supportApplicationName, withConnection } from "../support/connection.ts"
import { waitForBackends } from "../support/database.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import * as Proxy from "../support/Proxy.ts"
import { messages } from "./agreed.ts"
import * as Batches from "./batches.ts"
import { leftWaiting } from "./locks.ts"
import type { Process } from "./processes.ts"
import { migrate } from "./tables.ts"
import { findings, leftovers } from "./verdict.ts"

const schema = "chaos"

const run = (url: string, ...statements: ReadonlyArray<string>) =>
  withConnection(url, (sql) => Effect.forEach(statements, (statement) => sql.unsafe(statement).unprepared))

/** A page of the events with these versions. */
const seen = (...versions: ReadonlyArray<number>) =>
  versions.map((version) => ({ version: String(version), id: String(version) }))

/** Four events and two messages, written, followed, added up and handled as they should be. */
const scene = Effect.gen(function* () {
  const { url } = yield* PostgresServer.make()
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "strata-chaos-"))),
    (path) => Effect.sync(() => rmSync(path, { recursive: true }))
  )
  yield* migrate(url, schema)
  const history = (name: string, ...lines: ReadonlyArray<unknown>) =>
    writeFileSync(join(directory, `${name}.jsonl`), lines.map((line) => `${JSON.stringify(line)}\n`).join(""))
  const write = { write: "w", events: ["1", "2", "3", "4"], undone: ["undone"], messages: ["a:fine", "b:hopeless"] }
  yield* Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const spool = yield* SpoolStore.SpoolStore
    const offsets = yield* OffsetStore.OffsetStore
    const aggregates = ["account 1", "shared", "account 3", "account 1"]
    yield* events.append(
      aggregates.map((aggregateId, index) => ({ id: `${index + 1}`, aggregateId, eventType: "Added", data: index }))
    )
    yield* spool.storeMany(write.messages.map((id) => ({ queue: "jobs", id })))
    yield* spool.claim({ queue: "jobs", limit: 2, lease: "1 minute", owner: "worker" })
    const lease = { queue: "jobs", owner: "worker", attempt: 1 }
    yield* spool.settle([
      { outcome: "archived", id: "a:fine", ...lease },
      { outcome: "bounced", id: "b:hopeless", error: "never", ...lease }
    ])
    yield* offsets.writeOffset({ projectionName: "sums", shardNumber: 0, value: 4n })
  }).pipe(Effect.provide(Layer.provide(Postgres.layerStorage({ schema }), PgClient.layer({ url: Redacted.make(url) }))))
  yield* run(
    url,
    `INSERT INTO ${schema}.sums SELECT aggregate_id, sum(data::text::bigint), count(*) FROM ${schema}.events GROUP BY 1`,
    `INSERT INTO ${schema}.handled VALUES ('a:fine')`
  )
  history("writer", write, { write: "w", end: "acknowledged" })
  history("follower-all", seen(1), seen(2, 3, 4))
  history("follower-some", seen(2, 3))
  history("follower-read", seen(1, 2, 3, 4))
  const wrong = Effect.map(findings({ url, schema, directory, writers: ["writer"], projection: "sums" }), (all) =>
    all.flatMap(({ about, wrong }) => wrong.map((line) => `${about}: ${line}`))
  )
  return { url, history, write, wrong }
})

it.live("finds no mistake where there is none, and each mistake that is made", () =>
  Effect.gen(function* () {
    const { history, url, write, wrong } = yield* scene
    assert.deepStrictEqual(yield* wrong, [])

    history("follower-all", seen(1), seen(3, 4))
    assert.deepStrictEqual(yield* wrong, ["follower-all: lost: 1"])
    history("follower-all", seen(1), seen(2, 3), seen(3, 4))
    assert.deepStrictEqual(yield* wrong, ["follower-all: duplicated: 1"])
    history("follower-all", seen(1), seen(2, 4, 3))
    assert.deepStrictEqual(yield* wrong, ["follower-all: outOfOrder: 1"])
    history("follower-all", seen(1), seen(2, 3, 4))
    history("follower-some", seen(2), seen(3, 4))
    assert.deepStrictEqual(yield* wrong, ["follower-some: invented: 1"])
    history("follower-some", seen(2, 3))
    history("follower-read", seen(1, 2, 3))
    assert.deepStrictEqual(yield* wrong, ["follower-read: lost: 1"])
    history("follower-read", seen(1, 2, 3, 4))

    const end = { write: "w", end: "acknowledged" }
    history("writer", { ...write, events: ["1", "2", "4", "undone"], undone: ["3"] }, end)
    assert.deepStrictEqual(yield* wrong, [
      "writes: w was acknowledged: 5 of 6",
      "writes: w has undone 1 that are there"
    ])
    history("writer", write, end)

    // The log was set back, and has lost two events of one write.
    const lost = { write: "l", events: ["5", "6"], undone: [], messages: ["c:fine"] }
    history("writer", write, end, lost, { write: "l", end: "acknowledged" })
    assert.deepStrictEqual(yield* wrong, ["writes: l was acknowledged: 0 of 3"])
    history("set-backs", { events: seen(5, 6), messages: ["c:fine"], handled: [] })
    assert.deepStrictEqual(yield* wrong, [])
    history("follower-all", seen(1, 2, 3, 4, 5))
    history("follower-read", seen(1, 2, 3, 4), { told: "4" })
    assert.deepStrictEqual(yield* wrong, ["follower-all: set back, and never told of: 1"])
    history("follower-all", seen(1, 2, 3, 4, 5), { told: "3" }, seen(4))
    assert.deepStrictEqual(yield* wrong, [])
    history("set-backs", { events: seen(5), messages: ["c:fine"], handled: [] })
    assert.deepStrictEqual(yield* wrong, ["writes: l was acknowledged: 0 of 3"])
    history("set-backs")
    history("writer", write, end)
    assert.deepStrictEqual(yield* wrong, [
      "follower-all: was told to go back to 3: nothing was lost above it",
      "follower-read: was told to go back to 4: nothing was lost above it"
    ])
    history("follower-all", seen(1), seen(2, 3, 4))
    history("follower-read", seen(1, 2, 3, 4))

    yield* run(url, `UPDATE ${schema}.sums SET count = 2 WHERE id = 'shared'`)
    assert.deepStrictEqual(yield* wrong, ["projection: the sum of shared is wrong"])
    yield* run(
      url,
      `UPDATE ${schema}.sums SET count = 1 WHERE id = 'shared'`,
      `UPDATE ${schema}.offsets_store SET current_offset = 3`
    )
    assert.deepStrictEqual(yield* wrong, ["projection: shard 0 is at 3"])
    yield* run(
      url,
      `UPDATE ${schema}.offsets_store SET current_offset = 4`,
      `INSERT INTO ${schema}.handled VALUES ('a:fine')`
    )
    assert.deepStrictEqual(yield* wrong, ["messages: a:fine is in state 5, and was handled 2 times"])
    yield* run(url, `DELETE FROM ${schema}.handled WHERE ctid = (SELECT min(ctid) FROM ${schema}.handled)`)
    assert.deepStrictEqual(yield* wrong, [])

    // A store that gives a message to two workers would write these rows, and so would a store that takes it away too soon.
    const messages = `${schema}.strata_messages`
    yield* run(
      url,
      `UPDATE ${messages} SET state = 0 WHERE id = 'a:fine'`,
      `DELETE FROM ${schema}.transitions WHERE id = 'a:fine'`,
      `UPDATE ${messages} SET state = 1, attempts = 2, lease_owner = 'one', lease_until = now() WHERE id = 'a:fine'`,
      `UPDATE ${messages} SET attempts = 3, lease_owner = 'two' WHERE id = 'a:fine'`,
      `UPDATE ${messages} SET state = 0, lease_owner = NULL WHERE id = 'a:fine'`
    )
    assert.deepStrictEqual(yield* wrong, [
      "messages: a:fine is in state 0, and was handled 1 times",
      "leases: a:fine was claimed while it was active",
      "leases: a:fine was recovered before its lease had ended"
    ])
  })
)

it.live("finds what is left connected, locked or prepared", () =>
  Effect.gen(function* () {
    const { url } = yield* PostgresServer.make()
    yield* run(url, "CREATE TABLE prepared (id int)", "CREATE TABLE locked (id int)")
    assert.deepStrictEqual(yield* leftovers(url), [])
    yield* run(url, "BEGIN", "INSERT INTO prepared VALUES (1)", "PREPARE TRANSACTION 'forgotten'")
    const left = yield* withConnection(url, (sql) =>
      Effect.gen(function* () {
        yield* sql`BEGIN`.unprepared
        yield* sql`LOCK TABLE locked`.unprepared
        return yield* leftovers(url)
      })
    )
    for (const what of [
      /^still connected: .* idle in transaction LOCK TABLE locked/,
      /^still locked: relation AccessExclusiveLock locked/,
      /^still locked: relation RowExclusiveLock prepared/,
      /^still prepared: forgotten/
    ]) {
      assert.isTrue(
        left.some((line) => what.test(line)),
        `${String(what)} in ${left.join("\n")}`
      )
    }
    yield* run(url, "ROLLBACK PREPARED 'forgotten'")
    assert.deepStrictEqual(yield* leftovers(url), [])
  })
)

it.live("finds connections that wait for a locked table, and whose clients have gone", () =>
  Effect.gen(function* () {
    const { port, url } = yield* PostgresServer.make()
    const proxy = yield* Proxy.make({ host: "127.0.0.1", port })
    yield* run(url, "CREATE TABLE locked (id int)")
    const look = leftWaiting(url, () => ["one"], proxy.abandoned)
    const waiting = (name: string) => {
      const socket = connect(proxy.port, proxy.host)
      return Effect.gen(function* () {
        const sql = yield* PgClient.makeClient({
          url: Redacted.make(url),
          applicationName: name,
          stream: () => socket
        })
        yield* Effect.forkScoped(sql`SELECT FROM locked`)
        yield* waitForBackends(name, (all) => all.some(({ query }) => query.includes("locked")), url)
        return socket
      }).pipe(Effect.provide(Reactivity.layer))
    }
    yield* withConnection(url, (sql) =>
      Effect.gen(function* () {
        yield* sql`BEGIN`.unprepared
        yield* sql`LOCK TABLE locked`.unprepared
        const [one, another] = [yield* waiting("one"), yield* waiting("another")]
        assert.strictEqual(yield* look, 0)
        const end = (socket: Socket, count: number) => {
          socket.destroy()
          return Effect.repeat(Effect.delay(proxy.abandoned, "5 millis"), { until: ({ length }) => length === count })
        }
        // This application does not run any more: it was killed, and could do nothing.
        yield* end(another, 1)
        assert.strictEqual(yield* look, 0)
        yield* end(one, 2)
        assert.strictEqual(yield* look, 1)
      })
    )
    assert.strictEqual(yield* look, 0)
  })
)

it.live("finds that nobody went on for a process that was stopped in a batch", () =>
  Effect.gen(function* () {
    const { url } = yield* scene
    const stopped = (name: string): Process => ({
      name,
      application: () => supportApplicationName,
      kill: () => Effect.void,
      pause: (during) => during,
      step: () => Effect.void,
      tell: () => Effect.void,
      end: Effect.void,
      ready: Effect.void,
      works: Effect.void,
      mistakes: [],
      starts: () => 1,
      longestRest: () => ({ millis: 0, until: 0 })
    })
    const stopIn = (name: string) =>
      withConnection(url, (sql) =>
        Effect.gen(function* () {
          yield* sql`BEGIN`.unprepared
          yield* sql`SELECT FROM pg_current_xact_id()`
          const world = { cluster: { url: () => url }, processes: [stopped(name)], schema, projection: "sums" }
          const { finding, stop } = Batches.make(world, 300)
          yield* stop({ kind: "stop a host in a batch", at: 0, millis: 0, pick: 0, extent: 0 })
          return finding()
        })
      )
    const about = "stopped hosts"
    const found = "1 stopped in a batch"
    assert.deepStrictEqual(yield* stopIn("projection"), { about, found, wrong: [] })
    yield* run(url, `UPDATE ${schema}.offsets_store SET current_offset = 3`)
    const nobody = (name: string) => ({ about, found, wrong: [`nobody went on for ${name} in 300 ms`] })
    assert.deepStrictEqual(yield* stopIn("projection"), nobody("projection"))
    assert.deepStrictEqual(yield* stopIn("worker"), { about, found, wrong: [] })
    yield* run(url, `UPDATE ${schema}.${messages} SET state = 1 WHERE id = 'a:fine'`)
    assert.deepStrictEqual(yield* stopIn("worker"), nobody("worker"))
  })
)
