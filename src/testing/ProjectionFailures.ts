/** What becomes of events whose handler fails: a part of the projections' suite. */
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Logger, Option, Schedule, Stream } from "effect"
import { type StoredEvent } from "../EventStore.ts"
import * as Projection from "../Projection.ts"
import {
  append,
  elsewhere,
  ending,
  keepsLog,
  latestVersion,
  long,
  range,
  scene,
  start,
  untilHandled
} from "./ProjectionScene.ts"

/** The result of a retry for an aggregate that is not parked any more. */
const handled = (aggregateId: string) => new Projection.Retried({ aggregateId, state: "handled", error: Option.none() })

/** Registers the suite. */
export const suite = <E>(name: string, layer: Layer.Layer<Projection.Services, E>): void => {
  // Each failure is logged as a warning, and these tests cause many.
  const quiet = Layer.merge(layer, Logger.layer([]))
  it.layer(quiet, { timeout: "2 minutes", excludeTestServices: true })(`Projection, failures (${name})`, (it) => {
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
        yield* Effect.flatMap(latestVersion, (version) => untilHandled(name, version))
        assert.deepStrictEqual(yield* seen("a"), [1, 2, 3])
        assert.notStrictEqual((yield* Projection.status(name))[0]?.state, "failed")
      })
    )

    it.effect("says in the log why an event has failed, once in full, and what happens next", () =>
      Effect.gen(function* () {
        const firstLines = ({ logged }: { readonly logged: ReadonlyArray<string> }) =>
          logged.map((message) => message.split("\n", 1)[0])
        for (const onFailure of ["stop", "skip", "park"] as const) {
          const { append, caughtUp, name, options, type } = yield* scene()
          const { logged, withLog } = keepsLog()
          const [event] = yield* append("a", 1)
          const projection = Projection.make({
            ...options,
            onFailure,
            retry: Schedule.upTo(Schedule.spaced("5 millis"), { times: 1 }),
            // The error has the event with it, as errors of libraries have what they failed with.
            handler: ({ data }) => Effect.fail(Object.assign(new Error("no ones"), { payload: { secret: data } }))
          })
          const told = (count: number) =>
            Effect.repeat(Effect.sleep("5 millis"), { until: () => Effect.succeed(logged.length >= count) })
          yield* withLog(Effect.exit(Effect.raceFirst(Projection.run(projection), Effect.andThen(caughtUp, told(3)))))
          const at = `projection "${name}" failed at event ${event?.version} ("${type}" of "a", shard 0), attempt`
          const last = onFailure === "stop" ? "the projection stops before it" : "it is tried a last time at once"
          const lines = [`${at} 1; it is tried again in 5ms: Error: no ones`, `${at} 2; ${last}: Error: no ones`]
          if (onFailure === "stop") {
            lines.push(
              `Projection "${name}" stopped before event ${event?.version} ("${type}" of "a", shard 0): the handler failed ` +
                "twice; nothing of it is stored: mend the handler and run it again, or let it skip or park such events"
            )
          }
          if (onFailure === "skip") lines.push(`${at} 3; it is skipped: Error: no ones`)
          const waits = "and its later events wait until Projection.retryParked asks for them"
          if (onFailure === "park") lines.push(`${at} 3; its aggregate is parked, ${waits}: Error: no ones`)
          assert.deepStrictEqual(firstLines({ logged }), lines)
          // The stack follows once.
          assert.deepStrictEqual(
            logged.map((message) => message.includes("\n    at ")),
            [true, false, false]
          )
          assert.notInclude(logged.join(), "secret")
          if (onFailure !== "park") continue
          logged.length = 0
          const retried = Projection.retryParked(name, long)
          yield* withLog(Effect.exit(Effect.raceFirst(Projection.run(projection), Effect.andThen(retried, told(1)))))
          assert.deepStrictEqual(firstLines({ logged }), [
            `${at.replace("attempt", "retried as asked for")}; its aggregate stays parked: Error: no ones`
          ])
        }
      })
    )

    it.effect("ends a handler at its time limit: a failure like any other", () =>
      Effect.gen(function* () {
        const limited = Effect.fnUntraced(function* (onFailure: "stop" | "skip" | "park", batched: boolean) {
          const { add, append, caughtUp, name, options, seen } = yield* scene()
          const stored = yield* append("a", ...range(3))
          const handler = (event: StoredEvent, slot: Projection.Slot) =>
            event.data === 1 ? Effect.never : add(event, slot)
          const settings = { ...options, onFailure, retry: Schedule.recurs(1), timeout: "1 second" } as const
          const projection = batched
            ? Projection.make({
                ...settings,
                batchHandler: (events, slot) => Effect.forEach(events, (event) => handler(event, slot))
              })
            : Projection.make({ ...settings, handler })
          if (onFailure === "stop") {
            const error = yield* Effect.flip(Projection.run(projection))
            if (error._tag !== "ProjectionFailed") return assert.fail(error.message)
            assert.deepStrictEqual([error.version, error.attempts], [stored[1]?.version, 2])
            assert.instanceOf(error.cause, Projection.HandlerTimeout)
            assert.deepStrictEqual(yield* seen("a"), [0])
            return
          }
          yield* start(projection)
          yield* caughtUp
          assert.deepStrictEqual(yield* seen("a"), onFailure === "skip" ? [0, 2] : [0])
          const unhandled = onFailure === "skip" ? Projection.skipped(name) : Projection.parked(name)
          const [failure] = yield* Stream.runCollect(unhandled)
          assert.include(failure?.error, "HandlerTimeout: the handler has not ended within 1s")
        })
        const cases = (["stop", "skip", "park"] as const).flatMap((onFailure) => [
          limited(onFailure, false),
          limited(onFailure, true)
        ])
        yield* Effect.all(cases, { concurrency: "unbounded" })
        const refused = Projection.make({ name: "refused", timeout: 0, handler: () => Effect.void })
        const error = yield* Effect.flip(Projection.run(refused))
        assert.include(error.message, "timeout: Expected a finite duration above zero")
      })
    )

    it.effect("stops before one event in a hundred, and goes on when that is mended", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, options, seen } = yield* scene()
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
        yield* Effect.raceFirst(run, caughtUp)
        assert.deepStrictEqual(yield* seen("a"), range(300))
      })
    )

    it.effect("tries again by the schedule before it gives up", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, options, seen } = yield* scene()
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
        yield* caughtUp
        assert.strictEqual(failures, 4)
        assert.deepStrictEqual(yield* seen("a"), [1])
      })
    )

    it.effect.each([
      ["a defect", () => Effect.die(new Error("broken"))],
      [
        "a thrown error",
        () => {
          throw new Error("broken")
        }
      ],
      ["an interruption of its own", () => Effect.interrupt]
    ] as const)("takes %s for a failure of the event", ([, fail]) =>
      Effect.gen(function* () {
        const { add, append, caughtUp, name, options, seen } = yield* scene()
        yield* append("a", 1, 2, 3)
        yield* start(
          Projection.make({
            ...options,
            onFailure: "skip",
            handler: (event, slot) => (event.data === 2 ? fail() : add(event, slot))
          })
        )
        yield* caughtUp
        assert.deepStrictEqual(yield* seen("a"), [1, 3])
        const skipped = yield* Stream.runCollect(Projection.skipped(name))
        assert.strictEqual(skipped.length, 1)
      })
    )

    it.effect.each([["handler"], ["batchHandler"]] as const)(
      "skips one event in a hundred, and says which: failures",
      ([kind]) =>
        Effect.gen(function* () {
          const { add, append, caughtUp, name, options, seen } = yield* scene()
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
          yield* caughtUp
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
        const { add, append, caughtUp, name, options, seen } = yield* scene()
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
        yield* caughtUp
        yield* append("b", 4)
        yield* append("a", 5)
        yield* caughtUp
        assert.deepStrictEqual(yield* seen("a"), [1, 3, 5])
        assert.deepStrictEqual(yield* seen("b"), [])
        const parked = yield* Stream.runCollect(Projection.parked(name))
        assert.deepStrictEqual(
          parked.map(({ aggregateId, eventId, version }) => [aggregateId, eventId, version]),
          [["b", bad?.id, bad?.version]]
        )

        const [again] = yield* elsewhere(Projection.retryParked(name, long))
        assert.deepStrictEqual([again?.aggregateId, again?.state], ["b", "parked"])
        assert.include(Option.getOrThrow(again?.error ?? Option.none()), "unlucky")
        assert.deepStrictEqual(yield* seen("b"), [])

        isMended = true
        assert.deepStrictEqual(yield* elsewhere(Projection.retryParked(name, long)), [handled("b")])
        assert.deepStrictEqual(yield* seen("b"), [13, 2, 4])
        assert.deepStrictEqual(yield* Stream.runCollect(Projection.parked(name)), [])
        yield* append("b", 6)
        yield* caughtUp
        assert.deepStrictEqual(yield* seen("b"), [13, 2, 4, 6])
      })
    )

    it.effect(
      "keeps a request until it runs and is not paused, and then handles the events that have come meanwhile, too",
      () =>
        Effect.gen(function* () {
          const { add, append, caughtUp, name, options, seen } = yield* scene()
          const projection = (isMended: boolean) =>
            Projection.make({
              ...options,
              shards: 3,
              onFailure: "park",
              handler: (event, slot) =>
                Effect.andThen(add(event, slot), isMended ? Effect.void : Effect.fail(new Error("not mended")))
            })
          yield* append("a", 1)
          const first = yield* start(projection(false))
          yield* caughtUp
          yield* Fiber.interrupt(first)
          yield* append("a", 2)
          const [waiting] = yield* Projection.retryParked(name, 0)
          assert.deepStrictEqual([waiting?.aggregateId, waiting?.state], ["a", "waiting"])
          assert.match(Option.getOrThrow(waiting?.error ?? Option.none()), /^Error: not mended\n +at /)
          const [request] = yield* Stream.runCollect(Projection.parked(name))
          assert.isDefined(request?.retryAskedAt)
          assert.deepStrictEqual(yield* Projection.retryParked(name, 0, ["nobody"]), [])

          yield* Projection.pause(name)
          yield* start(projection(true))
          yield* append("a", 3)
          const [paused] = yield* Projection.retryParked(name, 200)
          assert.strictEqual(paused?.state, "waiting")
          assert.deepStrictEqual(yield* seen("a"), [])
          const [again] = yield* Stream.runCollect(Projection.parked(name))
          assert.strictEqual(again?.retryAskedAt, request?.retryAskedAt)
          yield* Projection.resume(name)
          yield* caughtUp
          assert.deepStrictEqual(yield* seen("a"), [1, 2, 3])
          assert.deepStrictEqual(yield* Stream.runCollect(Projection.parked(name)), [])
          assert.deepStrictEqual(yield* Projection.retryParked(name, long), [])
        })
    )

    it.effect.each([["handler"], ["batchHandler"]] as const)(
      "retries the aggregates that were asked for, in batches, up to the event that fails again: %s",
      ([kind]) =>
        Effect.gen(function* () {
          const { add, append, caughtUp, name, options, seen } = yield* scene()
          const failing = new Set<unknown>([0, 100])
          const handler = (event: StoredEvent, slot: Projection.Slot) =>
            Effect.andThen(
              add(event, slot),
              Effect.suspend(() => (failing.has(event.data) ? Effect.fail(`no ${event.data}`) : Effect.void))
            )
          yield* start(
            Projection.make({
              ...options,
              batchSize: 4,
              retry: Schedule.recurs(0),
              onFailure: "park",
              ...(kind === "handler"
                ? { handler }
                : { batchHandler: (events, slot) => Effect.forEach(events, (event) => handler(event, slot)) })
            })
          )
          const stored = yield* append("a", ...range(30))
          yield* append("b", 100, 101)
          yield* caughtUp
          failing.clear()
          failing.add(21)
          const [a, ...others] = yield* Projection.retryParked(name, long, ["a", "c"])
          assert.deepStrictEqual([a?.aggregateId, a?.state, others.length], ["a", "parked", 0])
          assert.deepStrictEqual(yield* seen("a"), range(21))
          assert.deepStrictEqual(yield* seen("b"), [])
          const parked = yield* Stream.runCollect(Projection.parked(name))
          assert.deepStrictEqual(
            parked.map(({ aggregateId, eventId, retryAskedAt }) => [aggregateId, eventId, retryAskedAt]),
            [
              ["a", stored[21]?.id, undefined],
              ["b", parked[1]?.eventId, undefined]
            ]
          )
          assert.include(parked[0]?.error, "no 21")
          assert.include(parked[1]?.error, "no 100")

          failing.clear()
          assert.deepStrictEqual(yield* Projection.retryParked(name, long), [handled("a"), handled("b")])
          yield* append("a", 30)
          yield* caughtUp
          assert.deepStrictEqual(yield* seen("a"), range(31))
          assert.deepStrictEqual(yield* seen("b"), [100, 101])
        })
    )

    it.effect("retries each event once, however many processes ask for it and run the projection", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, name, options, seen } = yield* scene()
        const ids = range(6).map((index) => `a${index}`)
        let isMended = false
        const projection = Projection.make({
          ...options,
          shards: 4,
          batchSize: 3,
          retry: Schedule.recurs(0),
          onFailure: "park",
          handler: (event, slot) =>
            Effect.andThen(
              add(event, slot),
              Effect.suspend(() => (isMended || event.data !== 0 ? Effect.void : Effect.fail("not mended")))
            )
        })
        yield* start(projection)
        for (const id of ids) yield* append(id, ...range(5))
        yield* caughtUp
        isMended = true
        const writing = yield* Effect.forkScoped(
          Effect.forEach(range(10), (round) =>
            Effect.forEach(ids, (id) => append(id, 5 + round), { concurrency: "unbounded" })
          )
        )
        // Other processes take shards over, and give them back, while retries are asked for.
        const moving = yield* Effect.forkScoped(
          Effect.forEach(range(3), () => Effect.timeoutOption(elsewhere(Projection.run(projection)), 150))
        )
        yield* Effect.all(
          range(4).map(() => elsewhere(Projection.retryParked(name, long))),
          { concurrency: "unbounded" }
        )
        yield* Effect.all([Fiber.join(writing), Fiber.join(moving)])
        yield* Projection.retryParked(name, long)
        yield* caughtUp
        for (const id of ids) assert.deepStrictEqual(yield* seen(id), range(15), id)
        assert.deepStrictEqual(yield* Stream.runCollect(Projection.parked(name)), [])
      })
    )

    it.effect("parks one event in a hundred, of many aggregates", () =>
      Effect.gen(function* () {
        const { add, caughtUp, name, options, seen, type } = yield* scene()
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
        yield* caughtUp
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
  })
}
