/** Where the rule for holes does not hold by itself: reads are refused, or the rule has to see more than usual. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Redacted, Stream } from "effect"
import { OffsetStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { scratchDatabase } from "../support/database.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { detach, replicate, standbyOf } from "../support/Replicas.ts"
import {
  event,
  follow,
  foreignPartitions,
  plainInsert,
  type ServedEvents,
  serveEvents,
  session,
  versionsIn
} from "./events.harness.ts"
import { execute, failsWith, freshSchema, query } from "./harness.ts"

describe("a hot standby", () => {
  it.live("refuses reads across aggregates, and serves reads of one aggregate", () =>
    Effect.gen(function* () {
      const primary = yield* PostgresServer.make()
      const options = { schema: "public" }
      const served = yield* serveEvents({ url: primary.url, options })
      const stored = yield* served.events.append([event("a"), event("b")])
      const { url } = yield* standbyOf(primary)
      const { events } = yield* serveEvents({ url, options, layer: Postgres.layerStorage })
      for (const [operation, reading] of [
        ["load", events.load()],
        ["read", Stream.runDrain(events.read())]
      ] as const) {
        yield* failsWith(reading, `EventStore.${operation}`, "Denied", /standby/)
      }
      assert.deepStrictEqual(yield* events.loadByAggregate("b"), stored.slice(1))
      assert.deepStrictEqual(yield* Stream.runCollect(events.read({ direction: "backward" })), stored.toReversed())
      assert.deepStrictEqual(yield* events.get(stored[0]?.id ?? ""), stored[0])
    })
  )
})

describe("a subscriber of logical replication", () => {
  it.live("is refused, until it is none any more", () =>
    Effect.gen(function* () {
      const server = yield* PostgresServer.make({ settings: { wal_level: "logical" } })
      const [from, to] = [yield* scratchDatabase(server.url), yield* scratchDatabase(server.url)]
      const options = { schema: "public" }
      const publisher = yield* serveEvents({ url: from, options })
      const subscriber = yield* serveEvents({ url: to, options })
      yield* replicate(from, to)
      const refused = /public\.?"?.*events.* is a copy that logical replication fills.*the database that publishes it/
      yield* failsWith(subscriber.events.load(), "EventStore.load", "Denied", refused)
      yield* failsWith(subscriber.events.append(event("a")), "EventStore.append", "Denied", refused)
      yield* failsWith(
        Stream.runDrain(subscriber.events.subscribe({ after: "end" })),
        "EventStore.subscribe",
        "Denied",
        refused
      )
      const pool = PgClient.layer({ url: Redacted.make(to) })
      yield* failsWith(Layer.build(Layer.provide(Postgres.layer(options), pool)), "Postgres.layer", "Denied", refused)
      // The table that is published is a log like any other.
      const stored = yield* publisher.events.append(event("a"))
      assert.deepStrictEqual(yield* publisher.events.load(), stored)
      yield* detach(from, to)
      // A table that was a copy once is a log, too.
      assert.isArray(yield* subscriber.events.load())
    })
  )
})

describe("a table in partitions", () => {
  it.live("makes readers wait for a transaction that inserts into one of them directly", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      yield* foreignPartitions(schema, 1000)
      const served = yield* serveEvents({ options: { schema } })
      const { events } = served
      const follower = yield* follow(served, { after: "start" })
      yield* events.append(event("a"))
      yield* follower.until(1n)
      const t = yield* session()
      yield* t("BEGIN")
      yield* t(plainInsert(`${schema}.events_1`, "2"))
      yield* events.append(event("a"))
      const load = yield* Effect.forkChild(events.load(), { startImmediately: true })
      yield* Effect.sleep(200)
      assert.isUndefined(load.pollUnsafe())
      assert.deepStrictEqual(follower.seen, [1n])
      yield* t("COMMIT")
      assert.deepStrictEqual(
        (yield* Fiber.join(load)).map(({ version }) => version),
        [1n, 2n, 3n]
      )
      yield* follower.until(3n)
      assert.deepStrictEqual(follower.seen, [1n, 2n, 3n])
    })
  )
})

type Session = Effect.Success<ReturnType<typeof session>>

describe("a child by INHERITS", () => {
  /** Waits for a hole at version 2 that the transaction of a session keeps open. */
  const waitsFor = Effect.fnUntraced(function* <E, R>(
    served: ServedEvents,
    write: (sequence: string) => Effect.Effect<Session, E, R>
  ) {
    const { events, table } = served
    const follower = yield* follow(served, { after: "start" })
    yield* events.append(event("a"))
    yield* follower.until(1n)
    const [row] = yield* query(`SELECT pg_get_serial_sequence('${table}', 'version')`)
    const t = yield* write(String(row?.[0]))
    yield* events.append(event("a"))
    const load = yield* Effect.forkChild(events.load(), { startImmediately: true })
    yield* Effect.sleep(300)
    assert.isUndefined(load.pollUnsafe())
    assert.deepStrictEqual(follower.seen, [1n])
    yield* t("COMMIT")
    assert.deepStrictEqual(
      (yield* Fiber.join(load)).map(({ version }) => version),
      [1n, 2n, 3n]
    )
    yield* follower.until(3n)
    assert.deepStrictEqual(follower.seen, [1n, 2n, 3n])
  })

  const child = (name: string, parent: string, sequence: string) => [
    `CREATE TABLE ${name} (PRIMARY KEY (version)) INHERITS (${parent})`,
    `ALTER TABLE ${name} ALTER version SET DEFAULT nextval('${sequence}')`
  ]

  it.live("is waited for where it is written directly, and so is a child of it", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { schema, table } = served
      yield* waitsFor(served, (sequence) =>
        Effect.gen(function* () {
          yield* execute([
            ...child(`${schema}.child`, table, sequence),
            ...child(`${schema}.grandchild`, `${schema}.child`, sequence)
          ])
          const t = yield* session()
          yield* t("BEGIN")
          yield* t(plainInsert(`${schema}.grandchild`, "2"))
          return t
        })
      )
    })
  )

  it.live("is waited for where the transaction that writes it has made it, and nobody else can see it", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { schema, table } = served
      yield* waitsFor(served, (sequence) =>
        Effect.gen(function* () {
          const t = yield* session()
          yield* t("BEGIN")
          for (const statement of child(`${schema}.child`, table, sequence)) yield* t(statement)
          yield* t(plainInsert(`${schema}.child`, "2"))
          return t
        })
      )
    })
  )
})

describe("a sequence that is changed under a live layer", () => {
  const remedy = /sequence .* has CACHE 10, .*; run ALTER SEQUENCE .* CACHE 1$/

  const changed = Effect.gen(function* () {
    const served = yield* serveEvents()
    const { events, table } = served
    const follower = yield* follow(served, { after: "start" })
    yield* events.append(event("a"))
    yield* follower.until(1n)
    const [row] = yield* query(`SELECT pg_get_serial_sequence('${table}', 'version')`)
    const alter = (clause: string) => execute([`ALTER SEQUENCE ${String(row?.[0])} ${clause}`])
    return { ...served, follower, alter }
  })

  it.live("ends the subscriptions that are idle, and no others that hear on the same connection", () =>
    Effect.gen(function* () {
      const { alter, context, events, follower, watched } = yield* changed
      const offsets = Context.get(context, OffsetStore.OffsetStore)
      const changes = yield* Effect.forkChild(Stream.runDrain(offsets.changes))
      yield* alter("CACHE 10")
      yield* failsWith(watched(Fiber.join(follower.fiber)), "EventStore.subscribe", "Unexpected", remedy)
      yield* failsWith(
        Stream.runDrain(events.subscribe({ after: "end" })),
        "EventStore.subscribe",
        "Unexpected",
        remedy
      )
      assert.isUndefined(changes.pollUnsafe())
      yield* alter("CACHE 1")
      const again = yield* follow({ events }, { after: "start" })
      yield* again.until(1n)
    })
  )

  it.live("lets no reader pass a hole", () =>
    Effect.gen(function* () {
      const { alter, events, follower, table } = yield* changed
      const [early, late] = [yield* session(), yield* session()]
      yield* alter("CACHE 10")
      // The first one takes a block of versions and has more of them to give when the other one is committed.
      yield* early(plainInsert(table, "2"))
      yield* late(plainInsert(table, "12"))
      yield* failsWith(events.load(), "EventStore.load", "Unexpected", remedy)
      yield* failsWith(Fiber.join(follower.fiber), "EventStore.subscribe", "Unexpected", remedy)
      assert.isAtMost(Number(follower.seen.at(-1)), 2)
    })
  )
})

describe("a prepared transaction", () => {
  it.live("holds up readers through a crash of the server, and its event comes in order", () =>
    Effect.gen(function* () {
      const server = yield* PostgresServer.make()
      const served = yield* serveEvents({ url: server.url, options: { schema: "public", settleTimeout: "100 millis" } })
      const { events, watched } = served
      const load = Effect.map(watched(events.load()), (all) => all.map(({ version }) => version))
      const follower = yield* follow(served, { after: "start" })
      yield* events.append(event("a"))
      yield* follower.until(1n)
      // The session has a scope of its own, because its connection does not outlive the crash.
      yield* Effect.scoped(
        Effect.gen(function* () {
          const t = yield* session(server.url)
          yield* t("BEGIN")
          yield* t(plainInsert("public.events", "prepared"))
          yield* t("PREPARE TRANSACTION 'held'")
        })
      )
      yield* events.append(event("a"))
      // A read waits for the prepared transaction, and ends before its event.
      assert.deepStrictEqual(yield* load, [1n])
      yield* server.kill
      yield* server.start
      const [third] = yield* Effect.retry(events.append(event("a")), { times: 20 })
      assert.deepStrictEqual(yield* load, [1n])
      yield* Effect.sleep(300)
      assert.deepStrictEqual(follower.seen, [1n])
      yield* execute(["COMMIT PREPARED 'held'"], server.url)
      yield* follower.until(third?.version ?? 0n)
      const stored = yield* versionsIn("public.events", "true", server.url)
      assert.lengthOf(stored, 4)
      assert.deepStrictEqual(follower.seen, stored)
    })
  )
})
