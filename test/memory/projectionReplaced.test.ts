/** A projection whose log is another one than the log that it has read: here the offsets outlive the events. */
import { assert, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Logger, Option, Stream } from "effect"
import { EventStore, Projection } from "effect-strata"
import * as Memory from "effect-strata/memory"
import { untilHandled } from "../../src/testing/ProjectionScene.ts"

const storesOf = Effect.flatMap(Memory.MemoryDatabase.make, (database) => Layer.build(Memory.layerShared(database)))

/** A new log, beside offsets that are kept. */
const logBeside = Effect.fnUntraced(function* (kept: Context.Context<Memory.Stores>) {
  const events = Context.get(yield* storesOf, EventStore.EventStore)
  return {
    events,
    append: (prefix: string, count: number) =>
      events.append(
        Array.from({ length: count }, (_, index) => ({
          id: `${prefix}-${index + 1}`,
          aggregateId: `a${index}`,
          eventType: "Happened",
          data: {}
        }))
      ),
    context: Context.add(kept, EventStore.EventStore, events)
  }
})

const handled: Array<string> = []
const model = (name: string) =>
  Projection.make({ name, shards: 2, handler: ({ id }) => Effect.sync(() => handled.push(id)) })

/** Has the projection handle so many events of a log, and stops it. */
const handledUpTo = Effect.fnUntraced(function* (name: string, count: number) {
  const kept = yield* storesOf
  const log = yield* logBeside(kept)
  yield* log.append("old", count)
  const fiber = yield* Effect.forkScoped(Effect.provide(Projection.run(model(name)), log.context))
  yield* Effect.provide(untilHandled(name, BigInt(count)), log.context)
  yield* Fiber.interrupt(fiber)
  handled.length = 0
  return { kept, log }
})

const quiet = Effect.provide(Logger.layer([]))

it.live(
  "a projection that is ahead of the log, or has read another one, stops, and goes on once that is accepted",
  () =>
    Effect.gen(function* () {
      for (const [count, found, after] of [
        [3, Option.none(), [3n, 3n]],
        [7, Option.some("new-5"), [5n, 5n]]
      ] as const) {
        const name = `model ${count}`
        const { kept } = yield* handledUpTo(name, 5)
        const log = yield* logBeside(kept)
        yield* log.append("new", count)
        yield* Effect.gen(function* () {
          for (const error of [
            yield* Effect.flip(Projection.run(model(name))),
            yield* Effect.flip(Projection.verify(name))
          ]) {
            assert.instanceOf(error, EventStore.LogReplaced)
            assert.deepStrictEqual([error.version, error.id, error.foundId], [5n, Option.some("old-5"), found])
          }
          assert.deepStrictEqual(handled, [])
          const accepted = yield* Projection.accept(name)
          assert.deepStrictEqual(
            accepted.map(({ after, before }) => [before, after]),
            after.map((version) => [5n, version])
          )
          yield* Projection.verify(name)
          yield* Effect.forkScoped(Projection.run(model(name)))
          const [last] = yield* log.append(`later ${count}`, 1)
          yield* untilHandled(name, last?.version ?? 0n)
          assert.deepStrictEqual(handled.toSorted(), count === 3 ? ["later 3-1"] : ["later 7-1", "new-6", "new-7"])
        }).pipe(Effect.provide(log.context))
      }
    }).pipe(quiet)
)

it.live("a projection that was reset to a version that both logs have goes on from there", () =>
  Effect.gen(function* () {
    const { kept } = yield* handledUpTo("reset", 5)
    const log = yield* logBeside(kept)
    yield* log.append("new", 6)
    yield* Effect.gen(function* () {
      assert.instanceOf(yield* Effect.flip(Projection.run(model("reset"))), EventStore.LogReplaced)
      yield* Projection.reset("reset", 3n)
      yield* Effect.forkScoped(Projection.run(model("reset")))
      yield* untilHandled("reset", 6n)
      assert.deepStrictEqual(handled.toSorted(), ["new-4", "new-5", "new-6"])
    }).pipe(Effect.provide(log.context))
  }).pipe(quiet)
)

it.live("a rebuild beside the live copy hands over which event was read last", () =>
  Effect.gen(function* () {
    const { kept, log } = yield* handledUpTo("rebuilt", 5)
    const rebuild = Projection.rebuild(model("rebuilt"), { mode: "beside", clear: () => Effect.void })
    yield* Effect.provide(Stream.runDrain(rebuild), log.context)
    const other = yield* logBeside(kept)
    yield* other.append("new", 6)
    const error = yield* Effect.flip(Effect.provide(Projection.verify("rebuilt"), other.context))
    assert.instanceOf(error, EventStore.LogReplaced)
    assert.deepStrictEqual(error.foundId, Option.some("new-5"))
  }).pipe(quiet)
)

it.live("an event that the log has lost is not waited for", () =>
  Effect.gen(function* () {
    const { kept, log } = yield* handledUpTo("awaited", 5)
    const [, , third] = yield* log.events.load()
    assert.isDefined(third)
    yield* Effect.provide(Projection.awaitVersion("awaited", third, "4 minutes"), log.context)
    const other = yield* logBeside(kept)
    yield* other.append("new", 6)
    for (const event of [third, { version: 7n, id: "lost" }]) {
      const waiting = Projection.awaitVersion("awaited", event, "4 minutes")
      assert.instanceOf(yield* Effect.flip(Effect.provide(waiting, other.context)), EventStore.LogReplaced)
    }
  }).pipe(quiet)
)

it.live("a projection whose offsets agree with the log goes on, where only what was read ahead was lost", () =>
  Effect.gen(function* () {
    const { log } = yield* handledUpTo("ahead", 5)
    const lost = new EventStore.LogReplaced({
      version: 9n,
      id: Option.some("lost"),
      foundId: Option.none(),
      latest: 5n,
      lastAgreed: Option.some(5n)
    })
    let subscriptions = 0
    const store = EventStore.EventStore.of({
      ...log.events,
      follow: (subscription) => (subscriptions++ === 0 ? Stream.fail(lost) : log.events.follow(subscription))
    })
    yield* Effect.gen(function* () {
      yield* Effect.forkScoped(Projection.run(model("ahead")))
      yield* log.append("later", 1)
      yield* untilHandled("ahead", 6n)
      assert.deepStrictEqual(handled, ["later-1"])
      assert.strictEqual(subscriptions, 2)
    }).pipe(Effect.provide(Context.add(log.context, EventStore.EventStore, store)))
  }).pipe(quiet)
)
