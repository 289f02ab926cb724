/**
 * Errors are named by what the program has called, `Projection.status`, and never by the operations that it is made of, as
 * `OffsetStore.listOffsets`. The public functions are those that the modules export: a new one fails here until it has its calls.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Logger, Option, Schedule, Schema, Stream } from "effect"
import { EventStore, InvalidInput, OffsetStore, Projection, Spool, SpoolStore, StoreError } from "effect-strata"
import type { Stores } from "effect-strata/postgres"
import * as PostgresServer from "../support/PostgresServer.ts"
import { execute, type Settings } from "./harness.ts"
import { serveSpool } from "./spool.harness.ts"

type Call = Effect.Effect<unknown, unknown, Stores>

const projection = "sums"
const queue = "mails"

/** What is called of each public function, or why there is nothing to call. */
type Calls = Readonly<Record<string, ReadonlyArray<Call> | string>>

const event = { aggregateId: "a", eventType: "Happened", data: 1 }

/** A handler that fails with each event: so there are parked aggregates, failures, and events to read. */
const projectionOf = (name: string, onFailure: "park" | "skip" = "park") =>
  Projection.make({
    name,
    onFailure,
    retry: Schedule.recurs(0),
    handler: () => Effect.fail("no"),
    clear: () => Effect.void
  })

const anything = { clear: () => Effect.void }

const ofProjection = (name: string): Calls => ({
  accept: [Projection.accept(name)],
  askRebuild: [Projection.askRebuild(name, 0)],
  awaitVersion: [Projection.awaitVersion(name, 3n, 0), Projection.awaitVersion(name, { version: 3n, id: "b" }, 0)],
  fold: [Projection.fold(name === "" ? { limit: -1 } : {}, 0, (count) => count + 1)],
  idPrefix: "a constant",
  layer: "it runs `run`",
  layerCluster: "it runs `run`",
  make: "it does nothing",
  names: [Stream.runDrain(Projection.names)],
  parked: [Stream.runDrain(Projection.parked(name))],
  pause: [Projection.pause(name)],
  ProcessName: "a reference",
  processes: [Projection.processes],
  progress: [Stream.runDrain(Stream.take(Projection.progress(name), 1))],
  rebuild: [
    Stream.runDrain(Stream.take(Projection.rebuild(projectionOf(name), { ...anything, mode: "in place" }), 1)),
    Stream.runDrain(Stream.take(Projection.rebuild(projectionOf(name), { ...anything, mode: "beside" }), 1))
  ],
  rebuildOf: "a name",
  reset: [Projection.reset(name)],
  resume: [Projection.resume(name)],
  retryParked: [Projection.retryParked(name, 0)],
  run: [Projection.run(projectionOf(name))],
  runAll: [Projection.runAll([projectionOf(name)])],
  shardOf: "it does nothing",
  skipped: [Stream.runDrain(Projection.skipped(name))],
  slot: [Projection.slot(name)],
  status: [Projection.status(name)],
  statuses: [Projection.statuses],
  verify: [Projection.verify(name)],
  // It forgets the projection.
  remove: [Projection.remove(name)]
})

const ofQueue = (name: string): Calls => {
  const { name: _, ...queue } = Spool.make({ name, payload: Schema.String })
  const calls: { readonly [Operation in keyof typeof queue]: ReadonlyArray<Call> } = {
    enqueue: [queue.enqueue("a"), queue.enqueue("a", { id: "a" })],
    enqueueAll: [queue.enqueueAll([{ payload: "a" }])],
    hold: [queue.hold("a", "")],
    release: [queue.release("a")],
    requeue: [queue.requeue("a")],
    run: [queue.run(() => Effect.void)],
    stats: [queue.stats]
  }
  return calls
}

const ofSpool: Calls = {
  backoff: "it makes a policy",
  fixed: "it makes a policy",
  layer: "it runs `run`",
  make: "it does nothing",
  permanent: "it makes an error",
  preview: [Spool.preview(Spool.fixed(1))]
}

/** The operations that wait for a server that is gone, and those that look at nothing. */
const patient = ["progress", "rebuild", "run", "runAll"]

/** What the errors with which a call fails are called, if it fails. */
const namesOf = (call: Call) =>
  Effect.map(Effect.exit(call), (exit) => {
    const error = Exit.isFailure(exit) ? Option.getOrUndefined(Exit.findErrorOption(exit)) : undefined
    const isNamed = error instanceof StoreError.StoreError || error instanceof InvalidInput.InvalidInput
    return isNamed ? [`${error.store}.${error.operation}`] : []
  })

/** Makes the calls one after the other. An error has no name but that of the call; returns which functions have failed. */
const failing = Effect.fnUntraced(function* (module: string, all: Calls) {
  const failed = new Set<string>()
  const wrong: Array<readonly [operation: string, name: string]> = []
  for (const [operation, calls] of Object.entries(all)) {
    for (const call of typeof calls === "string" ? [] : calls) {
      for (const name of yield* namesOf(call)) {
        if (name !== `${module}.${operation}`) wrong.push([operation, name])
        failed.add(operation)
      }
    }
  }
  assert.deepStrictEqual(wrong, [])
  return failed
})

const without = (calls: Calls, left: ReadonlyArray<string>): Calls =>
  Object.fromEntries(Object.entries(calls).filter(([name]) => !left.includes(name)))

/** The functions that have something to call. */
const called = (calls: Calls) =>
  Object.keys(calls)
    .filter((name) => typeof calls[name] !== "string")
    .toSorted()

/** What a module exports besides its models and errors. */
const exportsOf = (module: object) =>
  Object.entries(module)
    .filter(([, value]) => !Schema.isSchema(value))
    .map(([name]) => name)
    .toSorted()

const quiet = Logger.layer([])

/** Stores in which a projection has parked one event and skipped another, and a queue has a message. */
const seeded = Effect.fnUntraced(function* (settings?: Settings) {
  const { context, schema } = yield* serveSpool(settings)
  const seed = Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    yield* events.append([event, { ...event, id: "b" }, event])
    for (const onFailure of ["skip", "park"] as const) {
      const run = yield* Effect.forkChild(Projection.run(projectionOf(projection, onFailure)))
      yield* Projection.awaitVersion(projection, 3n, "10 minutes")
      yield* Fiber.interrupt(run)
      if (onFailure === "skip") yield* OffsetStore.OffsetStore.use((offsets) => offsets.resetOffset(projection, 0n))
    }
    yield* Spool.make({ name: queue, payload: Schema.String }).enqueue("a", { id: "a" })
  })
  yield* Effect.provide(seed, Layer.succeedContext(context))
  return { context, schema }
})

describe("an error has the name of what was called", () => {
  it("and every public function is called here", () => {
    assert.deepStrictEqual(Object.keys(ofProjection(projection)).toSorted(), exportsOf(Projection))
    assert.deepStrictEqual(Object.keys(ofSpool).toSorted(), exportsOf(Spool))
  })

  it.live("where a table is missing", () =>
    Effect.gen(function* () {
      const failed = new Set<string>()
      for (const table of ["events", "offsets_store", "states_store", "strata_messages"]) {
        const { context, schema } = yield* seeded()
        yield* execute([`DROP TABLE ${schema}.${table} CASCADE`])
        const calls =
          table === "strata_messages"
            ? failing("Spool", ofQueue(queue))
            : failing("Projection", ofProjection(projection))
        for (const name of yield* Effect.provideContext(calls, context)) failed.add(name)
      }
      assert.deepStrictEqual([...failed].toSorted(), called({ ...ofProjection(projection), ...ofQueue(queue) }))
    }).pipe(Effect.provide(quiet))
  )

  it.live("where the server has stopped", () =>
    Effect.gen(function* () {
      const server = yield* PostgresServer.make()
      const { context } = yield* seeded({ url: server.url, options: { schema: "public" } })
      yield* server.stop("fast")
      const projections = without(ofProjection(projection), patient)
      const queues = without(ofQueue(queue), patient)
      const failed = yield* Effect.provideContext(failing("Projection", projections), context)
      assert.deepStrictEqual([...failed].toSorted(), called(projections))
      const failedQueues = yield* Effect.provideContext(failing("Spool", queues), context)
      assert.deepStrictEqual([...failedQueues].toSorted(), called(queues))
    }).pipe(Effect.provide(quiet))
  )

  it.live("where an argument is wrong", () =>
    Effect.gen(function* () {
      const { context } = yield* serveSpool()
      const projections = without(ofProjection(""), ["names", "processes", "statuses"])
      const failed = yield* Effect.provideContext(failing("Projection", projections), context)
      assert.deepStrictEqual([...failed].toSorted(), called(projections))
      const queues = ofQueue("a".repeat(256))
      const failedQueues = yield* Effect.provideContext(failing("Spool", queues), context)
      assert.deepStrictEqual([...failedQueues].toSorted(), called(queues))
    }).pipe(Effect.provide(quiet))
  )
})

it.live("what the program itself has called keeps its own name", () =>
  Effect.gen(function* () {
    const { context, schema } = yield* seeded()
    yield* execute([`DROP TABLE ${schema}.strata_messages CASCADE`])
    const clear = () => SpoolStore.SpoolStore.use((spool) => spool.countByState("a"))
    for (const mode of ["in place", "beside"] as const) {
      const rebuild = Stream.runDrain(Projection.rebuild(projectionOf(projection), { clear, mode }))
      const names = yield* Effect.provideContext(namesOf(rebuild), context)
      assert.deepStrictEqual(names, ["SpoolStore.countByState"], mode)
    }
  }).pipe(Effect.provide(quiet))
)
