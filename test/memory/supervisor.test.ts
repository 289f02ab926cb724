/** Background work under a supervisor, on the test's clock. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, Logger, Metric, Queue, Ref, Schedule, Schema, type Scope } from "effect"
import { EventStore, OffsetStore, Projection, Spool, SpoolStore, Supervisor } from "effect-strata"
import * as Memory from "effect-strata/memory"
import { TestClock } from "effect/testing"

class Broken extends Schema.TaggedError<Broken>()("Broken", {}) {
  override get message(): string {
    return "the printer is broken"
  }
}

const append = (aggregateId: string) =>
  EventStore.EventStore.use((events) => events.append({ aggregateId, eventType: "Printed", data: null }))

const failing = Projection.make({
  name: "prints",
  retry: Schedule.recurs(0),
  handler: ({ aggregateId }) => (aggregateId === "broken" ? Effect.fail(new Broken()) : Effect.void)
})

/** A program on the memory stores that logs nothing. */
const test = <A, E>(name: string, program: Effect.Effect<A, E, Layer.Success<typeof Memory.layer> | Scope.Scope>) =>
  it.effect(name, () => Effect.provide(program, Layer.merge(Memory.layer, Logger.layer([]))))

test(
  "launch ends with the error of a projection that has stopped",
  Effect.gen(function* () {
    const launched = yield* Effect.forkChild(Supervisor.launch(Projection.layer(failing)))
    yield* append("fine")
    yield* Projection.awaitVersion("prints", 1n, "1 second")
    yield* append("broken")
    const error = yield* Effect.flip(Fiber.join(launched))
    assert.instanceOf(error, Supervisor.WorkEnded)
    assert.strictEqual(error.work, 'projection "prints"')
    assert.instanceOf(error.cause, Projection.ProjectionFailed)
    assert.include(error.message, 'projection "prints" has ended: Projection "prints" stopped before event 2')
  })
)

test(
  "launch ends where work dies, or interrupts itself",
  Effect.gen(function* () {
    const launch = (work: Effect.Effect<never>) =>
      Effect.flip(Supervisor.launch(Layer.effectDiscard(Supervisor.Supervisor.use(({ run }) => run("work", work)))))
    assert.strictEqual((yield* launch(Effect.die("oh"))).message, "work has ended: oh")
    assert.strictEqual((yield* launch(Effect.interrupt)).work, "work")
  })
)

test(
  "work that restarts begins again by its schedule, and ends with it",
  Effect.gen(function* () {
    const supervisor = yield* Supervisor.make
    const begun = yield* Queue.unbounded<void>()
    const work = Effect.andThen(Queue.offer(begun, undefined), Effect.fail(new Broken()))
    yield* supervisor.run("work", work, {
      onEnd: "restart",
      restart: Schedule.spaced("1 minute").pipe(Schedule.upTo({ times: 2 }))
    })
    const ended = yield* Effect.forkChild(Effect.flip(supervisor.ended))
    yield* Queue.take(begun)
    yield* TestClock.adjust("59 seconds")
    const [waiting] = yield* supervisor.works
    assert.strictEqual(waiting?.state, "restarting")
    assert.strictEqual(waiting?.error?.message, "work has ended: the printer is broken")
    assert.strictEqual(yield* Queue.size(begun), 0)
    yield* TestClock.adjust("1 second")
    yield* Queue.take(begun)
    yield* TestClock.adjust("1 minute")
    yield* Queue.take(begun)
    assert.instanceOf((yield* Fiber.join(ended)).cause, Broken)
    assert.deepStrictEqual(
      (yield* supervisor.works).map(({ state }) => state),
      ["ended"]
    )
  })
)

test(
  "work whose end is only reported leaves the rest at work",
  Effect.gen(function* () {
    const handled = yield* Queue.unbounded<string>()
    const other = Projection.make({
      name: "others",
      handler: ({ aggregateId }) => Queue.offer(handled, aggregateId)
    })
    const works = yield* Deferred.make<Supervisor.Supervisor["Service"]>()
    const App = Layer.mergeAll(
      Projection.layer(failing, { onEnd: "report" }),
      Projection.layer(other),
      Layer.effectDiscard(Effect.flatMap(Supervisor.Supervisor, (supervisor) => Deferred.succeed(works, supervisor)))
    )
    const launched = yield* Effect.forkChild(Supervisor.launch(App))
    yield* append("broken")
    yield* append("fine")
    assert.deepStrictEqual([yield* Queue.take(handled), yield* Queue.take(handled)], ["broken", "fine"])
    const supervisor = yield* Deferred.await(works)
    const states = Effect.map(supervisor.works, (all) => all.map(({ name, state }) => [name, state]))
    assert.deepStrictEqual(yield* states, [
      ['projection "prints"', "ended"],
      ['projection "others"', "running"]
    ])
    const gauges = (yield* Metric.snapshot).flatMap(({ attributes, id, state }) =>
      id === "strata_work_running" && "value" in state && attributes?.["work"] === 'projection "prints"'
        ? [state.value]
        : []
    )
    assert.deepStrictEqual(gauges, [0])
    yield* Fiber.interrupt(launched)
    assert.deepStrictEqual(yield* states, [])
  })
)

test(
  "an interrupted launch begins nothing new, and lets a handler of the spool end",
  Effect.gen(function* () {
    const mails = Spool.make({ name: "mails", payload: Schema.String })
    const store = yield* SpoolStore.SpoolStore
    const begun = yield* Queue.unbounded<string>()
    const go = yield* Deferred.make<void>()
    const sent = yield* Ref.make<ReadonlyArray<string>>([])
    const handler = (mail: string) =>
      Effect.andThen(Queue.offer(begun, mail), Deferred.await(go)).pipe(
        Effect.andThen(Ref.update(sent, (all) => [...all, mail]))
      )
    const launched = yield* Effect.forkChild(Supervisor.launch(Spool.layer(mails, handler, { concurrency: 1 })))
    yield* mails.enqueueAll([{ payload: "one" }, { payload: "two" }])
    assert.strictEqual(yield* Queue.take(begun), "one")
    const stopping = yield* Effect.forkChild(Fiber.interrupt(launched))
    yield* Effect.yieldNow
    yield* Deferred.succeed(go, undefined)
    yield* Fiber.join(stopping)
    assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(launched)))
    assert.deepStrictEqual(yield* Ref.get(sent), ["one"])
    assert.deepStrictEqual(yield* store.countByState("mails"), {
      incoming: 1,
      active: 0,
      deferred: 0,
      hold: 0,
      bounce: 0,
      archived: 0
    })
  })
)

test(
  "an interrupted launch rolls back the batch of a projection that is under way",
  Effect.gen(function* () {
    const offsets = yield* OffsetStore.OffsetStore
    const begun = yield* Deferred.make<void>()
    const slow = Projection.make({
      name: "slow",
      handler: () =>
        Effect.andThen(
          offsets.writeOffset({ projectionName: "written by the handler", shardNumber: 0, value: 1n }),
          Effect.andThen(Deferred.succeed(begun, undefined), Effect.never)
        )
    })
    const launched = yield* Effect.forkChild(Supervisor.launch(Projection.layer(slow)))
    yield* append("a")
    yield* Deferred.await(begun)
    yield* Fiber.interrupt(launched)
    assert.deepStrictEqual(
      (yield* Effect.forEach(["slow", "written by the handler"], (projectionName) =>
        offsets.getCurrentOffset({ projectionName, shardNumber: 0 })
      )).map((offset) => (offset._tag === "Some" ? offset.value.value : undefined)),
      [0n, undefined]
    )
  })
)
