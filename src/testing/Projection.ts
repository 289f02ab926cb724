/** What projections do on every backend, as a suite for Vitest. */
import { assert, it } from "@effect/vitest"
import {
  Deferred,
  Duration,
  Effect,
  Fiber,
  Layer,
  Logger,
  Option,
  Queue,
  Ref,
  Result,
  Schedule,
  Schema,
  Stream
} from "effect"
import { typed } from "../DurableStateStore.ts"
import { EventStore, type StoredEvent } from "../EventStore.ts"
import { InvalidInput } from "../Input.ts"
import { OffsetStore } from "../OffsetStore.ts"
import * as Projection from "../Projection.ts"
import * as StateCodec from "../StateCodec.ts"

/** A name that no other test uses: all tests of a suite share one log. */
const fresh = (what: string) => `${what} ${crypto.randomUUID()}`

/** So that others take over at once, and failures are final at once. */
const quick = { heartbeat: "50 millis", retry: Schedule.recurs(1) } as const

const long = "30 seconds"

const append = (...args: Parameters<EventStore["Service"]["append"]>) =>
  EventStore.use((events) => events.append(...args))

const latestVersion = EventStore.use((events) => events.latestVersion)

/** As if the effect ran in another process. */
const elsewhere = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  OffsetStore.use((offsets) => Effect.provideService(effect, OffsetStore, OffsetStore.of({ ...offsets })))

const Sum = Schema.Struct({ sum: Schema.Int, seen: Schema.Array(Schema.Int) })

/** A read model that shows what was handled twice, left out or out of order: per aggregate a sum, and what it is made of. */
const model = Effect.fnUntraced(function* (name: string) {
  const sums = yield* typed({
    codec: StateCodec.json(Sum, { manifest: "Sum" }),
    initial: () => ({ sum: 0, seen: [] })
  })
  const idOf = (aggregateId: string, slot: Projection.Slot) => `${slot} ${name.slice(-40)} ${aggregateId}`
  return {
    add: ({ aggregateId, data }: StoredEvent, slot: Projection.Slot) =>
      sums.modify(idOf(aggregateId, slot), ({ seen, sum }) => {
        const amount = Number(data)
        return { sum: sum + amount, seen: [...seen, amount] }
      }),
    clear: (slot: Projection.Slot, aggregateIds: ReadonlyArray<string>) =>
      Effect.forEach(aggregateIds, (aggregateId) => sums.modify(idOf(aggregateId, slot), () => ({ sum: 0, seen: [] }))),
    seen: (aggregateId: string, slot: Projection.Slot = "blue") =>
      Effect.map(sums.read(idOf(aggregateId, slot)), ({ value }) => value.seen)
  }
})

/** A log of its own, as far as one type of events makes one, and a projection of it. */
const scene = Effect.fnUntraced(function* (what = "projection") {
  const name = fresh(what)
  const type = fresh("type")
  const { add, clear, seen } = yield* model(name)
  return {
    name,
    type,
    add,
    clear,
    seen,
    options: { ...quick, name, eventTypes: [type] },
    append: (aggregateId: string, ...amounts: ReadonlyArray<number>) =>
      append(amounts.map((data) => ({ aggregateId, eventType: type, data }))),
    /** Everything that is in the log now has been handled. */
    settled: Effect.flatMap(latestVersion, (version) => Projection.awaitVersion(name, version, long))
  }
})

const start = <R>(projection: Projection.Projection<R>) =>
  Effect.forkScoped(Projection.run(projection), { startImmediately: true })

const range = (count: number) => Array.from({ length: count }, (_, index) => index)

/** The error with which a run ends. */
const ending = <A, E>(fiber: Fiber.Fiber<A, E>) => Effect.flip(Fiber.join(fiber))

/** Parts of a projection that break the model. */
const invalid: ReadonlyArray<readonly [what: string, part: object]> = [
  ["an empty name", { name: "" }],
  ["a name of 201 characters", { name: "x".repeat(201) }],
  ["no shards", { shards: 0 }],
  ["negative shards", { shards: -1 }],
  ["half a shard", { shards: 0.5 }],
  ["an empty batch", { batchSize: 0 }],
  ["a negative batch", { batchSize: -5 }],
  ["an empty event type", { eventTypes: [""] }],
  ["an empty aggregate id", { aggregateIds: [""] }],
  ["another policy", { onFailure: "ignore" }],
  ["no heartbeat", { heartbeat: 0 }],
  ["a heartbeat that is no duration", { heartbeat: "often" }]
]

/**
 * Registers the suite.
 *
 * `interleaving: false` is for a backend whose transactions run one after another: it leaves out what takes two at once.
 */
export const suite = <E>(
  name: string,
  layer: Layer.Layer<Projection.Services, E>,
  { interleaving = true }: { readonly interleaving?: boolean } = {}
): void => {
  // Failures are warned of, and many are meant here.
  const quiet = Layer.merge(layer, Logger.layer([]))
  it.layer(quiet, { timeout: "2 minutes", excludeTestServices: true })(`Projection (${name})`, (it) => {
    it.effect("handles what is there and what comes, in order, each event once", () =>
      Effect.gen(function* () {
        const { add, append, options, seen, settled } = yield* scene()
        const aggregates = range(20).map((index) => `a${index}`)
        yield* Effect.forEach(aggregates, (id) => append(id, 1, 2, 3))
        yield* start(Projection.make({ ...options, shards: 4, batchSize: 7, handler: add }))
        yield* settled
        yield* Effect.forEach(aggregates, (id) => append(id, 4, 5))
        yield* settled
        for (const id of aggregates) assert.deepStrictEqual(yield* seen(id), [1, 2, 3, 4, 5])
      })
    )

    it.effect("goes on where it was when it is interrupted and run again", () =>
      Effect.gen(function* () {
        const { add, append, options, seen, settled } = yield* scene()
        for (const round of range(5)) {
          yield* append("a", round)
          const fiber = yield* start(Projection.make({ ...options, shards: 2, handler: add }))
          yield* settled
          yield* Fiber.interrupt(fiber)
        }
        assert.deepStrictEqual(yield* seen("a"), range(5))
      })
    )

    it.effect("gives a batch handler what there is, up to the size of a batch", () =>
      Effect.gen(function* () {
        const { add, append, options, seen, settled } = yield* scene()
        const sizes = yield* Ref.make<ReadonlyArray<number>>([])
        yield* append("a", ...range(25))
        yield* start(
          Projection.make({
            ...options,
            batchSize: 10,
            batchHandler: (events, slot) =>
              Effect.andThen(
                Ref.update(sizes, (all) => [...all, events.length]),
                Effect.forEach(events, (event) => add(event, slot))
              )
          })
        )
        yield* settled
        assert.deepStrictEqual(yield* seen("a"), range(25))
        assert.deepStrictEqual(yield* Ref.get(sizes), [10, 10, 5])
      })
    )

    it.effect("passes other types and aggregates, and its offsets follow the log", () =>
      Effect.gen(function* () {
        const { add, append, name, options, seen, settled, type } = yield* scene()
        yield* start(Projection.make({ ...options, aggregateIds: ["a", "b"], shards: 3, handler: add }))
        yield* append("a", 1)
        yield* append("c", 2)
        yield* EventStore.use((events) => events.append({ aggregateId: "a", eventType: `not ${type}`, data: 3 }))
        yield* append("b", 4)
        yield* EventStore.use((events) => events.append({ aggregateId: "a", eventType: `not ${type}`, data: 5 }))
        yield* settled
        assert.deepStrictEqual(yield* seen("a"), [1])
        assert.deepStrictEqual(yield* seen("b"), [4])
        assert.deepStrictEqual(yield* seen("c"), [])
        const head = yield* latestVersion
        for (const { lag, offset } of yield* Projection.status(name)) {
          assert.deepStrictEqual([offset, lag], [head, 0n])
        }
      })
    )

    it.effect("commits what the handler writes with the offset, or neither", () =>
      Effect.gen(function* () {
        const { add, append, name, options, seen } = yield* scene()
        const before = yield* append("a", 1)
        const [bad] = yield* append("a", 2)
        yield* append("a", 3)
        const projection = (isMended: boolean) =>
          Projection.make({
            ...options,
            handler: (event, slot) =>
              Effect.andThen(
                add(event, slot),
                isMended || event.data !== 2 ? Effect.void : Effect.fail(new Error("no twos"))
              )
          })
        const error = yield* ending(yield* start(projection(false)))
        assert.strictEqual(error._tag, "ProjectionFailed")
        if (error._tag !== "ProjectionFailed") return
        assert.deepStrictEqual(
          [error.projectionName, error.shardNumber, error.version, error.eventId, error.aggregateId, error.attempts],
          [name, 0, bad?.version, bad?.id, "a", 2]
        )
        assert.strictEqual(error.cause instanceof Error ? error.cause.message : "", "no twos")
        assert.include(error.message, `stopped before event ${bad?.version}`)
        assert.deepStrictEqual(yield* seen("a"), [1])
        const [status] = yield* Projection.status(name)
        assert.strictEqual(status?.offset, before[0]?.version)
        assert.strictEqual(status?.state, "failed")
        assert.include(Option.getOrThrow(status?.failure ?? Option.none()).error, "no twos")

        yield* start(projection(true))
        yield* Effect.flatMap(latestVersion, (version) => Projection.awaitVersion(name, version, long))
        assert.deepStrictEqual(yield* seen("a"), [1, 2, 3])
        assert.notStrictEqual((yield* Projection.status(name))[0]?.state, "failed")
      })
    )

    it.effect("stops before one event in a hundred, and goes on when that is mended", () =>
      Effect.gen(function* () {
        const { add, append, options, seen, settled } = yield* scene()
        const stored = yield* append("a", ...range(300))
        const mended = new Set<bigint>()
        const run = Projection.run(
          Projection.make({
            ...options,
            retry: Schedule.recurs(0),
            handler: (event, slot) =>
              Effect.andThen(
                Number(event.data) % 100 === 50 && !mended.has(event.version) ? Effect.fail("50") : Effect.void,
                add(event, slot)
              )
          })
        )
        for (const index of [50, 150, 250]) {
          const error = yield* Effect.flip(run)
          if (error._tag !== "ProjectionFailed") return assert.fail(error.message)
          assert.strictEqual(error.version, stored[index]?.version)
          assert.deepStrictEqual(yield* seen("a"), range(index))
          mended.add(error.version)
        }
        yield* Effect.raceFirst(run, settled)
        assert.deepStrictEqual(yield* seen("a"), range(300))
      })
    )

    it.effect("tries again by the schedule before it gives up", () =>
      Effect.gen(function* () {
        const { add, append, options, seen, settled } = yield* scene()
        let failures = 0
        yield* append("a", 1)
        yield* start(
          Projection.make({
            ...options,
            retry: Schedule.recurs(3),
            handler: (event, slot) =>
              Effect.andThen(
                add(event, slot),
                Effect.suspend(() => (failures++ < 3 ? Effect.fail("not yet") : Effect.void))
              )
          })
        )
        yield* settled
        assert.strictEqual(failures, 4)
        assert.deepStrictEqual(yield* seen("a"), [1])
      })
    )

    it.effect.each([
      ["a defect", () => Effect.die(new Error("broken"))],
      [
        "what is thrown",
        () => {
          throw new Error("broken")
        }
      ],
      ["an interruption of its own", () => Effect.interrupt]
    ] as const)("takes %s for a failure of the event", ([, fail]) =>
      Effect.gen(function* () {
        const { add, append, name, options, seen, settled } = yield* scene()
        yield* append("a", 1, 2, 3)
        yield* start(
          Projection.make({
            ...options,
            onFailure: "skip",
            handler: (event, slot) => (event.data === 2 ? fail() : add(event, slot))
          })
        )
        yield* settled
        assert.deepStrictEqual(yield* seen("a"), [1, 3])
        const skipped = yield* Stream.runCollect(Projection.skipped(name))
        assert.strictEqual(skipped.length, 1)
      })
    )

    it.effect.each([["handler"], ["batchHandler"]] as const)(
      "skips one event in a hundred, and says which: %s",
      ([kind]) =>
        Effect.gen(function* () {
          const { add, append, name, options, seen, settled } = yield* scene()
          const stored = yield* append("a", ...range(300))
          const handler = (event: StoredEvent, slot: Projection.Slot) =>
            Effect.andThen(add(event, slot), Number(event.data) % 100 === 50 ? Effect.fail("50") : Effect.void)
          yield* start(
            Projection.make({
              ...options,
              retry: Schedule.recurs(0),
              onFailure: "skip",
              ...(kind === "handler"
                ? { handler }
                : { batchHandler: (events, slot) => Effect.forEach(events, (event) => handler(event, slot)) })
            })
          )
          yield* settled
          assert.deepStrictEqual(
            yield* seen("a"),
            range(300).filter((amount) => amount % 100 !== 50)
          )
          const skipped = yield* Stream.runCollect(Projection.skipped(name))
          assert.deepStrictEqual(
            skipped.map(({ eventId, version }) => [eventId, version]),
            [50, 150, 250].map((index) => [stored[index]?.id, stored[index]?.version])
          )
          for (const { error } of skipped) assert.include(error, "50")
          assert.deepStrictEqual((yield* Projection.status(name))[0]?.skipped, 3)
        })
    )

    it.effect("parks an aggregate whose event fails, and retries it in order", () =>
      Effect.gen(function* () {
        const { add, append, name, options, seen, settled } = yield* scene()
        let isMended = false
        const projection = Projection.make({
          ...options,
          shards: 2,
          onFailure: "park",
          handler: (event, slot) =>
            Effect.andThen(
              add(event, slot),
              Effect.suspend(() => (!isMended && event.data === 13 ? Effect.fail("unlucky") : Effect.void))
            )
        })
        yield* append("a", 1)
        const [bad] = yield* append("b", 13)
        yield* append("b", 2)
        yield* append("a", 3)
        yield* start(projection)
        yield* settled
        yield* append("b", 4)
        yield* append("a", 5)
        yield* settled
        assert.deepStrictEqual(yield* seen("a"), [1, 3, 5])
        assert.deepStrictEqual(yield* seen("b"), [])
        const parked = yield* Stream.runCollect(Projection.parked(name))
        assert.deepStrictEqual(
          parked.map(({ aggregateId, eventId, version }) => [aggregateId, eventId, version]),
          [["b", bad?.id, bad?.version]]
        )

        const [again] = yield* Projection.retryParked(projection)
        assert.deepStrictEqual([again?.aggregateId, again?.handled], ["b", 0])
        assert.include(Option.getOrThrow(again?.error ?? Option.none()), "unlucky")
        assert.deepStrictEqual(yield* seen("b"), [])

        isMended = true
        assert.deepStrictEqual(yield* Projection.retryParked(projection), [
          new Projection.Retried({ aggregateId: "b", handled: 3, error: Option.none() })
        ])
        assert.deepStrictEqual(yield* seen("b"), [13, 2, 4])
        assert.deepStrictEqual(yield* Stream.runCollect(Projection.parked(name)), [])
        yield* append("b", 6)
        yield* settled
        assert.deepStrictEqual(yield* seen("b"), [13, 2, 4, 6])
      })
    )

    it.effect("parks one event in a hundred, of many aggregates", () =>
      Effect.gen(function* () {
        const { add, name, options, seen, settled, type } = yield* scene()
        for (const round of range(4)) {
          yield* append(
            range(50).map((index) => ({ aggregateId: `a${index}`, eventType: type, data: round * 50 + index }))
          )
        }
        yield* start(
          Projection.make({
            ...options,
            retry: Schedule.recurs(0),
            onFailure: "park",
            batchHandler: (events, slot) =>
              Effect.forEach(events, (event) =>
                Effect.andThen(Number(event.data) % 100 === 7 ? Effect.fail("7") : Effect.void, add(event, slot))
              )
          })
        )
        yield* settled
        const parked = yield* Stream.runCollect(Projection.parked(name))
        assert.deepStrictEqual(
          parked.map(({ aggregateId }) => aggregateId),
          ["a7"]
        )
        for (const index of range(50)) {
          assert.deepStrictEqual(
            yield* seen(`a${index}`),
            index === 7 ? [] : range(4).map((round) => round * 50 + index)
          )
        }
      })
    )

    it.effect("divides the shards among processes, which take over from one that has gone", () =>
      Effect.gen(function* () {
        const { add, append, options, seen, settled } = yield* scene()
        const handledBy = yield* Ref.make<ReadonlyArray<readonly [runner: string, aggregateId: string]>>([])
        const aggregates = range(40).map((index) => `a${index}`)
        const runner = (id: string) =>
          elsewhere(
            start(
              Projection.make({
                ...options,
                shards: 4,
                handler: (event, slot) =>
                  Effect.andThen(
                    add(event, slot),
                    Ref.update(handledBy, (all) => [...all, [id, event.aggregateId] as const])
                  )
              })
            )
          )
        const first = yield* runner("first")
        yield* Effect.forEach(aggregates, (id) => append(id, 1))
        yield* settled
        yield* runner("second")
        /** Rounds of events until one was shared as expected. */
        let amount = 1
        const until = (expected: ReadonlyArray<string>) =>
          Effect.gen(function* () {
            yield* Ref.set(handledBy, [])
            amount++
            yield* Effect.forEach(aggregates, (id) => append(id, amount))
            yield* settled
            return [...new Set((yield* Ref.get(handledBy)).map(([id]) => id))].sort()
          }).pipe(Effect.repeat({ until: (ids) => ids.join() === expected.join() }))
        yield* until(["first", "second"])
        yield* Fiber.interrupt(first)
        yield* until(["second"])
        for (const id of aggregates) {
          assert.deepStrictEqual(
            yield* seen(id),
            range(amount).map((index) => index + 1)
          )
        }
      })
    )

    it.effect("notices that its offset was moved, and goes by that", () =>
      Effect.gen(function* () {
        const { add, append, name, options, seen, settled } = yield* scene()
        const offsets = yield* OffsetStore
        yield* start(Projection.make({ ...options, handler: add }))
        yield* append("a", 1)
        yield* settled
        const [first] = yield* EventStore.use((events) => Stream.runCollect(events.read({ ...options, limit: 1 })))
        yield* offsets.resetOffset(name, (first?.version ?? 1n) - 1n)
        yield* append("a", 2)
        yield* Effect.repeat(seen("a"), { until: (all) => all.length === 3 })
        yield* settled
        assert.deepStrictEqual(yield* seen("a"), [1, 1, 2])
      })
    )

    it.effect("handles nothing after a pause, until it is resumed", () =>
      Effect.gen(function* () {
        const { add, append, name, options, seen, settled } = yield* scene()
        yield* start(Projection.make({ ...options, shards: 2, handler: add }))
        yield* append("a", 1)
        yield* settled
        yield* elsewhere(Projection.pause(name))
        yield* append("a", 2)
        const late = yield* Effect.flip(Effect.flatMap(latestVersion, (at) => Projection.awaitVersion(name, at, 200)))
        assert.strictEqual(late._tag, "AwaitTimeout")
        assert.deepStrictEqual(yield* seen("a"), [1])
        for (const { state } of yield* Projection.status(name)) assert.strictEqual(state, "paused")
        yield* elsewhere(Projection.resume(name))
        yield* settled
        assert.deepStrictEqual(yield* seen("a"), [1, 2])
      })
    )

    it.effect("pauses in the middle of it all, and loses nothing", () =>
      Effect.gen(function* () {
        const { add, append, name, options, seen, settled } = yield* scene()
        yield* append("a", ...range(100))
        yield* start(Projection.make({ ...options, batchSize: 3, handler: add }))
        for (const _ of range(5)) {
          yield* Effect.retry(Projection.pause(name), { while: ({ _tag }) => _tag === "UnknownProjection" })
          const before = yield* seen("a")
          yield* Effect.sleep(20)
          assert.deepStrictEqual(yield* seen("a"), before)
          yield* Projection.resume(name)
        }
        yield* settled
        assert.deepStrictEqual(yield* seen("a"), range(100))
      })
    )

    it.effect.runIf(interleaving)("waits for a batch that is under way before it is paused", () =>
      Effect.gen(function* () {
        const { add, append, name, options, seen } = yield* scene()
        const entered = yield* Deferred.make<void>()
        const leave = yield* Deferred.make<void>()
        yield* append("a", 1)
        yield* start(
          Projection.make({
            ...options,
            heartbeat: "1 minute",
            handler: (event, slot) =>
              Effect.gen(function* () {
                yield* add(event, slot)
                yield* Deferred.succeed(entered, undefined)
                yield* Deferred.await(leave)
              })
          })
        )
        yield* Deferred.await(entered)
        const pausing = yield* Effect.forkScoped(Effect.andThen(Projection.pause(name), seen("a")))
        // Long enough for a pause that waits for nobody.
        yield* Effect.timeoutOption(Fiber.join(pausing), 200)
        yield* Deferred.succeed(leave, undefined)
        assert.deepStrictEqual(yield* Fiber.join(pausing), [1])
      })
    )

    it.effect("handles everything again after a reset, or what comes after a version", () =>
      Effect.gen(function* () {
        const { add, append, name, options, seen, settled } = yield* scene()
        const [first] = yield* append("a", 1)
        yield* append("a", 2)
        yield* start(Projection.make({ ...options, shards: 3, handler: add }))
        yield* settled
        yield* elsewhere(Projection.reset(name))
        yield* settled
        yield* elsewhere(Projection.reset(name, first?.version))
        yield* settled
        assert.deepStrictEqual(yield* seen("a"), [1, 2, 1, 2, 2])
      })
    )

    it.effect("refuses a reset beyond the head", () =>
      Effect.gen(function* () {
        const { add, append, name, options, settled } = yield* scene()
        yield* append("a", 1)
        yield* start(Projection.make({ ...options, handler: add }))
        yield* settled
        const head = yield* latestVersion
        for (const version of [head + 1n, -1n]) {
          const error = yield* Effect.flip(Projection.reset(name, version))
          assert.instanceOf(error, InvalidInput)
          assert.deepStrictEqual(
            error.issues.map(({ field }) => field),
            ["version"]
          )
        }
      })
    )

    it.effect("knows no projection that has never run", () =>
      Effect.gen(function* () {
        const name = fresh("unknown")
        const tags = yield* Effect.forEach(
          [
            Projection.pause(name),
            Projection.resume(name),
            Projection.reset(name),
            Effect.asVoid(Projection.status(name)),
            Projection.remove(name),
            Stream.runDrain(Projection.parked(name)),
            Stream.runDrain(Projection.skipped(name))
          ],
          (operation) => Effect.map(Effect.flip(operation), ({ _tag }) => _tag)
        )
        assert.deepStrictEqual([...new Set(tags)], ["UnknownProjection"])
      })
    )

    it.effect("keeps to the number of shards it began with, until it is removed", () =>
      Effect.gen(function* () {
        const { add, append, name, options, seen, settled } = yield* scene()
        yield* append("a", 1)
        const first = yield* start(Projection.make({ ...options, shards: 3, handler: add }))
        yield* settled
        yield* Fiber.interrupt(first)
        const error = yield* Effect.flip(Projection.run(Projection.make({ ...options, shards: 2, handler: add })))
        assert.strictEqual(error._tag, "ShardCountMismatch")
        assert.include(error.message, "has 3 shards, not 2")
        yield* Projection.remove(name)
        yield* start(Projection.make({ ...options, shards: 2, handler: add }))
        yield* settled
        assert.strictEqual((yield* Projection.status(name)).length, 2)
        assert.deepStrictEqual(yield* seen("a"), [1, 1])
      })
    )

    it.effect("ends where it is removed while it runs", () =>
      Effect.gen(function* () {
        const { add, append, name, options, settled } = yield* scene()
        const fiber = yield* start(Projection.make({ ...options, handler: add }))
        yield* append("a", 1)
        yield* settled
        yield* Projection.remove(name)
        assert.strictEqual((yield* ending(fiber))._tag, "UnknownProjection")
      })
    )

    it.effect("runs a projection once in a process", () =>
      Effect.gen(function* () {
        const { add, options, settled } = yield* scene()
        const projection = Projection.make({ ...options, handler: add })
        const fiber = yield* start(projection)
        yield* settled
        assert.strictEqual((yield* Effect.flip(Projection.run(projection)))._tag, "DuplicateProjection")
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(
          (yield* Effect.flip(Projection.runAll([projection, projection])))._tag,
          "DuplicateProjection"
        )
      })
    )

    it.effect("runs several projections side by side", () =>
      Effect.gen(function* () {
        const [one, two] = [yield* scene(), yield* scene()]
        yield* Effect.forkScoped(
          Projection.runAll([
            Projection.make({ ...one.options, handler: one.add }),
            Projection.make({ ...two.options, shards: 2, handler: two.add })
          ])
        )
        yield* one.append("a", 1)
        yield* two.append("a", 2)
        yield* one.settled
        yield* two.settled
        assert.deepStrictEqual([yield* one.seen("a"), yield* two.seen("a")], [[1], [2]])
      })
    )

    it.effect.each(invalid)("refuses %s", ([, part]) =>
      Effect.gen(function* () {
        const { options } = yield* scene()
        const projection = Projection.make(Object.assign({ ...options, handler: () => Effect.void }, part))
        const error = yield* Effect.flip(Projection.run(projection))
        assert.instanceOf(error, InvalidInput)
        assert.include(error.message, `Projection.run: invalid input: ${Object.keys(part)[0]}`)
      })
    )

    it.effect("says when a version was not handled in time", () =>
      Effect.gen(function* () {
        const { add, append, name, options, settled } = yield* scene()
        const never = yield* Effect.flip(Projection.awaitVersion(name, 1n, 1))
        assert.strictEqual(never._tag === "AwaitTimeout" ? never.message.includes("has not run yet") : never._tag, true)
        yield* start(Projection.make({ ...options, handler: add }))
        yield* append("a", 1)
        yield* settled
        const head = yield* latestVersion
        const error = yield* Effect.flip(Projection.awaitVersion(name, head + 1000n, 1))
        assert.strictEqual(error._tag, "AwaitTimeout")
        if (error._tag === "AwaitTimeout") assert.isTrue(Option.exists(error.reached, (at) => at >= head))
        const invalid = yield* Effect.flip(Projection.awaitVersion(name, -1n, 1))
        assert.strictEqual(invalid._tag, "InvalidInput")
      })
    )

    it.effect("says how each shard is", () =>
      Effect.gen(function* () {
        const { add, append, name, options, settled } = yield* scene()
        yield* append("a", 1)
        const fiber = yield* start(Projection.make({ ...options, shards: 2, heartbeat: "1 minute", handler: add }))
        yield* settled
        const running = yield* Projection.status(name)
        assert.deepStrictEqual(
          running.map(({ failure, parked, shardNumber, skipped, state }) => [
            shardNumber,
            state,
            parked,
            skipped,
            Option.isNone(failure)
          ]),
          [
            [0, "running", 0, 0, true],
            [1, "running", 0, 0, true]
          ]
        )
        yield* Fiber.interrupt(fiber)
        yield* append("a", 2)
        const idle = yield* Projection.status(name)
        assert.isTrue(idle.every(({ behind, lag, state }) => state === "idle" && lag > 0n && behind !== undefined))
      })
    )

    it.effect.runIf(interleaving)("does not let a slow shard stall the others", () =>
      Effect.gen(function* () {
        const { add, options, seen, settled, type } = yield* scene()
        const stuck = yield* Deferred.make<void>()
        const handled = yield* Queue.unbounded<string>()
        const slow =
          range(100)
            .map((index) => `slow${index}`)
            .find((id) => Projection.shardOf(id, 2) === 0) ?? ""
        const fast =
          range(100)
            .map((index) => `fast${index}`)
            .find((id) => Projection.shardOf(id, 2) === 1) ?? ""
        // More than a buffer has room for.
        const many = range(3000).map((data) => ({ aggregateId: slow, eventType: type, data }))
        yield* append([...many, { aggregateId: fast, eventType: type, data: 1 }])
        const isSlow = ({ aggregateId }: StoredEvent) => aggregateId === slow
        yield* start(
          Projection.make({
            ...options,
            shards: 2,
            batchHandler: (events, slot) =>
              Effect.gen(function* () {
                const [first] = events
                if (first !== undefined && isSlow(first)) {
                  yield* Deferred.await(stuck)
                  const last = events.at(-1)
                  // In short: only that none is left out or comes twice.
                  for (const event of [first, last]) if (event !== undefined) yield* add(event, slot)
                } else {
                  for (const event of events) yield* add(event, slot)
                }
                yield* Queue.offer(handled, first?.aggregateId ?? "")
              })
          })
        )
        assert.strictEqual(yield* Queue.take(handled), fast)
        yield* append({ aggregateId: fast, eventType: type, data: 2 })
        assert.strictEqual(yield* Queue.take(handled), fast)
        assert.deepStrictEqual(yield* seen(fast), [1, 2])
        yield* Deferred.succeed(stuck, undefined)
        yield* settled
        const ends = yield* seen(slow)
        assert.strictEqual(ends[0], 0)
        assert.strictEqual(ends.at(-1), 2999)
        for (const index of range(ends.length / 2 - 1)) {
          assert.strictEqual(ends[2 * index + 2], (ends[2 * index + 1] ?? 0) + 1)
        }
      })
    )

    it.effect("is rebuilt in its place", () =>
      Effect.gen(function* () {
        const { add, append, clear, name, options, seen } = yield* scene()
        const projection = Projection.make({ ...options, shards: 2, batchSize: 10, handler: add })
        yield* start(projection)
        yield* append("a", ...range(100))
        yield* append("b", 1, 2)
        const head = yield* latestVersion
        yield* Projection.awaitVersion(name, head, long)
        const progress = yield* Stream.runCollect(
          Projection.rebuild(projection, { mode: "in place", clear: (slot) => clear(slot, ["a", "b"]) })
        )
        assert.strictEqual(progress.at(-1)?.done, head)
        assert.deepStrictEqual(progress.at(-1)?.remaining, Option.some(Duration.zero))
        assert.deepStrictEqual(yield* seen("a"), range(100))
        assert.deepStrictEqual(yield* seen("b"), [1, 2])
        assert.strictEqual(yield* Projection.slot(name), "blue")
      })
    )

    it.effect("is rebuilt beside the one that is served, under live writes: readers find it complete at any time", () =>
      Effect.gen(function* () {
        const { add, append, clear, name, options, seen, settled } = yield* scene()
        let isBroken = false
        const projection = Projection.make({
          ...options,
          shards: 2,
          batchSize: 20,
          handler: (event, slot) =>
            isBroken && slot === "green" && event.data === 50 ? Effect.die("interrupted") : add(event, slot)
        })
        yield* start(projection)
        yield* append("a", ...range(100))
        yield* settled
        const rebuild = Projection.rebuild(projection, { mode: "beside", clear: (slot) => clear(slot, ["a"]) })

        // It fails half-way, and goes on from there when it is run again.
        isBroken = true
        assert.strictEqual((yield* Effect.flip(Stream.runDrain(rebuild)))._tag, "ProjectionFailed")
        assert.deepStrictEqual(yield* seen("a", "green"), range(50))
        assert.strictEqual(yield* Projection.slot(name), "blue")
        isBroken = false

        let written = 100
        const writer = yield* Effect.forkScoped(
          Effect.forever(Effect.suspend(() => Effect.andThen(append("a", written++), Effect.sleep(2))))
        )
        const wrong = yield* Ref.make<ReadonlyArray<unknown>>([])
        const reader = yield* Effect.forkScoped(
          Effect.gen(function* () {
            let longest = 0
            while (true) {
              const all = yield* seen("a", yield* Projection.slot(name))
              const isWhole = all.length >= longest && all.every((amount, index) => amount === index)
              if (!isWhole) yield* Ref.update(wrong, (found) => [...found, all])
              longest = Math.max(longest, all.length)
              yield* Effect.sleep(1)
            }
          })
        )
        yield* Stream.runDrain(rebuild)
        assert.strictEqual(yield* Projection.slot(name), "green")
        yield* Fiber.interrupt(writer)
        yield* settled
        assert.isUndefined(reader.pollUnsafe())
        yield* Fiber.interrupt(reader)
        assert.deepStrictEqual(yield* Ref.get(wrong), [])
        const all = yield* seen("a", "green")
        assert.deepStrictEqual(all, range(all.length))
        assert.isAtLeast(all.length, written - 1)
        assert.strictEqual(
          (yield* Effect.flip(Projection.status(Projection.rebuildOf(name))))._tag,
          "UnknownProjection"
        )

        // And back to the blue one, which is out of date by now.
        yield* Stream.runDrain(rebuild)
        assert.strictEqual(yield* Projection.slot(name), "blue")
        assert.deepStrictEqual(yield* seen("a"), range(all.length))
      })
    )

    it.effect("is not switched to a copy that is behind the one that is served", () =>
      Effect.gen(function* () {
        const { add, append, name, options, seen, settled } = yield* scene()
        const projection = Projection.make({ ...options, handler: add })
        const shadow = Projection.rebuildOf(name)
        yield* start(projection)
        yield* append("a", 1)
        yield* settled
        const held = yield* Deferred.make<void>()
        const rebuilding = yield* Effect.forkScoped(
          Stream.runForEach(
            Projection.rebuild(projection, { mode: "beside", clear: () => Effect.void }),
            Effect.fnUntraced(function* ({ done, total }) {
              if (done < total) return
              // It has come to where the head was: what happens from now on, it does not know.
              yield* Projection.pause(shadow)
              yield* append("a", 2)
              yield* settled
              yield* Deferred.succeed(held, undefined)
            })
          )
        )
        yield* Deferred.await(held)
        yield* Effect.timeoutOption(Fiber.join(rebuilding), 500)
        assert.strictEqual(yield* Projection.slot(name), "blue")
        yield* Projection.resume(shadow)
        yield* Fiber.join(rebuilding)
        assert.strictEqual(yield* Projection.slot(name), "green")
        assert.deepStrictEqual(yield* seen("a", "green"), [1, 2])
      })
    )

    it.effect("folds the events of a query", () =>
      Effect.gen(function* () {
        const { append, type } = yield* scene()
        yield* append("a", 1, 2)
        yield* append("b", 3)
        const sum = Projection.fold({ eventTypes: [type] }, 0, (total, { data }) => total + Number(data))
        assert.strictEqual(yield* sum, 6)
      })
    )

    it.effect("loads an entity from its last snapshot, and appends what it decides to the state that it saw", () =>
      Effect.gen(function* () {
        const { type } = yield* scene()
        const id = fresh("entity")
        const applied = yield* Ref.make(0)
        const open = (manifest: string) =>
          Projection.entity({
            name: "counter",
            codec: StateCodec.json(Sum, { manifest }),
            initial: () => ({ sum: 0, seen: [] }),
            apply: ({ seen, sum }, { data }) => {
              Effect.runSync(Ref.update(applied, (count) => count + 1))
              return { sum: sum + Number(data), seen: [...seen, Number(data)] }
            },
            snapshotEvery: 10
          })
        const counter = yield* open("Counter")
        const add = (amount: number) => counter.append(id, () => [{ eventType: type, data: amount }])
        assert.deepStrictEqual(yield* counter.load(id), { state: { sum: 0, seen: [] }, version: 0n })
        for (const amount of range(25)) yield* add(amount)
        yield* Ref.set(applied, 0)
        const loaded = yield* counter.load(id)
        assert.deepStrictEqual(loaded.state.seen, range(25))
        assert.strictEqual(yield* Ref.get(applied), 5)

        // Of those who decide by the same state, one is right.
        const racing = yield* Effect.forEach(range(5), () => Effect.result(add(1)), { concurrency: "unbounded" })
        const won = racing.filter(Result.isSuccess)
        assert.isAtLeast(won.length, 1)
        assert.strictEqual((yield* counter.load(id)).state.seen.length, 25 + won.length)
        for (const lost of racing.filter(Result.isFailure)) assert.strictEqual(lost.failure._tag, "VersionConflict")
        assert.deepStrictEqual((yield* counter.append(id, () => Effect.succeed([]))).events, [])
        assert.strictEqual(yield* Effect.flip(counter.append(id, () => Effect.fail("no"))), "no")

        // A snapshot that another codec wrote is none.
        const renamed = yield* open("Counter.v2")
        yield* Ref.set(applied, 0)
        assert.strictEqual((yield* renamed.load(id)).state.seen.length, 25 + won.length)
        assert.strictEqual(yield* Ref.get(applied), 25 + won.length)
        const error = yield* Effect.flip(
          Projection.entity({
            name: "",
            codec: StateCodec.json(Sum, { manifest: "Sum" }),
            initial: () => ({ sum: 0, seen: [] }),
            apply: (state) => state,
            snapshotEvery: 0
          })
        )
        assert.deepStrictEqual(
          error.issues.map(({ field }) => field),
          ["name", "snapshotEvery"]
        )
      })
    )

    it.effect("knows the shard of an aggregate", () =>
      Effect.sync(() => {
        // FNV-1a with 32 bits of "", "a", "foobar": 2166136261, 3826002220, 3214735720.
        assert.strictEqual(Projection.shardOf("", 1000), 261)
        assert.strictEqual(Projection.shardOf("a", 1000), 220)
        assert.strictEqual(Projection.shardOf("foobar", 1000), 720)
        assert.strictEqual(Projection.shardOf("user-123", 1), 0)
      })
    )
  })
}
