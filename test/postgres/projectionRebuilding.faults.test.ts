/** A read model that is built anew while its database goes away: the rebuild goes on by itself, and completes it. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Duration, Effect, Fiber, Layer, Logger, Option, Redacted, Schedule, Stream } from "effect"
import { EventStore, Projection } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { untilHandled } from "../../src/testing/ProjectionScene.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { execute } from "./harness.ts"

const aggregates = 50
const count = 5000

/** A server of its own with a log, a read model in two copies, and the projection that keeps it. */
const scene = Effect.gen(function* () {
  const server = yield* PostgresServer.make()
  const applicationName = "rebuilding"
  const pool = PgClient.layer({ url: Redacted.make(server.url), applicationName, maxConnections: 10 })
  // The listening connection gives up soon: the rebuild goes on without wake-ups.
  const reconnect = Schedule.recurs(1)
  const context = yield* Layer.build(Layer.provideMerge(Postgres.layer({ reconnect }), pool)).pipe(
    Effect.provide(Logger.layer([]))
  )
  const sql = Context.get(context, PgClient.PgClient)
  const events = Context.get(context, EventStore.EventStore)
  yield* sql`CREATE TABLE model (slot text, id text, sum bigint NOT NULL, count bigint NOT NULL, PRIMARY KEY (slot, id))`
  const numbers = Array.from({ length: count }, (_, number) => number)
  yield* events.append(numbers.map((data) => ({ aggregateId: `a${data % aggregates}`, eventType: "Added", data })))
  /** Runs before an event is handled. */
  const before: { event: (number: number) => Effect.Effect<unknown> } = { event: () => Effect.void }
  const projection = Projection.make({
    name: "sums",
    shards: 2,
    batchSize: 10,
    // On a busy machine a process that says more often that it lives is late, and taken for dead.
    heartbeat: "1 second",
    handler: ({ aggregateId, data }, slot) =>
      Effect.andThen(
        before.event(Number(data)),
        sql`
          INSERT INTO model VALUES (${slot}, ${aggregateId}, ${Number(data)}, 1)
          ON CONFLICT (slot, id) DO UPDATE SET sum = model.sum + excluded.sum, count = model.count + 1`
      )
  })
  const clear = (slot: Projection.Slot) => sql`DELETE FROM model WHERE slot = ${slot}`
  const assertExact = Effect.fnUntraced(function* (slot: Projection.Slot) {
    assert.strictEqual(yield* Projection.slot("sums"), slot)
    const wrong = yield* sql`
      SELECT id FROM (SELECT * FROM model WHERE slot = ${slot}) AS model FULL JOIN (
        SELECT aggregate_id AS id, sum(data::text::bigint), count(*) FROM events GROUP BY 1
      ) AS log USING (id)
      WHERE model.sum IS DISTINCT FROM log.sum OR model.count IS DISTINCT FROM log.count`
    assert.deepStrictEqual(wrong, [])
  })
  /** An outage that is long enough for every connection to notice. */
  const outage = (stop: Effect.Effect<void, PostgresServer.PostgresServerError>) =>
    Effect.andThen(stop, Effect.andThen(Effect.sleep("2500 millis"), server.start))
  const killAll = execute(
    [`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '${applicationName}'`],
    server.url
  )
  return { assertExact, before, clear, context, killAll, outage, projection, server }
})

/** Follows the progress, which never goes back, and returns the number of its steps. */
const watch = <E, R, R2>(
  rebuild: Stream.Stream<Projection.Progress, E, R>,
  onProgress: (share: number) => Effect.Effect<unknown, unknown, R2>
) =>
  Effect.gen(function* () {
    const seen: Array<Projection.Progress> = []
    yield* Stream.runForEach(rebuild, (progress) => {
      seen.push(progress)
      return onProgress(Number(progress.done) / Number(progress.total))
    })
    const done = seen.map((progress) => progress.done)
    assert.deepStrictEqual(
      done,
      [...new Set(done)].sort((a, b) => (a < b ? -1 : 1))
    )
    assert.strictEqual(seen.at(-1)?.done, BigInt(count))
    // At some step before the last there is a rate, and so a time that is left.
    const isOnTheWay = ({ rate, remaining }: Projection.Progress) =>
      rate > 0 && Option.exists(remaining, (left) => Duration.isGreaterThan(left, Duration.zero))
    assert.isTrue(seen.some(isOnTheWay))
    return done.length
  })

// These run at the same time, as they mostly wait for servers.
describe.concurrent("a rebuild goes on by itself", () => {
  it.live.each(["beside", "in place"] as const)(
    "when connections are killed, and the server is stopped and crashes: %s",
    (mode) =>
      Effect.gen(function* () {
        const { assertExact, before, clear, context, killAll, outage, projection, server } = yield* scene
        yield* Effect.gen(function* () {
          yield* Effect.forkScoped(Projection.run(projection))
          yield* untilHandled("sums", BigInt(count))
          const faults = [
            [0.1, killAll],
            [0.3, outage(server.stop("immediate"))],
            [0.5, killAll],
            [0.6, outage(server.kill)]
          ] as const
          let injected = 0
          before.event = (number) => {
            const next = faults[injected]
            if (next === undefined || number < next[0] * count) return Effect.void
            injected++
            // The fault runs in a fiber of its own, so that it happens while this event, and those after it, are handled.
            return Effect.forkDetach(next[1], { startImmediately: true })
          }
          // The server is not there as the rebuild begins, either.
          yield* server.stop("fast")
          yield* Effect.forkScoped(Effect.delay(server.start, "1 second"))
          const steps = yield* watch(Projection.rebuild(projection, { mode, clear }), () => Effect.void)
          assert.isAbove(steps, 4)
          assert.strictEqual(injected, faults.length)
          yield* assertExact(mode === "beside" ? "green" : "blue")
        }).pipe(Effect.provide(context), Effect.provide(Logger.layer([])))
      }),
    { timeout: 600_000 }
  )

  it.live(
    "when the server is not there as it begins, and as the copies are to be switched",
    () =>
      Effect.gen(function* () {
        const { assertExact, clear, context, outage, projection, server } = yield* scene
        yield* Effect.gen(function* () {
          yield* Effect.forkScoped(Projection.run(projection))
          yield* untilHandled("sums", BigInt(count))
          const built = yield* Deferred.make<void>()
          const shadow = Projection.rebuildOf("sums")
          yield* server.stop("fast")
          const rebuilding = yield* Effect.forkScoped(
            watch(Projection.rebuild(projection, { mode: "beside", clear }), (share) =>
              share < 1
                ? Effect.void
                : Effect.gen(function* () {
                    // The other copy has not handled this event when it is to take the place of the live one.
                    yield* Projection.pause(shadow)
                    const events = yield* EventStore.EventStore
                    const [last] = yield* events.append({ aggregateId: "a0", eventType: "Added", data: 7 })
                    yield* untilHandled("sums", last?.version ?? 0n)
                    yield* Deferred.succeed(built, undefined)
                  })
            )
          )
          yield* Effect.sleep("1 second")
          assert.isUndefined(rebuilding.pollUnsafe())
          yield* server.start
          yield* Effect.raceFirst(Deferred.await(built), Fiber.join(rebuilding))
          yield* outage(server.stop("immediate"))
          yield* Effect.retry(Projection.resume(shadow), { schedule: Schedule.spaced("100 millis") })
          yield* Fiber.join(rebuilding)
          yield* assertExact("green")
        }).pipe(Effect.provide(context), Effect.provide(Logger.layer([])))
      }),
    { timeout: 600_000 }
  )
})
