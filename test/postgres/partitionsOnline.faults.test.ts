/** A large table is divided into partitions beside writers of every kind, by a process that is killed at each of its steps. */
import { assert, describe, it } from "@effect/vitest"
import { Console, Effect, Fiber, Result } from "effect"
import { randomInt } from "node:crypto"
import * as Races from "../chaos/races.ts"
import { scratchDatabase } from "../support/database.ts"
import { fillStatements, goSyncKitOf } from "../support/largeLogs.ts"
import { dividedTo, dividedToReader, dividing, ends } from "./dividing.harness.ts"
import { event, follow, plainInsert, serveEvents, type ServedEvents, session, versionsIn } from "./events.harness.ts"
import { execute, migrate, query } from "./harness.ts"

const eventCount = 100_000

/** Kills a process that divides the table, once it has come so far. */
const killedAt = <E, R>(step: string, reached: Effect.Effect<{ readonly kill: Effect.Effect<void> }, E, R>) =>
  Effect.gen(function* () {
    yield* (yield* reached).kill
    yield* Console.log(`killed once ${step}`)
  }).pipe(Effect.scoped)

/** Repeats what a writer does until all is done, and keeps the longest time that it took. */
const repeated = <E, R>(isDone: () => boolean, write: (number: number) => Effect.Effect<unknown, E, R>) => {
  let number = 0
  let longestMillis = 0
  const run = Effect.whileLoop({
    while: () => !isDone(),
    body: () =>
      Effect.suspend(() => {
        const start = performance.now()
        return Effect.map(write(number++), () => performance.now() - start)
      }),
    step: (millis) => void (longestMillis = Math.max(longestMillis, millis))
  })
  return { run, longest: () => Math.ceil(longestMillis) }
}

/** Counts up in one of some aggregates, by what it expects of it. */
const count = ({ events }: ServedEvents) =>
  Effect.gen(function* () {
    const aggregateId = `counter ${randomInt(20)}`
    const history = yield* events.loadByAggregate(aggregateId)
    const counted = yield* Effect.result(
      events.append(
        { aggregateId, eventType: "Counted", data: { count: history.length + 1 } },
        { expected: history.at(-1)?.version ?? "none" }
      )
    )
    if (Result.isFailure(counted)) assert.strictEqual(counted.failure._tag, "VersionConflict")
  })

const origins = [
  {
    name: "ours",
    make: (url: string) =>
      Effect.andThen(migrate(url, { schema: "public" }), execute(fillStatements("public.events", eventCount), url))
  },
  {
    name: "go-sync-kit's",
    make: (url: string) => Effect.andThen(goSyncKitOf(url, eventCount), migrate(url, { schema: "public" }))
  }
]

describe("a table of 100,000 events", () => {
  for (const { make, name } of origins) {
    it.live(`is divided beside writers, subscribers and decisions, by the fourth process: ${name}`, () =>
      Effect.gen(function* () {
        const url = yield* scratchDatabase()
        yield* make(url)
        const [one, other] = [
          yield* serveEvents({ url, options: { schema: "public" } }),
          yield* serveEvents({ url, options: { schema: "public" } })
        ]
        const reader = yield* follow(one, { after: "start" })
        const tail = yield* follow(other, { after: "start" })
        let isDone = false
        const sessions = yield* Effect.forEach([1, 2], () => session(url))
        const writers = [
          ...sessions.map((run, index) =>
            repeated(
              () => isDone,
              (number) => run(plainInsert("public.events", `plain ${index} ${number}`))
            )
          ),
          ...[one, other].map((stores) =>
            repeated(
              () => isDone,
              () => count(stores)
            )
          ),
          ...[one, other].map(({ events }, index) =>
            repeated(
              () => isDone,
              (number) => events.append([event("many", `own ${index} ${number}`), event("many")])
            )
          ),
          ...[one, other].map(({ events, withTransaction }) =>
            repeated(
              () => isDone,
              () =>
                Effect.result(
                  withTransaction(
                    Effect.andThen(events.append(event("few")), randomInt(3) === 0 ? Effect.fail("no") : Effect.void)
                  )
                )
            )
          )
        ]
        const writing = yield* Effect.forkScoped(
          Effect.all(
            writers.map(({ run }) => run),
            { concurrency: "unbounded", discard: true }
          )
        )
        // Decisions of two other processes, whose layers know only the plain table when they begin.
        const racing = yield* Effect.forkScoped(
          Races.run({ url, schema: "public", races: 200, racesAtOnce: 2, decisions: 2000, say: () => Effect.void })
        )
        const isAlive = Effect.andThen(Fiber.join(writing), Effect.die("the writers have ended"))
        const divide = Effect.gen(function* () {
          yield* killedAt("ids were gathered", dividedTo(url, ends.gathering, ends.gathered))
          yield* killedAt("the limit was set", dividedTo(url, ends.limited))
          // This process waits for a reader, again and again, and writers pass it.
          yield* killedAt("it waited for the table", dividedToReader(url))
          assert.strictEqual(yield* Effect.flatMap(dividing(url), ({ ended }) => ended), 0)
        })
        yield* Effect.raceFirst(divide, isAlive)
        assert.deepStrictEqual(
          yield* query("SELECT relkind::text FROM pg_class WHERE oid = 'public.events'::regclass", url),
          [["p"]]
        )
        const isRacing = racing.pollUnsafe() === undefined
        isDone = true
        yield* Fiber.join(writing)
        for (const { about, found, wrong } of yield* Fiber.join(racing)) {
          assert.deepStrictEqual(wrong, [], `${about}: ${found}`)
        }
        yield* Console.log(`decisions ${isRacing ? "were" : "were no longer"} made when it was divided`)
        yield* Console.log(
          `the longest waits of ${name}: ${writers.map(({ longest }) => `${longest()} ms`).join(", ")}`
        )
        const versions = yield* versionsIn("public.events", "true", url)
        for (const { seen, until } of [reader, tail]) {
          yield* until(versions.at(-1) ?? 0n)
          assert.deepStrictEqual(seen, versions)
        }
        assert.deepStrictEqual(
          yield* query(
            `SELECT count(*)::int FROM events FULL JOIN events_ids USING (id, version) WHERE event_type IS NULL OR events_ids.id IS NULL`,
            url
          ),
          [[0]]
        )
        // No count was lost, and none was made twice.
        assert.deepStrictEqual(
          yield* query(
            `SELECT aggregate_id, version FROM (
               SELECT aggregate_id, version, (data ->> 'count')::bigint AS counted,
                 row_number() OVER (PARTITION BY aggregate_id ORDER BY version) AS place
               FROM events WHERE event_type = 'Counted'
             ) AS counts WHERE counted <> place`,
            url
          ),
          []
        )
      }).pipe(Effect.scoped)
    )
  }
})
