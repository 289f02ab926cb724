/** How soon a subscription gives what was committed while things go wrong, beside a reader of sixty lines. Neither loses any. */
import { PgClient } from "@effect/sql-pg"
import { Context, Deferred, Effect, Fiber, Layer, Redacted, References, Result, Schedule, Stream } from "effect"
import type { Scope } from "effect"
import { EventStore, Transactor } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import * as PostgresServer from "../support/PostgresServer.ts"
import * as Proxy from "../support/Proxy.ts"
import { event } from "./events.ts"
import { type Latency, now, seeded } from "./harness.ts"
import * as SixtyLines from "./sixtyLines.ts"

export const schema = "stress"
const follower = "stress-follower"

/** The stores of a process of its own: the writers' are not those that are put under stress. */
export const storesAt = (url: string, applicationName: string) =>
  Layer.build(
    Layer.fresh(
      Layer.provideMerge(
        Postgres.layer({ schema }),
        PgClient.layer({ url: Redacted.make(url), applicationName, maxConnections: 20 })
      )
    )
  )

/** What a stress may do. */
interface Scene {
  readonly server: PostgresServer.PostgresServer
  readonly proxy: Proxy.Proxy
  readonly sql: PgClient.PgClient
  /** Appends an event, and notes when it was committed. Whoever holds it does so between the append and the commit. */
  readonly commit: (hold?: Effect.Effect<unknown, unknown>) => Effect.Effect<void>
}

/** Does something again and again for some milliseconds. */
const during = <E, R>(millis: number, effect: Effect.Effect<unknown, E, R>) =>
  Effect.gen(function* () {
    const end = (yield* now) + millis
    while ((yield* now) < end) yield* effect
  })

const writers = (count: number, millis: number, write: Effect.Effect<unknown>) =>
  Effect.all(
    Array.from({ length: count }, () => during(millis, write)),
    { concurrency: "unbounded", discard: true }
  )

/** One of them at a time, and not too fast: the latency is what is measured. */
const trickle = ({ commit }: Scene) => Effect.andThen(commit(), Effect.sleep("10 millis"))

const stress = (
  name: string,
  conditions: string,
  run: (scene: Scene) => Effect.Effect<unknown, unknown, Scope.Scope>
): Latency => ({
  name: `stress/${name}`,
  otherName: "reader of sixty lines",
  conditions,
  round: Effect.gen(function* () {
    const server = yield* PostgresServer.make()
    const proxy = yield* Proxy.make({ host: "127.0.0.1", port: server.port })
    const writing = yield* storesAt(server.url, "stress-writer")
    const [events, { withTransaction }] = [
      Context.get(writing, EventStore.EventStore),
      Context.get(writing, Transactor.Transactor)
    ]
    const following = Context.get(yield* storesAt(proxy.url(server.url), follower), EventStore.EventStore)
    const committed = new Map<string, number>()
    const seen = { strata: new Map<string, number>(), other: new Map<string, number>() }
    const last = crypto.randomUUID()
    const ends = { strata: yield* Deferred.make<void>(), other: yield* Deferred.make<void>() }
    const tell = (side: "other" | "strata") => (id: string) => {
      seen[side].set(id, performance.now())
      if (id === last) Deferred.doneUnsafe(ends[side], Effect.void)
    }
    yield* following.subscribe({ after: "start" }).pipe(
      Stream.runForEach(({ id }) => Effect.sync(() => tell("strata")(id))),
      Effect.forkScoped
    )
    yield* Effect.forkScoped(SixtyLines.read(proxy.url(server.url), schema, tell("other")))

    const commit = (hold: Effect.Effect<unknown, unknown> = Effect.void) =>
      Effect.gen(function* () {
        const id = crypto.randomUUID()
        const done = yield* Effect.result(withTransaction(Effect.andThen(events.append({ ...event(0), id }), hold)))
        if (Result.isSuccess(done)) committed.set(id, performance.now())
        // The server may be away.
        else yield* Effect.sleep("1 millis")
      })
    yield* run({ server, proxy, sql: Context.get(writing, PgClient.PgClient), commit })
    yield* Effect.retry(events.append({ ...event(0), id: last }, { onDuplicate: "ignore" }), {
      schedule: Schedule.spaced("50 millis")
    })
    yield* Effect.all([Deferred.await(ends.strata), Deferred.await(ends.other)])
    const latencies = (side: ReadonlyMap<string, number>) =>
      [...committed].flatMap(([id, at]) => {
        const then = side.get(id)
        return then === undefined ? [] : [then - at]
      })
    return { strata: latencies(seen.strata), other: latencies(seen.other) }
  }).pipe(
    // What goes wrong is meant to.
    Effect.provideService(References.MinimumLogLevel, "None")
  )
})

const storm = (scene: Scene) => {
  const random = seeded(7)
  const write = Effect.suspend(() => {
    const rest = Effect.sleep(random() * 20)
    return scene.commit(random() < 0.15 ? Effect.andThen(rest, Effect.fail("rolled back")) : rest)
  })
  return writers(16, 3_000, write)
}

const holder = Effect.fnUntraced(function* (scene: Scene) {
  const holding = yield* Effect.forkScoped(scene.commit(Effect.sleep("2 seconds")))
  yield* writers(4, 3_000, trickle(scene))
  yield* Fiber.join(holding)
})

const killing = Effect.fnUntraced(function* (scene: Scene) {
  const { sql } = scene
  const names = [follower, SixtyLines.applicationName]
  const kill = sql`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE ${sql.in("application_name", names)}`
  const killer = yield* Effect.forkScoped(Effect.forever(Effect.andThen(kill, Effect.sleep("100 millis"))))
  yield* writers(4, 4_000, trickle(scene))
  yield* Fiber.interrupt(killer)
})

const stopping = Effect.fnUntraced(function* (scene: Scene) {
  const writing = yield* Effect.forkScoped(writers(4, 5_000, trickle(scene)))
  for (let turn = 0; turn < 2; turn++) {
    yield* Effect.sleep("1 second")
    yield* scene.server.restart("immediate")
  }
  yield* Fiber.join(writing)
})

const silence = Effect.fnUntraced(function* (scene: Scene) {
  const random = seeded(11)
  const { blackhole, delay } = scene.proxy
  const shaking = yield* Effect.forkScoped(
    Effect.forever(
      Effect.andThen(
        Effect.suspend(() => delay(random() * 25)),
        Effect.sleep("20 millis")
      )
    )
  )
  const writing = yield* Effect.forkScoped(writers(4, 6_000, trickle(scene)))
  yield* Effect.sleep("2 seconds")
  yield* blackhole
  yield* Fiber.join(writing)
  yield* Fiber.interrupt(shaking)
})

const deadVersions = Effect.fnUntraced(function* (scene: Scene) {
  const { sql } = scene
  const burn = sql`
    INSERT INTO ${sql(schema)}.events (id, aggregate_id, event_type, data, metadata)
    SELECT gen_random_uuid(), 'dead', 'Never', 'null', 'null' FROM generate_series(1, 5000)`
  for (let turn = 0; turn < 5; turn++) {
    yield* Effect.ignore(sql.withTransaction(Effect.andThen(burn, Effect.fail("rolled back"))))
    yield* writers(4, 200, trickle(scene))
  }
})

export const latencies: ReadonlyArray<Latency> = [
  stress("storm", "from the commit, 16 writers without pause, 15% rolled back", storm),
  stress("idle-holder", "from the commit, 4 writers, a transaction that is idle for 2 seconds holds a version", holder),
  stress(
    "killed-connections",
    "from the commit, 4 writers, all connections of the readers killed each 100 ms",
    killing
  ),
  stress("stopped-server", "from the commit, 4 writers, the server stopped at once, twice", stopping),
  stress("slow-then-silent", "from the commit, 4 writers, up to 25 ms on each packet, then silence", silence),
  stress("dead-versions", "from the commit, 4 writers, 5,000 versions rolled back, five times", deadVersions)
]
