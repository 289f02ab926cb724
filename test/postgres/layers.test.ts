/** Layers with other options in one program are other stores, and a layer that is used twice is the same ones. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Option, Redacted, type Scope, Stream } from "effect"
import { DurableStateStore, EventStore, OffsetStore, SpoolStore, Transactor } from "effect-strata"
import * as Memory from "effect-strata/memory"
import * as Postgres from "effect-strata/postgres"
import { connect } from "node:net"
import { Duplex } from "node:stream"
import { postgresUrl } from "../support/database.ts"
import { freshSchema } from "./harness.ts"
import { state } from "./states.harness.ts"

type Services = Context.Context<Postgres.Stores>

type Served = Layer.Layer<Postgres.Stores, unknown>
type Layers = Effect.Effect<readonly [Served, Served], never, Scope.Scope>

class First extends Context.Service<First, Services>()("test/First") {}
class Second extends Context.Service<Second, Services>()("test/Second") {}

/** Both in one program, each with its stores. */
const both = ([first, second]: readonly [Served, Served]) =>
  Effect.map(
    Layer.build(
      Layer.merge(
        Layer.provide(Layer.effect(First, Effect.context<Postgres.Stores>()), first),
        Layer.provide(Layer.effect(Second, Effect.context<Postgres.Stores>()), second)
      )
    ),
    (context) => [Context.get(context, First), Context.get(context, Second)] as const
  )

const writeAll = Effect.gen(function* () {
  const { append } = yield* EventStore.EventStore
  const { writeOffset } = yield* OffsetStore.OffsetStore
  const { writeState } = yield* DurableStateStore.DurableStateStore
  const { storeMeta } = yield* SpoolStore.SpoolStore
  yield* Transactor.withTransaction(
    Effect.all([
      append({ aggregateId: "a", eventType: "T", data: 1 }),
      writeOffset({ projectionName: "p", shardNumber: 0, value: 1n }),
      writeState(state("s", 1n)),
      storeMeta({ id: "m", queue: "q", payload: 1 })
    ])
  )
})

/** How many events, offsets, states and messages there are. */
const counts = Effect.gen(function* () {
  const { load } = yield* EventStore.EventStore
  const { listOffsets } = yield* OffsetStore.OffsetStore
  const { getLatestState } = yield* DurableStateStore.DurableStateStore
  const { countByState } = yield* SpoolStore.SpoolStore
  return [
    (yield* load()).length,
    (yield* Stream.runCollect(listOffsets())).length,
    Option.isSome(yield* getLatestState("s")) ? 1 : 0,
    (yield* countByState("q")).incoming
  ]
})

const servicesIn = (context: Services): ReadonlyArray<unknown> => [
  Context.get(context, EventStore.EventStore),
  Context.get(context, OffsetStore.OffsetStore),
  Context.get(context, DurableStateStore.DurableStateStore),
  Context.get(context, SpoolStore.SpoolStore),
  Context.get(context, Transactor.Transactor)
]

const backends: ReadonlyArray<readonly [string, Layers]> = [
  ["memory", Effect.succeed([Memory.layerWith({}), Memory.layerWith({ traceparent: "never" })] as const)],
  [
    "postgres",
    Effect.gen(function* () {
      const client = PgClient.layer({ url: Redacted.make(postgresUrl), maxConnections: 4 })
      const on = (schema: string) => Layer.provide(Postgres.layer({ schema }), client)
      return [on(yield* freshSchema()), on(yield* freshSchema())] as const
    })
  ],
  [
    "postgres, without migrations",
    Effect.gen(function* () {
      const client = PgClient.layer({ url: Redacted.make(postgresUrl), maxConnections: 4 })
      const on = (schema: string) => {
        const migrated = Layer.provide(Postgres.layerStorage({ schema }), Postgres.layerMigrations({ schema }))
        return Layer.provide(migrated, client)
      }
      return [on(yield* freshSchema()), on(yield* freshSchema())] as const
    })
  ]
]

describe.each(backends)("two layers on %s", (_, layers) => {
  it.live("are two sets of stores", () =>
    Effect.gen(function* () {
      const [first, second] = yield* both(yield* layers)
      yield* Effect.provideContext(writeAll, first)
      assert.deepStrictEqual(yield* Effect.provideContext(counts, first), [1, 1, 1, 1])
      assert.deepStrictEqual(yield* Effect.provideContext(counts, second), [0, 0, 0, 0])
      yield* Effect.provideContext(writeAll, second)
      assert.deepStrictEqual(yield* Effect.provideContext(counts, first), [1, 1, 1, 1])
    })
  )

  it.live("are one where they are the same value", () =>
    Effect.gen(function* () {
      const [layer] = yield* layers
      const [first, second] = yield* both([layer, layer])
      const [ofFirst, ofSecond] = [servicesIn(first), servicesIn(second)]
      ofFirst.forEach((service, index) => assert.strictEqual(service, ofSecond[index]))
      yield* Effect.provideContext(writeAll, first)
      assert.deepStrictEqual(yield* Effect.provideContext(counts, second), [1, 1, 1, 1])
    })
  )
})

const connectToServer = () => {
  const { hostname, port } = new URL(postgresUrl)
  return connect(Number(port || 5432), hostname)
}

const streams: ReadonlyArray<readonly [string, () => Duplex]> = [
  ["a socket", connectToServer],
  [
    "a stream that is no socket",
    () => {
      const socket = connectToServer()
      return Duplex.from({ readable: socket, writable: socket })
    }
  ]
]

const listenersOf = (stream: Duplex | undefined) =>
  Object.fromEntries((stream?.eventNames() ?? []).map((name) => [name, stream?.listenerCount(name)]))

describe.each(streams)("many layers on one pool, over %s", (_, open) => {
  it.live("have no more listeners on it than one", () =>
    Effect.gen(function* () {
      const opened: Array<Duplex> = []
      const stream = () => {
        const next = open()
        opened.push(next)
        return next
      }
      const url = Redacted.make(postgresUrl)
      const pool = yield* Layer.build(PgClient.layer({ url, maxConnections: 1, stream }))
      const schema = yield* freshSchema()
      const use = Effect.gen(function* () {
        const stores = yield* Layer.build(Layer.fresh(Postgres.layer({ schema })))
        yield* Context.get(stores, OffsetStore.OffsetStore).ping
      }).pipe(Effect.provide(pool))
      yield* use
      const [first] = opened
      const listeners = listenersOf(first)
      yield* Effect.replicateEffect(use, 10, { discard: true })
      assert.strictEqual(first?.destroyed, false)
      assert.deepStrictEqual(listenersOf(first), listeners)
    })
  )
})
