/** Processes that divide shards, and processes that do not agree about it: each event takes effect once all the same. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber, Ref, Schedule, Stream, SubscriptionRef } from "effect"
import { EventStore, OffsetStore, Projection } from "effect-strata"
import { runBy } from "../../src/projection/run/ProjectionRunner.ts"
import { elsewhere, untilHandled } from "../../src/testing/ProjectionScene.ts"
import { event, serveEvents } from "./events.harness.ts"
import { formerDivision } from "./fixtures/formerDivision.ts"
import { freshSchema } from "./harness.ts"

const heartbeat = Duration.millis(50)
const aggregates = Array.from({ length: 40 }, (_, index) => `a${index}`)
const allOf = (shards: number) => Array.from({ length: shards }, (_, shard) => shard)

/** A read model that shows which events were handled how often, and by which process. */
const serve = Effect.gen(function* () {
  const schema = yield* freshSchema()
  const { context, events, sql } = yield* serveEvents({ options: { schema } })
  const model = sql.literal(`${schema}.counts`)
  yield* sql`CREATE TABLE ${model} (id text PRIMARY KEY, count bigint NOT NULL)`
  const handledBy = yield* Ref.make<ReadonlyArray<string>>([])
  return {
    context,
    handledBy,
    /** A projection that counts the events of each aggregate, as the process of this name. */
    counting: (name: string, shards: number, process: string) =>
      Projection.make({
        name,
        shards,
        batchSize: 10,
        heartbeat,
        handler: Effect.fnUntraced(function* ({ aggregateId }) {
          yield* sql`
            INSERT INTO ${model} AS c VALUES (${aggregateId}, 1) ON CONFLICT (id) DO UPDATE SET count = c.count + 1`
          yield* Ref.update(handledBy, (all) => [...all, process])
        })
      }),
    /** Appends an event of each aggregate and waits until it was handled. Returns by which processes. */
    round: (name: string) =>
      Effect.gen(function* () {
        yield* Ref.set(handledBy, [])
        const stored = yield* events.append(aggregates.map((aggregateId) => event(aggregateId)))
        yield* untilHandled(name, stored.at(-1)?.version ?? 0n)
        return [...new Set(yield* Ref.get(handledBy))].sort().join()
      }),
    exact: Effect.gen(function* () {
      const counts = yield* sql`SELECT id, count::int FROM ${model} ORDER BY id`
      const log = yield* sql`
        SELECT aggregate_id AS id, count(*)::int FROM ${sql.literal(`${schema}.events`)} GROUP BY 1 ORDER BY 1`
      assert.deepStrictEqual(counts, log)
    })
  }
})

describe("the shards of all projections", () => {
  it.live("are divided at once: twelve projections of one shard run on four processes, three on each", () =>
    Effect.gen(function* () {
      const { context } = yield* serveEvents({ options: { schema: yield* freshSchema() } })
      const projections = Array.from({ length: 12 }, (_, index) =>
        Projection.make({ name: `projection ${index}`, heartbeat, handler: () => Effect.void })
      )
      yield* Effect.gen(function* () {
        const process = elsewhere(Effect.forkScoped(Projection.runAll(projections)))
        const runners = yield* Effect.replicateEffect(process, 4)
        const shares = Effect.map(Projection.processes, (all) =>
          all.map(({ runs }) => runs.reduce((sum, { shards }) => sum + shards.length, 0)).sort()
        )
        yield* Effect.repeat(shares, { until: (all) => all.join() === "3,3,3,3" })
        for (const { state } of (yield* Projection.statuses).flatMap(({ shards }) => shards)) {
          assert.strictEqual(state, "running")
        }
        const [first] = runners
        if (first !== undefined) yield* Fiber.interrupt(first)
        yield* Effect.repeat(shares, { until: (all) => all.join() === "4,4,4" })
        yield* process
        yield* Effect.repeat(shares, { until: (all) => all.join() === "3,3,3,3" })
      }).pipe(Effect.provide(context))
    })
  )

  it.live("stay where they are when a process joins, and are not interrupted, but for those that move", () =>
    Effect.gen(function* () {
      const { context, events, sql } = yield* serveEvents({ options: { schema: yield* freshSchema() } })
      const entered = new Set<string>()
      const handled = new Map<string, number>()
      let interrupted = 0
      const leave = yield* Deferred.make<void>()
      /** The handler waits in the first process, in a transaction of each shard. */
      const held = Projection.make({
        name: "held",
        shards: 4,
        heartbeat,
        handler: ({ aggregateId }) =>
          Effect.andThen(
            Effect.sync(() => entered.add(aggregateId)),
            Effect.onInterrupt(Deferred.await(leave), () => Effect.sync(() => interrupted++))
          )
      })
      const passing = Projection.make({
        name: "held",
        shards: 4,
        heartbeat,
        handler: ({ aggregateId }) =>
          sql.afterCommit(Effect.sync(() => handled.set(aggregateId, (handled.get(aggregateId) ?? 0) + 1)))
      })
      const one = (shard: number) =>
        aggregates.find((aggregateId) => Projection.shardOf(aggregateId, 4) === shard) ?? "none"
      yield* Effect.gen(function* () {
        const stored = yield* events.append(allOf(4).map((shard) => event(one(shard))))
        yield* Effect.forkScoped(Projection.run(held))
        yield* Effect.repeat(
          Effect.sync(() => entered.size),
          { until: (size) => size === 4, schedule: Schedule.spaced("20 millis") }
        )
        yield* elsewhere(Effect.forkScoped(Projection.run(passing)))
        // Those that have moved are handled by the other process: it has waited for the end of the transactions here.
        yield* Effect.repeat(
          Effect.sync(() => handled.size),
          { until: (size) => size === 2, schedule: Schedule.spaced("20 millis") }
        )
        assert.strictEqual(interrupted, 2)
        yield* Deferred.succeed(leave, undefined)
        yield* untilHandled("held", stored.at(-1)?.version ?? 0n)
        assert.strictEqual(interrupted, 2)
        assert.deepStrictEqual([...handled.values()], [1, 1])
      }).pipe(Effect.provide(context))
    })
  )
})

describe("processes that do not agree who runs a shard", () => {
  it.live("handle each event once: two believe for ever that all shards are theirs", () =>
    Effect.gen(function* () {
      const { context, counting, exact, round } = yield* serve
      yield* Effect.gen(function* () {
        const both = yield* SubscriptionRef.make<ReadonlyArray<number>>(allOf(4))
        for (const process of ["one", "other"]) {
          yield* elsewhere(Effect.forkScoped(runBy(both)(counting("claimed twice", 4, process))))
        }
        yield* Effect.repeat(round("claimed twice"), { times: 20 })
        yield* exact
      }).pipe(Effect.provide(context))
    })
  )

  it.live("of the version before and of this one handle each event once, and the new ones take over", () =>
    Effect.gen(function* () {
      const { context, counting, exact, round } = yield* serve
      const name = "deployed"
      const former = (process: string) =>
        Effect.gen(function* () {
          const { keep, own } = yield* formerDivision(name, 4, heartbeat)
          return yield* Effect.raceFirst(keep, runBy(own)(counting(name, 4, process)))
        })
      const present = (process: string) => Projection.run(counting(name, 4, process))
      yield* Effect.gen(function* () {
        const first = yield* elsewhere(Effect.forkScoped(former("old 1")))
        const second = yield* elsewhere(Effect.forkScoped(former("old 2")))
        yield* Effect.repeat(round(name), { until: (by) => by === "old 1,old 2" })
        yield* elsewhere(Effect.forkScoped(present("new 1")))
        yield* Effect.repeat(round(name), { times: 5 })
        yield* exact
        // It is killed: nothing removes it from the record but the silence of its beat.
        yield* Fiber.interrupt(first)
        yield* Effect.repeat(round(name), { until: (by) => by === "old 2" })
        yield* elsewhere(Effect.forkScoped(present("new 2")))
        yield* Fiber.interrupt(second)
        yield* Effect.repeat(round(name), { until: (by) => by === "new 1,new 2" })
        yield* exact
        // The version before is started again, as where a deploy is taken back.
        const back = yield* elsewhere(Effect.forkScoped(former("old 3")))
        yield* Effect.repeat(round(name), { until: (by) => by === "old 3" })
        yield* Fiber.interrupt(back)
        yield* Effect.repeat(round(name), { until: (by) => by === "new 1,new 2" })
        yield* exact
      }).pipe(Effect.provide(context))
    })
  )

  it.live("and offer different projections, run each of them where it is offered", () =>
    Effect.gen(function* () {
      const { context, counting, exact, round } = yield* serve
      yield* Effect.gen(function* () {
        const offsets = yield* OffsetStore.OffsetStore
        yield* elsewhere(Effect.forkScoped(Projection.runAll([counting("common", 4, "general")])))
        yield* elsewhere(
          Effect.forkScoped(
            Projection.runAll([
              counting("common", 4, "special"),
              Projection.make({ name: "rare", shards: 4, heartbeat, handler: () => Effect.void })
            ])
          )
        )
        yield* Effect.repeat(round("common"), { until: (by) => by === "general" })
        const { latestVersion } = yield* EventStore.EventStore
        yield* untilHandled("rare", yield* latestVersion)
        assert.lengthOf(yield* Stream.runCollect(offsets.listOffsets("rare")), 4)
        yield* exact
      }).pipe(Effect.provide(context))
    })
  )
})
