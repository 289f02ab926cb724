/**
 * Errors are named by what the program has called, `Projection.status`, and never by the operations that it is made of, as
 * `OffsetStore.listOffsets`. The public functions are those that the modules export: a new one fails here until it has its calls.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Logger, Option, Schedule, Schema, Stream } from "effect"
import {
  Decision,
  Entity,
  EventStore,
  Health,
  InvalidInput,
  OffsetStore,
  Projection,
  Spool,
  SpoolStore,
  StateCodec,
  StoreError,
  Supervisor,
  Transactor
} from "effect-strata"
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

class Counted extends Schema.TaggedClass<Counted>()("Counted", { by: Schema.Int }) {}

type Tags = ReadonlyArray<string>
const tag = "count:1"

const Counts = EventStore.typed({ events: [Counted], unknown: "skip", tags: { Counted: (): Tags => [tag] } })

/** The operations of a typed view, which are called of a store. */
type View = Effect.Success<typeof Counts>

const onView = (use: (view: View) => Call): Call => Effect.flatMap(Counts, use)

const one = new Counted({ by: 1 })

const ofView = (aggregateId: string): { readonly [Operation in keyof View]: ReadonlyArray<Call> } => ({
  append: [onView(({ append }) => append(aggregateId, one))],
  appendAll: [
    onView(({ appendAll }) => appendAll([{ aggregateId, event: one }])),
    onView(({ appendAll }) => appendAll([{ aggregateId, event: Object.assign(new Counted({ by: 1 }), { by: "" }) }]))
  ],
  fold: [onView(({ fold }) => fold(aggregateId, 0, (count) => count + 1))],
  get: [onView(({ get }) => get(aggregateId))],
  load: [onView(({ load }) => load(aggregateId === "" ? -1n : 0n))],
  loadByAggregate: [onView(({ loadByAggregate }) => loadByAggregate(aggregateId))],
  read: [onView(({ read }) => Stream.runDrain(read({ aggregateIds: [aggregateId] })))],
  subscribe: [
    onView(({ subscribe }) => Stream.runDrain(Stream.take(subscribe({ after: 0n, aggregateIds: [aggregateId] }), 1)))
  ],
  tagAll: [onView(({ tagAll }) => Stream.runDrain(tagAll({ after: aggregateId === "" ? -1n : 0n })))]
})

/** The same in a transaction of the caller, where each attempt is a savepoint. */
const inTransaction = <R>(
  call: Effect.Effect<unknown, unknown, R>
): Effect.Effect<unknown, unknown, R | Transactor.Transactor> => {
  let result: Exit.Exit<unknown, unknown> = Exit.void
  const inside = Effect.tap(Effect.exit(call), (exit) => Effect.sync(() => (result = exit)))
  return Effect.andThen(
    Effect.exit(Transactor.withTransaction(inside)),
    Effect.suspend(() => result)
  )
}

const entityOf = (name: string) =>
  Entity.make({
    name,
    events: Counts,
    initial: () => 0,
    apply: (count: number, { event }) => count + event.by,
    snapshots: { codec: StateCodec.json(Schema.Number, { manifest: "test.Count" }), every: 1 }
  })

const ofEntity = (aggregateId: string): Calls => {
  const execute = (key?: string) =>
    Effect.flatMap(entityOf("counts"), ({ execute }) =>
      execute(aggregateId, () => one, key === undefined ? {} : { key })
    )
  return {
    make: [entityOf(aggregateId)],
    load: [Effect.flatMap(entityOf("counts"), ({ load }) => load(aggregateId))],
    execute: [execute(), execute("key"), inTransaction(execute("another"))]
  }
}

/** A decision about events with a tag. What is appended has it, too. */
const decisionOf = (tag: string, decide: () => ReadonlyArray<Counted | { aggregateId: string; event: Counted }>) =>
  Decision.make({
    name: "count",
    events: Counts,
    query: () => [{ tags: [tag] }],
    initial: () => 0,
    evolve: (count: number, { event }) => count + event.by,
    decide
  })

const ofDecision = (query: string): Calls => {
  const { execute, load } = decisionOf(query, () => [one])
  return {
    all: "it makes a model",
    make: "it does nothing",
    model: "it makes a model",
    load: [load(undefined)],
    execute: [
      execute(undefined),
      execute(undefined, { key: "key" }),
      inTransaction(execute(undefined, { key: "another" })),
      decisionOf(tag, () => [{ aggregateId: query, event: one }]).execute(undefined)
    ]
  }
}

const without = (calls: Calls, left: ReadonlyArray<string>): Calls =>
  Object.fromEntries(Object.entries(calls).filter(([name]) => !left.includes(name)))

/** All calls by the module that has the function, with arguments that are right and that are wrong. */
const right = {
  Projection: ofProjection(projection),
  Spool: ofQueue(queue),
  Entity: ofEntity("a"),
  Decision: ofDecision(tag),
  EventStore: ofView("a")
}

const wrong = {
  Projection: without(ofProjection(""), ["names", "processes", "statuses"]),
  Spool: ofQueue("a".repeat(256)),
  Entity: ofEntity(""),
  Decision: ofDecision(""),
  EventStore: ofView("")
}

/** The operations that wait for a server that is gone, and those that look at nothing. */
const patient = ["progress", "rebuild", "run", "runAll", "subscribe"]

/** What the errors with which a call fails are called, if it fails. */
const namesOf = (call: Call) =>
  Effect.map(Effect.exit(call), (exit) => {
    const error = Exit.isFailure(exit) ? Option.getOrUndefined(Exit.findErrorOption(exit)) : undefined
    const isNamed = error instanceof StoreError.StoreError || error instanceof InvalidInput.InvalidInput
    return isNamed ? [`${error.store}.${error.operation}`] : []
  })

/** Makes the calls one after the other. An error has no name but that of the call; returns which functions have failed. */
const failing = Effect.fnUntraced(function* (all: Readonly<Record<string, Calls>>) {
  const failed = new Set<string>()
  const others: Array<readonly [called: string, name: string]> = []
  for (const [called, calls] of functionsOf(all)) {
    for (const call of calls) {
      for (const name of yield* namesOf(call)) {
        if (name !== called) others.push([called, name])
        failed.add(called)
      }
    }
  }
  assert.deepStrictEqual(others, [])
  return failed
})

/** The functions that have something to call, by their names. */
const functionsOf = (all: Readonly<Record<string, Calls>>) =>
  Object.entries(all).flatMap(([module, functions]) =>
    Object.entries(functions).flatMap(([name, calls]) =>
      typeof calls === "string" ? [] : [[`${module}.${name}`, calls] as const]
    )
  )

const called = (all: Readonly<Record<string, Calls>>) =>
  functionsOf(all)
    .map(([name]) => name)
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
  const { context, schema, sql } = yield* serveSpool(settings)
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
    yield* Effect.flatMap(Counts, ({ append }) => append("a", one))
  })
  yield* Effect.provide(seed, Layer.succeedContext(context))
  return { context, schema, sql }
})

describe("an error has the name of what was called", () => {
  it("and every public function is called here", () => {
    assert.deepStrictEqual(Object.keys(right.Projection).toSorted(), exportsOf(Projection))
    assert.deepStrictEqual(Object.keys(ofSpool).toSorted(), exportsOf(Spool))
    assert.deepStrictEqual(Object.keys(right.Entity).toSorted(), [...exportsOf(Entity), "execute", "load"].toSorted())
    assert.deepStrictEqual(
      Object.keys(right.Decision).toSorted(),
      [...exportsOf(Decision), "execute", "load"].toSorted()
    )
  })

  it.live("where a table is missing", () =>
    Effect.gen(function* () {
      const failed = new Set<string>()
      for (const table of ["events", "offsets_store", "states_store", "strata_messages"]) {
        const { context, schema } = yield* seeded()
        yield* execute([`DROP TABLE ${schema}.${table} CASCADE`])
        const { problems } = yield* Effect.provideContext(Health.check(), context)
        assert.deepStrictEqual(
          problems.filter(({ message }) => message.includes("Store.")),
          []
        )
        const { Spool, ...others } = right
        const calls = failing(table === "strata_messages" ? { Spool } : others)
        for (const name of yield* Effect.provideContext(calls, context)) failed.add(name)
      }
      assert.deepStrictEqual([...failed].toSorted(), called({ ...right, Entity: without(right.Entity, ["make"]) }))
    }).pipe(Effect.provide(quiet))
  )

  it.live("where the server has stopped", () =>
    Effect.gen(function* () {
      const server = yield* PostgresServer.make()
      const { context } = yield* seeded({ url: server.url, options: { schema: "public" } })
      yield* server.stop("fast")
      const impatient = {
        Projection: without(right.Projection, patient),
        Spool: without(right.Spool, patient),
        Entity: without(right.Entity, ["make"]),
        Decision: right.Decision,
        EventStore: without(right.EventStore, patient)
      }
      const failed = yield* Effect.provideContext(failing(impatient), context)
      assert.deepStrictEqual([...failed].toSorted(), called(impatient))
    }).pipe(Effect.provide(quiet))
  )

  it.live("where an argument is wrong", () =>
    Effect.gen(function* () {
      const { context } = yield* serveSpool()
      const failed = yield* Effect.provideContext(failing(wrong), context)
      assert.deepStrictEqual([...failed].toSorted(), called(wrong))
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

/** Executes a command that fails with what it has called. */
const failingCommands: ReadonlyArray<Call> = [
  Effect.flatMap(entityOf("counts"), ({ execute }) =>
    execute("b", () =>
      SpoolStore.SpoolStore.use((spool) => Effect.andThen(spool.countByState("a"), Effect.succeed(one)))
    )
  ),
  Decision.make({
    events: Counts,
    query: () => [{ tags: [tag] }],
    initial: () => 0,
    evolve: (count: number) => count,
    decide: () => SpoolStore.SpoolStore.use((spool) => Effect.andThen(spool.countByState("a"), Effect.succeed([one])))
  }).execute(undefined)
]

it.live("what a command itself has called keeps its own name, too", () =>
  Effect.gen(function* () {
    const { context, schema } = yield* seeded()
    yield* execute([`DROP TABLE ${schema}.strata_messages CASCADE`])
    for (const command of failingCommands.flatMap((command) => [command, inTransaction(command)])) {
      assert.deepStrictEqual(yield* Effect.provideContext(namesOf(command), context), ["SpoolStore.countByState"])
    }
  }).pipe(Effect.provide(quiet))
)

it.live("a command whose savepoint fails is named, and not the savepoint", () =>
  Effect.gen(function* () {
    const { context, sql } = yield* seeded()
    const lose = Effect.ignore(sql`SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid())`)
    const commands: ReadonlyArray<readonly [name: string, command: Call]> = [
      ["Entity.execute", Effect.flatMap(entityOf("counts"), ({ execute }) => execute("b", () => one))],
      ["Decision.execute", decisionOf(tag, () => [one]).execute(undefined)]
    ]
    for (const [name, command] of commands) {
      const lost = inTransaction(Effect.andThen(lose, command))
      assert.deepStrictEqual(yield* Effect.provideContext(namesOf(lost), context), [name])
    }
  }).pipe(Effect.provide(quiet))
)

it.live("work that has ended says what it was, and its error is that of the work", () =>
  Effect.gen(function* () {
    const { context, schema } = yield* seeded()
    yield* execute([`DROP TABLE ${schema}.offsets_store`, `DROP TABLE ${schema}.strata_messages CASCADE`])
    const mails = Spool.make({ name: queue, payload: Schema.String })
    const works: ReadonlyArray<
      readonly [name: string, work: Layer.Layer<never, never, Stores | Supervisor.Supervisor>]
    > = [
      ["Projection.run", Projection.layer(projectionOf(projection))],
      ["Spool.run", Spool.layer(mails, () => Effect.void)]
    ]
    for (const [name, work] of works) {
      const ended = yield* Effect.flip(Supervisor.launch(Layer.provide(work, Layer.succeedContext(context))))
      assert.instanceOf(ended, Supervisor.WorkEnded)
      assert.instanceOf(ended.cause, StoreError.StoreError)
      assert.strictEqual(`${ended.cause.store}.${ended.cause.operation}`, name)
    }
  }).pipe(Effect.provide(quiet))
)

it.live("the fields are those that the caller has given", () =>
  Effect.gen(function* () {
    const { context } = yield* serveSpool()
    const error = yield* Effect.provideContext(Effect.flip(decisionOf("", () => []).execute(undefined)), context)
    assert.instanceOf(error, InvalidInput.InvalidInput)
    assert.deepStrictEqual(
      error.issues.map(({ field }) => field),
      ["query.0.tags.0"]
    )
  })
)
