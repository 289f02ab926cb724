/** What a projection of some types costs on a log of many others. */
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Context, Effect, Layer, Redacted, Stream } from "effect"
import { EventStore, OffsetStore, Projection } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { once } from "node:events"
import { connect, createServer } from "node:net"
import * as LastSeen from "../../src/events/LastSeen.ts"
import { PostgresDatabase } from "../../src/postgres/database/PostgresDatabase.ts"
import * as Reading from "../../src/postgres/events/Reading.ts"
import { untilHandled } from "../../src/testing/ProjectionScene.ts"
import { postgresUrl } from "../support/database.ts"
import { event, serveEvents } from "./events.harness.ts"
import { execute, freshSchema, urlWith } from "./harness.ts"

/** A way to the server that counts the bytes which come back on it. */
const counting = Effect.gen(function* () {
  const { hostname, port } = new URL(postgresUrl)
  let received = 0
  const server = yield* Effect.acquireRelease(
    Effect.promise(async () => {
      const relay = createServer((client) => {
        const upstream = connect(Number(port || 5432), hostname)
        upstream.on("data", (chunk) => (received += chunk.length))
        client.pipe(upstream).pipe(client)
        client.on("error", () => upstream.destroy())
        upstream.on("error", () => client.destroy())
      })
      relay.listen({ host: "127.0.0.1", port: 0 })
      await once(relay, "listening")
      return relay
    }),
    (relay) => Effect.sync(() => relay.close())
  )
  const address = server.address()
  return {
    received: () => received,
    url: urlWith((url) => {
      url.hostname = "127.0.0.1"
      url.port = typeof address === "object" ? String(address?.port) : ""
    })
  }
})

const others = 100_000

/** More types than are looked up in the index, so that the log is walked. */
const manyTypes = ["Rare", ...Array.from({ length: 8 }, (_, index) => `None ${index}`)]

/** Many events of another type with 500 bytes of data each, and a few of a rare one. */
const fill = (table: string, count: number) =>
  execute([
    `INSERT INTO ${table} (id, aggregate_id, event_type, data)
     SELECT 'e' || i, 'a' || i % 100, CASE WHEN i IN (1, 70000) THEN 'Rare' ELSE 'Frequent' END,
       jsonb_build_object('text', repeat('x', 500))
     FROM generate_series(1, ${count}) AS i`,
    `VACUUM ANALYZE ${table}`
  ])

it.live(
  "a projection of a rare type fetches its own events alone, and its offset moves on the way past the others",
  () =>
    Effect.gen(function* () {
      const { received, url } = yield* counting
      const { context, events, table } = yield* serveEvents({ url })
      yield* fill(table, others)
      const handled: Array<bigint> = []
      const projection = Projection.make({
        name: "rare",
        eventTypes: ["Rare"],
        handler: ({ version }) => Effect.sync(() => handled.push(version))
      })
      yield* Effect.gen(function* () {
        const before = received()
        yield* Effect.raceFirst(Projection.run(projection), untilHandled("rare", BigInt(others)))
        assert.deepStrictEqual(handled, [1n, 70_000n])
        assert.isBelow(received() - before, 1_000_000)
        const [offset] = yield* OffsetStore.OffsetStore.use((offsets) => Stream.runCollect(offsets.listOffsets("rare")))
        assert.strictEqual(offset?.value, BigInt(others))
        // It goes on from there: what is new is all that is read, whatever its type.
        const [last] = yield* events.append([event("a")])
        yield* Effect.raceFirst(Projection.run(projection), untilHandled("rare", last?.version ?? 0n))
        assert.deepStrictEqual(handled, [1n, 70_000n])
      }).pipe(Effect.provideContext(context))
    })
)

it.live("a long way past other types is told in parts, with the event at each end", () =>
  Effect.gen(function* () {
    const { events, table } = yield* serveEvents()
    yield* fill(table, others)
    const steps = yield* events.follow({ after: "start", eventTypes: manyTypes }).pipe(
      Stream.takeUntil(({ upTo }) => upTo.version === BigInt(others)),
      Stream.runCollect
    )
    const ends = steps.map(({ upTo }) => upTo)
    assert.isAtLeast(ends.filter(({ version }) => version < others && version !== 1n && version !== 70_000n).length, 1)
    for (const { id, version } of ends) assert.strictEqual(id, `e${version}`)
    assert.deepStrictEqual(
      steps.flatMap((step) => step.events.map(({ version }) => version)),
      [1n, 70_000n]
    )
  })
)

it.live("a log that is replaced between two parts is told", () =>
  Effect.gen(function* () {
    const schema = yield* freshSchema()
    const pool = PgClient.layer({ url: Redacted.make(postgresUrl) })
    const database = yield* Layer.build(
      Layer.provideMerge(
        Postgres.PostgresDatabase.layer({ schema }),
        Layer.provideMerge(Postgres.layerMigrations({ schema }), pool)
      )
    )
    const table = `${schema}.events`
    yield* fill(table, others)
    const service = Context.get(database, PostgresDatabase)
    let pages = 0
    const query: typeof service.query = (statement) =>
      Effect.andThen(
        // Of the first part there is one page.
        statement.compile()[0].includes("ORDER BY version ASC") && ++pages === 2
          ? Effect.orDie(execute([`UPDATE ${table} SET id = 'another' WHERE version = 50000`]))
          : Effect.void,
        service.query(statement)
      )
    const reading = yield* Effect.provideService(Reading.make, PostgresDatabase, { ...service, query })
    const steps = reading.settled({ eventTypes: manyTypes }, { seen: LastSeen.of(0n), forever: true })
    assert.instanceOf(yield* Effect.flip(Stream.runDrain(steps)), EventStore.LogReplaced)
    assert.strictEqual(pages, 2)
  })
)
