/** What is measured does not depend on the wall clock: setting it back holds up no reader, and prolongs no lease. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Deferred, Effect, Fiber, Schedule, Schema, Stream } from "effect"
import { DurableStateStore, OffsetStore, Projection, Spool } from "effect-strata"
import { elsewhere } from "../../src/testing/ProjectionScene.ts"
import { strata } from "../cli/harness.ts"
import { postgresUrl } from "../support/database.ts"
import { event, follow, plainInsert, serveEvents, session } from "./events.harness.ts"
import { serveSpool } from "./spool.harness.ts"

/** A clock whose wall time is so many hours ahead, as it says at each look. Its monotonic time goes on. */
const aheadBy = Effect.fnUntraced(function* (hours: () => number): Effect.fn.Return<Clock.Clock> {
  const clock = yield* Clock.Clock
  const millis = () => clock.currentTimeMillisUnsafe() + hours() * 3_600_000
  const nanos = () => BigInt(millis()) * 1_000_000n
  return {
    currentTimeMillisUnsafe: millis,
    currentTimeMillis: Effect.sync(millis),
    currentTimeNanosUnsafe: nanos,
    currentTimeNanos: Effect.sync(nanos),
    monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
    monotonicTimeNanos: clock.monotonicTimeNanos,
    sleep: (duration) => clock.sleep(duration)
  }
})

/** A clock that is an hour earlier at each look. */
const setBack = Effect.suspend(() => {
  let hours = 0
  return aheadBy(() => --hours)
})

const test = <A, E>(name: string, body: Effect.Effect<A, E, never>) =>
  it.live(name, () => Effect.flatMap(setBack, (clock) => Effect.provideService(body, Clock.Clock, clock)))

describe("while the clock is set back again and again", () => {
  test(
    "subscribers get what comes",
    Effect.gen(function* () {
      const { events } = yield* serveEvents()
      const live = yield* follow({ events }, { after: "start" })
      for (const version of [1n, 2n, 3n]) {
        yield* events.append(event("a"))
        yield* live.until(version)
      }
    }).pipe(Effect.scoped)
  )

  test(
    "a read does not wait for longer than settleTimeout",
    Effect.gen(function* () {
      const { events, table } = yield* serveEvents({ options: { settleTimeout: "100 millis" } })
      const run = yield* session()
      yield* run("BEGIN")
      yield* run(plainInsert(table, "open"))
      yield* events.append(event("a"))
      assert.deepStrictEqual(yield* events.load(), [])
    }).pipe(Effect.scoped)
  )

  test(
    "the offsets of all shards follow the log",
    Effect.gen(function* () {
      const { context, events } = yield* serveEvents()
      const idle = Projection.make({
        name: "idle",
        shards: 2,
        batchSize: 10,
        heartbeat: "100 millis",
        handler: () => Effect.void
      })
      yield* Effect.forkScoped(Effect.provide(Projection.run(idle), context))
      const offsets = Effect.provide(
        OffsetStore.OffsetStore.use((store) => Stream.runCollect(store.listOffsets("idle"))),
        context
      )
      for (const version of [1n, 2n, 3n]) {
        yield* events.append(event("a"))
        yield* Effect.repeat(offsets, {
          until: (all) => all.length === 2 && all.every(({ value }) => value === version),
          schedule: Schedule.spaced("20 millis")
        })
      }
    }).pipe(Effect.scoped)
  )

  const jobs = Spool.make({ name: "jobs", payload: Schema.String })

  test(
    "a worker that cannot renew its lease gives it up",
    Effect.gen(function* () {
      const { context, schema } = yield* serveSpool()
      const begun = yield* Deferred.make<void>()
      const lost = yield* Deferred.make<void>()
      const handler = Effect.andThen(Deferred.succeed(begun, undefined), Effect.never).pipe(
        Effect.onInterrupt(() => Deferred.succeed(lost, undefined))
      )
      const lock = Effect.gen(function* () {
        const run = yield* session()
        yield* Deferred.await(begun)
        yield* run("BEGIN")
        yield* run(`LOCK TABLE ${schema}.strata_messages`)
        yield* Deferred.await(lost)
        yield* run("ROLLBACK")
      })
      yield* Effect.provide(jobs.enqueue("one"), context)
      yield* Effect.provide(
        Effect.raceFirst(
          lock,
          jobs.run(() => handler, { lease: "1 second" })
        ),
        context
      )
    }).pipe(Effect.scoped)
  )

  test(
    "a worker that always has something to do finds what a dead one has left",
    Effect.gen(function* () {
      const { context, spool } = yield* serveSpool()
      const found = yield* Deferred.make<void>()
      const handle = Effect.fnUntraced(function* (payload: string) {
        if (payload === "left") yield* Deferred.succeed(found, undefined)
        else yield* jobs.enqueue("next")
      })
      yield* Effect.gen(function* () {
        yield* jobs.enqueue("left")
        assert.lengthOf(yield* spool.claim({ queue: "jobs", limit: 1, lease: "1 second", owner: "dead" }), 1)
        yield* jobs.enqueue("next")
        const work = jobs.run(handle, {
          concurrency: 1,
          buffer: 0,
          lease: "1 second"
        })
        yield* Effect.raceFirst(Deferred.await(found), work)
      }).pipe(Effect.provide(context))
    }).pipe(Effect.scoped)
  )
})

describe("while the clock is set forth again and again", () => {
  it.live("an event whose handler fails is tried again for as long as the schedule says", () =>
    Effect.gen(function* () {
      const { context, events } = yield* serveEvents()
      let hours = 0
      const clock = yield* aheadBy(() => ++hours)
      let attempts = 0
      const flaky = Projection.make({
        name: "flaky",
        retry: Schedule.spaced("10 millis").pipe(Schedule.upTo({ duration: "10 minutes" })),
        handler: () => (++attempts < 4 ? Effect.fail("not yet") : Effect.void)
      })
      const [stored] = yield* events.append(event("a"))
      const awaited = Projection.awaitVersion("flaky", stored?.version ?? 0n, "1 minute")
      yield* Effect.raceFirst(Effect.provideService(Projection.run(flaky), Clock.Clock, clock), awaited).pipe(
        Effect.provide(context)
      )
      assert.strictEqual(attempts, 4)
    }).pipe(Effect.scoped)
  )
})

describe("where the clocks of processes differ", () => {
  it.live.each([1, -1])("a shard is told as running, and as idle once its process has died: by %i hours", (hours) =>
    Effect.gen(function* () {
      const { context, schema } = yield* serveEvents()
      const states = Context.get(context, DurableStateStore.DurableStateStore)
      let hasDied = false
      /** A process that has died cannot take its leave. */
      const mortal = DurableStateStore.DurableStateStore.of({
        ...states,
        getLatestState: (id) => (hasDied ? Effect.never : states.getLatestState(id))
      })
      const projection = Projection.make({ name: "mortal", heartbeat: "200 millis", handler: () => Effect.void })
      const running = yield* elsewhere(Effect.forkScoped(Projection.run(projection))).pipe(
        Effect.provideService(Clock.Clock, yield* aheadBy(() => hours)),
        Effect.provideService(DurableStateStore.DurableStateStore, mortal),
        Effect.provideContext(context)
      )
      const until = (expected: Projection.ShardStatus["state"]) =>
        Effect.repeat(Projection.statuses, {
          until: (all) => all.flatMap(({ shards }) => shards).some(({ state }) => state === expected),
          schedule: Schedule.spaced("20 millis")
        }).pipe(Effect.provide(context))
      yield* until("running")
      hasDied = true
      yield* Fiber.interrupt(running)
      yield* until("idle")
      const all = yield* Effect.provide(Projection.processes, context)
      assert.deepStrictEqual(
        all.map(({ isSilent }) => isSilent),
        [true]
      )
      const doctor = yield* strata(["doctor", "--schema", schema], { url: postgresUrl })
      assert.match(doctor.stdout, hours > 0 ? /its clock is ahead, by at least 59m/ : /has said nothing for 1h/)
    })
  )
})
