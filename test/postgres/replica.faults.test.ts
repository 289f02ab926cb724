/**
 * Readers of a standby that lags, stops, comes back and is promoted get exactly the log, in order, while writers on the primary
 * overlap and roll back. `EVENTS=1000000 npx vitest run --project faults test/postgres/replica.faults.test.ts` has more of them.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Redacted, Ref, Schedule, Stream } from "effect"
import { type EventStore, Projection } from "effect-strata"
import { randomInt } from "node:crypto"
import { connect } from "node:net"
import { mistakes, none } from "../support/histories.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { standbyOf } from "../support/Replicas.ts"
import { event, follow, serveEvents, type ServedEvents, versionsIn } from "./events.harness.ts"
import { execute, query } from "./harness.ts"
import { replicaOf } from "./replica.harness.ts"

const total = Number(process.env["EVENTS"] ?? 100_000)

const oneIn = (count: number) => randomInt(count) === 0

/** Some transactions are open for so long that a mark is published, replayed and read meanwhile. */
const pause = Effect.suspend(() =>
  oneIn(8) ? Effect.sleep(randomInt(200)) : oneIn(3) ? Effect.sleep(randomInt(6)) : Effect.void
)

/** Transactions that overlap: each draws versions twice, with a pause between, and in 15 of 100 cases is rolled back. */
const transaction = ({ events, withTransaction }: ServedEvents, aggregateId: string) =>
  withTransaction(
    Effect.gen(function* () {
      yield* events.append(Array.from({ length: randomInt(1, 30) }, () => event(aggregateId)))
      yield* pause
      yield* events.append(Array.from({ length: randomInt(1, 30) }, () => event(aggregateId)))
      yield* pause
      if (randomInt(100) < 15) return yield* Effect.fail("rolled back")
      return
    })
  ).pipe(Effect.exit)

/** Writes with twelve writers until there are so many events. */
const write = Effect.fnUntraced(function* (served: ServedEvents, url: string, count: number) {
  let isDone = false
  const watch = Effect.gen(function* () {
    while (!isDone) {
      yield* Effect.sleep("100 millis")
      const [row] = yield* query(`SELECT count(*)::int FROM ${served.table}`, url)
      isDone = Number(row?.[0]) >= count
    }
  })
  const again = (number: number) =>
    Effect.whileLoop({ while: () => !isDone, body: () => transaction(served, `a${number}`), step: () => {} })
  yield* Effect.all([watch, ...Array.from({ length: 12 }, (_, number) => again(number))], {
    concurrency: "unbounded",
    discard: true
  })
})

/** Asks again what a database that is gone for a while has failed with. */
const untilDone = <A, E>(effect: Effect.Effect<A, E>) => Effect.retry(effect, Schedule.spaced("100 millis"))

/** Reads by the store again and again from where it is, until it has the last event, once the writers have ended. */
const polling = (
  events: EventStore.EventStore["Service"],
  end: () => bigint | undefined,
  options: EventStore.ReadOptions & { readonly batchSize?: number }
) =>
  Effect.gen(function* () {
    const seen: Array<bigint> = []
    while ((seen.at(-1) ?? 0n) < (end() ?? 2n ** 63n)) {
      yield* untilDone(
        Stream.runForEachArray(
          Stream.suspend(() => events.read({ after: seen.at(-1) ?? 0n, ...options })),
          (page) =>
            Effect.sync(() => {
              for (const { version } of page) seen.push(version)
            })
        )
      )
      yield* Effect.sleep(randomInt(20))
    }
    return seen
  })

/** Follows from the start with a new subscription, again and again, until the writers have ended. */
const catchingUp = (replica: { readonly events: EventStore.EventStore["Service"] }, end: () => bigint | undefined) =>
  Effect.gen(function* () {
    const histories: Array<ReadonlyArray<bigint>> = []
    while (end() === undefined) {
      const [row] = yield* untilDone(replica.events.latestVersion.pipe(Effect.map((version) => [version])))
      const seen: Array<bigint> = []
      yield* replica.events.follow({ after: "start", batchSize: 500 }).pipe(
        Stream.takeUntil(({ upTo }) => upTo.version >= (row ?? 0n)),
        Stream.runForEach(({ events }) =>
          Effect.sync(() => {
            for (const { version } of events) seen.push(version)
          })
        )
      )
      histories.push(seen)
    }
    return histories
  })

describe("readers of a standby", () => {
  it.live(
    "lose nothing, get nothing twice and nothing out of order under lag, stops, restarts and a promotion",
    () =>
      Effect.gen(function* () {
        const primary = yield* PostgresServer.make()
        let port = primary.port
        const served = yield* serveEvents({
          url: primary.url,
          client: { maxConnections: 24, stream: () => connect(port, "127.0.0.1") },
          options: { schema: "public" }
        })
        const standby = yield* standbyOf(primary, { max_standby_streaming_delay: "100ms" })
        const other = yield* standbyOf(primary)
        let turn = 0
        // A pool of two standbys, one of which lags behind the other.
        const replica = yield* replicaOf(
          served,
          {
            maxConnections: 10,
            stream: () => connect(turn++ % 2 === 0 ? standby.port : other.port, "127.0.0.1"),
            username: "postgres",
            password: Redacted.make(new URL(primary.url).password),
            database: "postgres"
          },
          { wait: "300 millis" }
        )
        const isWritten = yield* Ref.make(false)
        let last: bigint | undefined
        const settledCount = yield* Ref.make(0)

        const projection = Projection.make({
          name: "copy",
          handler: () => Ref.update(settledCount, (count) => count + 1)
        })
        const running = yield* Projection.run(projection).pipe(
          Effect.provide(replica.context),
          replica.watched,
          Effect.forkScoped
        )
        const subscribers = [
          yield* follow(replica, { after: "start" }),
          yield* follow(replica, { after: "end", batchSize: 7 }),
          yield* follow(replica, { after: "start", eventTypes: ["Happened"] })
        ] as const

        const trouble = Effect.gen(function* () {
          while (!(yield* Ref.get(isWritten))) {
            const which = oneIn(2) ? standby : other
            yield* Effect.ignore(execute(["SELECT pg_wal_replay_pause()"], which.url))
            yield* Effect.sleep(randomInt(50, 800))
            yield* Effect.ignore(execute(["SELECT pg_wal_replay_resume()"], which.url))
            yield* Effect.sleep(randomInt(50, 400))
            if (oneIn(5)) {
              yield* which.stop(oneIn(2) ? "fast" : "immediate")
              yield* Effect.sleep(randomInt(500))
              yield* which.start
            }
            // What readers of the standby see must go away: it is in the way of their statements.
            if (oneIn(4)) {
              yield* Effect.ignore(
                execute([`DELETE FROM public.strata_migrations WHERE false`, "VACUUM public.events_mark"], primary.url)
              )
            }
          }
        })
        const troubled = yield* Effect.forkScoped(trouble)
        const readers = yield* Effect.forkScoped(
          Effect.all(
            [
              polling(replica.events, () => last, {}),
              polling(replica.events, () => last, { batchSize: 100, wait: "10 millis" }),
              catchingUp(replica, () => last)
            ],
            { concurrency: "unbounded" }
          )
        )
        yield* write(served, primary.url, Math.floor(total * 0.8))

        // The primary goes, and a standby that has all of it takes its place.
        yield* Ref.set(isWritten, true)
        yield* Fiber.join(troubled)
        for (const { url } of [standby, other]) {
          yield* execute(["SELECT pg_wal_replay_resume()"], url)
        }
        // A standby that has just come back follows again before that: else the primary sends it nothing as it stops.
        yield* Effect.repeat(query("SELECT FROM pg_stat_replication WHERE state = 'streaming'", primary.url), {
          until: ({ length }) => length === 2
        })
        yield* primary.stop("fast")
        yield* Effect.repeat(query("SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()", other.url), {
          until: ([row]) => row?.[0] === true
        })
        yield* standby.stop("fast")
        yield* execute(["SELECT pg_promote()"], other.url)
        port = other.port
        yield* untilDone(served.events.latestVersion)
        yield* write(served, other.url, total)
        const stored = yield* versionsIn("public.events", "true", other.url)
        last = stored.at(-1)
        const [one, two, caughtUp] = yield* Fiber.join(readers)
        const holes = Number(stored.at(-1)) - stored.length
        assert.isAtLeast(stored.length, total)
        assert.isAbove(holes, total / 20)
        for (const seen of [one, two]) assert.deepStrictEqual(mistakes(seen, stored), none)
        for (const seen of caughtUp) {
          const last = seen.at(-1) ?? 0n
          assert.deepStrictEqual(
            mistakes(
              seen,
              stored.filter((version) => version <= last)
            ),
            none
          )
        }
        for (const { seen, until } of subscribers) {
          yield* until(stored.at(-1) ?? 0n)
          const [first = 0n] = seen
          assert.deepStrictEqual(
            mistakes(
              seen,
              stored.filter((version) => version >= first)
            ),
            none
          )
        }
        yield* Effect.repeat(Effect.andThen(Effect.sleep("100 millis"), Ref.get(settledCount)), {
          until: (count) => count >= stored.length
        })
        assert.strictEqual(yield* Ref.get(settledCount), stored.length)
        assert.isUndefined(running.pollUnsafe())
      }),
    { timeout: 3_600_000 }
  )
})
