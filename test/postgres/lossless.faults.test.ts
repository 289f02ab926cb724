/**
 * Readers that keep up with a storm of writers of every kind see each event once, in order. A reader that does not ask for
 * holes loses events in the same storm, so the test can find a loss.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Predicate, type Scope, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import { randomInt } from "node:crypto"
import { temporaryDirectory } from "../cli/harness.ts"
import { mistakes, none } from "../support/histories.ts"
import { event, follow, serveEvents, type ServedEvents, session, versionsIn } from "./events.harness.ts"
import { execute, query, type Settings } from "./harness.ts"

const pause = Effect.suspend(() => {
  const kind = randomInt(10)
  return kind < 5 ? Effect.void : kind < 9 ? Effect.yieldNow : Effect.sleep(randomInt(8))
})

const oneIn = (count: number) => randomInt(count) === 0

const batchOf = (aggregateId: string) => Array.from({ length: randomInt(1, 30) }, () => event(aggregateId))

/** How a write has ended. */
const outcome = <A>(kind: string, write: Effect.Effect<A, unknown>) =>
  Effect.match(write, { onSuccess: () => `${kind}: written`, onFailure: (error) => `${kind}: ${tagOf(error)}` })

const tagOf = (error: unknown) => (Predicate.hasProperty(error, "_tag") ? String(error._tag) : String(error))

/** A transaction with pauses, savepoints of which some are rolled back, and in one of five cases a rollback. */
const transaction = ({ events, withTransaction }: ServedEvents, aggregateId: string) =>
  outcome(
    "transaction",
    withTransaction(
      Effect.gen(function* () {
        yield* pause
        yield* events.append(batchOf(aggregateId))
        yield* pause
        if (oneIn(4)) {
          const inner = Effect.andThen(events.append(batchOf(aggregateId)), oneIn(2) ? Effect.fail("inner") : pause)
          yield* Effect.exit(withTransaction(inner))
          yield* events.append(event(aggregateId))
        }
        if (oneIn(5)) return yield* Effect.fail("rolled back")
        return
      })
    )
  )

/** Appends that expect something of an aggregate that others append to as well: some of them conflict. */
const expecting = ({ events }: ServedEvents) =>
  outcome(
    "expecting",
    Effect.gen(function* () {
      const [last] = yield* Stream.runCollect(
        events.read({ aggregateIds: ["shared"], direction: "backward", limit: 1 })
      )
      yield* pause
      yield* events.append(event("shared"), { expected: last?.version ?? "none" })
    })
  )

/** What programs without this library do: several rows in one statement, savepoints, two phases, rollbacks. */
const plain = Effect.fnUntraced(function* (table: string, number: number) {
  const run = yield* session()
  const gid = `${table} ${number}`
  // A prepared transaction that is left behind would keep its schema from being dropped.
  yield* Effect.addFinalizer(() => Effect.ignore(execute([`ROLLBACK PREPARED '${gid}'`])))
  const insert = (count: number) =>
    run(`INSERT INTO ${table} (id, aggregate_id, event_type, data)
      SELECT gen_random_uuid(), 'plain ${number}', 'Plain', '{}' FROM generate_series(1, ${count})`)
  return Effect.gen(function* () {
    yield* run("BEGIN")
    yield* insert(randomInt(1, 20))
    yield* pause
    if (oneIn(3)) {
      yield* run("SAVEPOINT part")
      yield* insert(3)
      yield* run("ROLLBACK TO part")
      yield* insert(1)
    }
    const end = oneIn(5) ? "ROLLBACK" : "COMMIT"
    const phases = oneIn(3) ? [`PREPARE TRANSACTION '${gid}'`, `${end} PREPARED '${gid}'`] : [end]
    for (const statement of phases) {
      yield* run(statement)
      yield* pause
    }
    return phases.length === 2 ? `plain, in two phases: ${end}` : `plain: ${end}`
  })
})

const everyOutcome = [
  "expecting: VersionConflict",
  "expecting: written",
  "plain, in two phases: COMMIT",
  "plain, in two phases: ROLLBACK",
  "plain: COMMIT",
  "plain: ROLLBACK",
  "transaction: rolled back",
  "transaction: written"
]

/** Runs writers of every kind at once until the table has so many events. */
const storm = Effect.fnUntraced(function* (served: ServedEvents, total: bigint) {
  const { events, schema, table } = served
  yield* execute([`CREATE TABLE ${schema}.unrelated (id INT)`])
  const long = yield* session()
  yield* long("BEGIN")
  yield* long(`INSERT INTO ${schema}.unrelated VALUES (1)`)
  yield* events.append(event("shared"))
  let last = 0n
  const outcomes = new Set<string>()
  const again = <E>(write: Effect.Effect<string, E>) =>
    Effect.whileLoop({ while: () => last < total, body: () => write, step: (end) => void outcomes.add(end) })
  const numbers = (count: number) => Array.from({ length: count }, (_, number) => number)
  const plains = yield* Effect.forEach(numbers(4), (number) => plain(table, number))
  const watch = Effect.gen(function* () {
    while (last < total) {
      yield* Effect.sleep(50)
      const [row] = yield* query(
        `SELECT (SELECT count(*) FROM ${table}) + (SELECT coalesce(sum(events), 0) FROM ${table}_archives)`
      )
      last = BigInt(Number(row?.[0]))
    }
  })
  const writers = yield* Effect.forkScoped(
    Effect.all(
      [
        watch,
        ...numbers(12).map((number) => again(transaction(served, `aggregate ${number}`))),
        ...numbers(4).map(() => again(expecting(served))),
        ...plains.map(again)
      ],
      { concurrency: "unbounded", discard: true }
    )
  )
  return { writers, outcomes }
})

/** Reads again and again the events after the last one that it has, until the writers have ended and it finds no more. */
const polling = <E>(
  writers: Fiber.Fiber<unknown, unknown>,
  next: (cursor: bigint) => Effect.Effect<ReadonlyArray<bigint>, E>
) =>
  Effect.gen(function* () {
    const seen: Array<bigint> = []
    for (let last = false; ;) {
      const page = yield* next(seen.at(-1) ?? 0n)
      for (const version of page) seen.push(version)
      if (last && page.length === 0) return seen
      last = writers.pollUnsafe() !== undefined
    }
  })

const versionsOf = (events: ReadonlyArray<{ readonly version: bigint }>) => events.map(({ version }) => version)

/** How the log is kept: what runs beside the writers, and what makes the table whole for the comparison. */
interface Keeping {
  readonly settings: Settings
  readonly beside: (served: ServedEvents) => Effect.Effect<unknown>
  readonly whole: (served: ServedEvents) => Effect.Effect<unknown, unknown>
}

/** Runs the storm beside readers of every kind, and compares what they have seen with what is there. */
const losesNothing = Effect.fnUntraced(function* (total: number, keep: Effect.Effect<Keeping, never, Scope.Scope>) {
  const { beside, settings, whole } = yield* keep
  const served = yield* serveEvents({ ...settings, client: { maxConnections: 24 } })
  const other = yield* serveEvents({ ...settings, options: { schema: served.schema } })
  const { table } = served
  const fromEnd = yield* follow(served, { after: "end" })
  const live = [
    [yield* follow(served, { after: "start" }), "true"],
    [yield* follow(other, { after: "start", batchSize: 7 }), "true"],
    [
      yield* follow(served, { after: "start", aggregateIds: ["aggregate 3", "shared"] }),
      "aggregate_id IN ('aggregate 3', 'shared')"
    ],
    [yield* follow(other, { after: "start", eventTypes: ["Plain"] }), "event_type = 'Plain'"]
  ] as const
  const { outcomes, writers } = yield* storm(served, BigInt(total))
  const keeping = yield* Effect.forkScoped(Effect.forever(beside(served)))
  const place = BigInt(Math.floor(0.4 * total))
  const late = Effect.gen(function* () {
    yield* Effect.raceFirst(live[0][0].until(BigInt(total / 2)), Fiber.join(writers))
    return [
      [yield* follow(served, { after: "start" }), "true"],
      [yield* follow(other, { after: 777n }), "version > 777"],
      [yield* follow(other, { after: place }), `version > ${place}`]
    ] as const
  })
  const naive = yield* session()
  const [loaded, streamed, unchecked, joined] = yield* Effect.all(
    [
      polling(writers, (cursor) => Effect.map(other.events.load(cursor), versionsOf)),
      polling(writers, (after) =>
        Effect.map(Stream.runCollect(other.events.read({ after, batchSize: 100 })), versionsOf)
      ),
      polling(writers, (cursor) =>
        Effect.map(naive(`SELECT version FROM ${table} WHERE version > ${cursor} ORDER BY version`), (rows) =>
          rows.map((row) => BigInt(String(Reflect.get(Object(row), "version"))))
        )
      ),
      late
    ],
    { concurrency: "unbounded" }
  )
  yield* Fiber.join(writers)
  yield* Fiber.interrupt(keeping)
  yield* whole(served)
  assert.deepStrictEqual([...outcomes].toSorted(), everyOutcome)

  const stored = yield* versionsIn(table)
  assert.isAtLeast(stored.length, total)
  const holes = Number(stored.at(-1)) - stored.length
  assert.isAbove(holes, total / 20)
  assert.deepStrictEqual(mistakes(loaded, stored), none)
  assert.deepStrictEqual(mistakes(streamed, stored), none)
  const end = [fromEnd, `version >= ${fromEnd.seen[0]}`] as const
  for (const [follower, where] of [...live, ...joined, end]) {
    const meant = yield* versionsIn(table, where)
    yield* follower.until(meant.at(-1) ?? 0n)
    assert.deepStrictEqual(mistakes(follower.seen, meant), none)
  }
  assert.isAbove(mistakes(unchecked, stored).lost, 0)
})

const inOneTable = Effect.succeed<Keeping>({ settings: {}, beside: () => Effect.never, whole: () => Effect.void })

/** Parts of the log are archived as soon as they can be, and some come back for a while. */
const archivedAgainAndAgain = Effect.gen(function* () {
  const directory = yield* temporaryDirectory
  const files = Postgres.EventArchive.layerDirectory(directory)
  const databaseOf = ({ context, schema }: ServedEvents) =>
    Layer.merge(
      files,
      Layer.provide(
        Postgres.PostgresDatabase.layer({ schema, migrationWait: "10 seconds" }),
        Layer.effectContext(Effect.succeed(context))
      )
    )
  const keeping: Keeping = {
    settings: {
      options: { partitions: { size: 1000n } },
      layer: (options) => Layer.provide(Postgres.layer(options), files)
    },
    beside: (served) =>
      Effect.gen(function* () {
        yield* Effect.ignore(Postgres.Archive.archive({ before: 2n ** 62n }))
        yield* Effect.sleep(randomInt(500))
        const from = oneIn(3) ? (yield* Postgres.Archive.parts).at(-2)?.firstVersion : undefined
        if (from !== undefined) yield* Effect.ignore(Postgres.Archive.restore({ from }))
      }).pipe(Effect.provide(databaseOf(served)), Effect.ignore),
    whole: (served) =>
      Effect.gen(function* () {
        assert.isAbove((yield* Postgres.Archive.parts).length, 5)
        yield* Postgres.Archive.restore()
      }).pipe(Effect.provide(databaseOf(served)))
  }
  return keeping
})

describe("readers that keep up with a storm of writers", () => {
  it.live(
    "lose nothing, get nothing twice and nothing out of order; a reader that ignores holes does lose events",
    () => losesNothing(100_000, inOneTable),
    { timeout: 600_000 }
  )

  it.live(
    "lose nothing either while partitions are archived, and some restored, as fast as that goes",
    () => losesNothing(60_000, archivedAgainAndAgain),
    { timeout: 900_000 }
  )
})
