/**
 * The programs and statements with which the guide `coming-from` moves events and jobs: interrupted and started again, they move
 * each event once, in order, and each job once.
 */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted, Stream } from "effect"
import { DurableStateStore, EventStore, SpoolStore, type Transactor } from "effect-strata"
import * as Memory from "effect-strata/memory"
import * as Postgres from "effect-strata/postgres"
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { afterAll } from "vitest"
import { examplesIn, filesOf } from "../package/examples.ts"
import { root } from "../package/run.ts"
import { execute } from "../support/connection.ts"
import { scratchDatabase } from "../support/database.ts"
import { graphileWorkerTables, martenTables, pgBossTables, riverTables } from "./scenes.ts"

interface Moved {
  readonly position: bigint
  readonly event: Parameters<EventStore.EventStore["Service"]["append"]>[0]
}

/** What the files of the guide export, as far as it is used here. */
interface Programs {
  readonly move: <E, R>(
    name: string,
    read: (after: bigint) => Stream.Stream<Moved, E, R>
  ) => Effect.Effect<void, unknown, R | DurableStateStore.DurableStateStore | EventStore.EventStore>
  readonly fromMarten: (after: bigint) => Stream.Stream<Moved, unknown, PgClient.PgClient>
  readonly fromKurrent: (client: object) => (from: bigint) => Stream.Stream<Moved, unknown>
  readonly moveJobs: (
    take: string
  ) => Effect.Effect<number, unknown, PgClient.PgClient | SpoolStore.SpoolStore | Transactor.Transactor>
}

await mkdir(join(root, ".strata"), { recursive: true })
const directory = await mkdtemp(join(root, ".strata", "moving-"))
const guide = "resources/guides/coming-from.md"
const blocks = examplesIn(guide, await readFile(join(root, guide), "utf8"))
for (const { isProgram, name, text } of filesOf(blocks)) {
  if (!isProgram) await writeFile(join(directory, name), text)
}
const load = (name: string) => import(pathToFileURL(join(directory, name)).href)
const { move, moveJobs, fromMarten, fromKurrent }: Programs = {
  ...(await load("moving.ts")),
  ...(await load("marten.ts")),
  ...(await load("kurrent.ts")),
  ...(await load("jobs.ts"))
}

afterAll(() => rm(directory, { recursive: true, force: true }))

/** The ids of all events, in the order of the log. */
const idsHere = Effect.flatMap(EventStore.EventStore, (events) =>
  Effect.map(Stream.runCollect(events.read({})), (all) => all.map(({ id }) => id))
)

/** Ends with an error after some events, as when the process is killed. */
const cutAfter = <A, E, R>(events: Stream.Stream<A, E, R>, count: number) =>
  Stream.concat(Stream.take(events, count), Stream.fail("cut"))

const stream = "0198f2c4-0000-7000-8000-00000000000a"
const idOf = (place: number) => `0198f2c4-0000-7000-8000-${String(place).padStart(12, "0")}`

describe("the program that moves Marten's events", () => {
  it.live("goes on where it was cut, keeps ids and order, and finds what was committed late", () =>
    Effect.gen(function* () {
      const marten = yield* scratchDatabase()
      const places = Array.from({ length: 1300 }, (_, index) => index + 1).filter((place) => place !== 700)
      const row = (place: number) =>
        `(${place}, '${idOf(place)}', '${stream}', ${place}, '{"place": ${place}}', 'thing_happened')`
      const insert = (places: ReadonlyArray<number>) =>
        `INSERT INTO mt_events (seq_id, id, stream_id, version, data, type) VALUES ${places.map(row).join()}`
      yield* execute(marten, [
        ...martenTables,
        `INSERT INTO mt_streams (id, type, version) VALUES ('${stream}', 'thing', 1300)`,
        insert(places)
      ])
      const client = PgClient.layer({ url: Redacted.make(marten), maxConnections: 2 })
      const read = (after: bigint) => Stream.provide(fromMarten(after), client)

      const url = yield* scratchDatabase()
      const stores = Layer.provide(Postgres.layer(), PgClient.layer({ url: Redacted.make(url), maxConnections: 4 }))
      yield* Effect.gen(function* () {
        const events = yield* EventStore.EventStore
        const states = yield* DurableStateStore.DurableStateStore
        const cut = yield* Effect.flip(move("marten", (after) => cutAfter(read(after), 620)))
        assert.strictEqual(cut, "cut")
        const page = yield* idsHere
        assert.deepStrictEqual(page, places.slice(0, page.length).map(idOf))
        assert.include([500, 620], page.length)

        const asked: Array<bigint> = []
        const remembering = (after: bigint) => {
          asked.push(after)
          return read(after)
        }
        yield* move("marten", remembering)
        assert.deepStrictEqual(asked, [BigInt(page.length)])
        assert.deepStrictEqual(yield* idsHere, places.map(idOf))
        const [first] = yield* events.loadByAggregate(stream)
        assert.deepStrictEqual([first?.eventType, first?.data], ["ThingHappened", { place: 1 }])
        assert.match(String(first?.metadata?.["occurredAt"]), /^\d{4}-\d\d-\d\dT/)

        // A transaction of Marten commits late, below the place.
        yield* execute(marten, [insert([700])])
        yield* move("marten", read)
        assert.strictEqual((yield* idsHere).length, places.length)
        yield* states.deleteState("moving/marten")
        yield* move("marten", read)
        assert.deepStrictEqual(yield* idsHere, [...places, 700].map(idOf))
      }).pipe(Effect.provide(stores))
    }).pipe(Effect.scoped)
  )
})

describe("the statement that moves Marten's events", () => {
  it.live("keeps ids, order, times and numbers", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      const stores = Layer.provide(Postgres.layer(), PgClient.layer({ url: Redacted.make(url), maxConnections: 2 }))
      const statement = blocks.find(({ code, language }) => language === "sql" && code.includes("mt_events"))
      yield* Effect.gen(function* () {
        const events = yield* EventStore.EventStore
        yield* execute(url, [
          ...martenTables,
          `INSERT INTO mt_streams (id, type, version) VALUES ('${stream}', 'thing', 2)`,
          `INSERT INTO mt_events (seq_id, id, stream_id, version, data, type, timestamp) VALUES
            (7, '${idOf(7)}', '${stream}', 2, '{"place": 7}', 'thing_has_ended', '2020-01-02T00:00:00Z'),
            (3, '${idOf(3)}', '${stream}', 1, '{"place": 1.25}', 'begun', '2020-01-01T00:00:00Z')`,
          statement?.code ?? "SELECT no_such_block"
        ])
        const all = yield* Stream.runCollect(events.read({}))
        assert.deepStrictEqual(
          all.map(({ aggregateId, createdAt, data, eventType, id }) => [
            id,
            aggregateId,
            eventType,
            data,
            createdAt.epochMilliseconds
          ]),
          [
            [idOf(3), stream, "Begun", { place: 1.25 }, Date.UTC(2020, 0, 1)],
            [idOf(7), stream, "ThingHasEnded", { place: 7 }, Date.UTC(2020, 0, 2)]
          ]
        )
      }).pipe(Effect.provide(stores))
    }).pipe(Effect.scoped)
  )
})

describe("the program that moves KurrentDB's events", () => {
  const event = (place: number, over: object = {}) => ({
    event: {
      id: idOf(place),
      streamId: `order-${place % 7}`,
      type: "Placed",
      isJson: true,
      data: { place },
      metadata: { $correlationId: "request", by: "anna" },
      created: new Date(0),
      position: { commit: BigInt(place), prepare: BigInt(place) },
      ...over
    }
  })

  /** What is asked of `$all`: events, events of the server, and links, whose event was deleted. */
  const serverOf = (all: ReadonlyArray<ReturnType<typeof event>>) => ({
    async *readAll({ fromPosition }: { readonly fromPosition: "start" | { readonly commit: bigint } }) {
      for (const each of all) {
        if (fromPosition !== "start" && each.event.position.commit < fromPosition.commit) continue
        yield each
        yield {}
        yield event(Number(each.event.position.commit), { type: "$metadata", streamId: "$$order" })
      }
    }
  })

  it.live("goes on where it was cut, keeps ids and order, and leaves out what is the server's", () =>
    Effect.gen(function* () {
      const all = Array.from({ length: 1200 }, (_, index) => event(index + 1))
      const read = fromKurrent(serverOf(all))
      yield* Effect.flip(move("kurrent", (after) => cutAfter(read(after), 600)))
      const before = yield* idsHere
      assert.include([500, 600], before.length)
      yield* move("kurrent", read)
      yield* move("kurrent", read)
      assert.deepStrictEqual(
        yield* idsHere,
        all.map(({ event }) => event.id)
      )
      const events = yield* EventStore.EventStore
      const last = yield* events.get(idOf(1200))
      assert.deepStrictEqual(last.metadata, {
        by: "anna",
        correlationId: "request",
        occurredAt: "1970-01-01T00:00:00.000Z"
      })
    }).pipe(Effect.provide(Layer.fresh(Memory.layer)))
  )

  it.live("ends before an event that is no JSON, and names it", () =>
    Effect.gen(function* () {
      const read = fromKurrent(serverOf([event(1), event(2, { isJson: false, data: new Uint8Array(3) })]))
      const error = yield* Effect.flip(move("kurrent", read))
      assert.deepInclude(error, { _tag: "NotMoved", id: idOf(2) })
    }).pipe(Effect.provide(Layer.fresh(Memory.layer)))
  )
})

describe("the program that moves jobs", () => {
  const due = 1100

  /**
   * 1,100 mails that are due, one for the year 2100, one that a worker has, one that has failed for good, and one of another
   * kind.
   */
  const libraries = [
    {
      name: "pgBoss",
      statements: [
        ...pgBossTables,
        `INSERT INTO pgboss.job (name, data, state)
         SELECT 'mails', jsonb_build_object('to', n::text), (ARRAY['created', 'retry'])[n % 2 + 1]::pgboss.job_state
         FROM generate_series(1, ${due}) AS n`,
        `INSERT INTO pgboss.job (name, data, state, start_after) VALUES
          ('mails', '{"to": "later"}', 'created', '2100-01-01T00:00:00Z'), ('mails', '{"to": "taken"}', 'active', now()),
          ('mails', '{"to": "failed"}', 'failed', now()), ('others', '{"to": "other"}', 'created', now())`
      ],
      left: "SELECT data ->> 'to' AS \"to\" FROM pgboss.job ORDER BY 1",
      spoil: "UPDATE pgboss.job SET data = '{}' WHERE data ->> 'to' = '700'",
      mend: `UPDATE pgboss.job SET data = '{"to": "700"}' WHERE data = '{}'`
    },
    {
      name: "graphileWorker",
      statements: [
        ...graphileWorkerTables,
        "INSERT INTO graphile_worker._private_tasks (identifier) VALUES ('mails'), ('others')",
        `INSERT INTO graphile_worker._private_jobs (task_id, payload, attempts)
         SELECT 1, json_build_object('to', n::text), n % 2 FROM generate_series(1, ${due}) AS n`,
        `INSERT INTO graphile_worker._private_jobs (task_id, payload, run_at, locked_at, attempts) VALUES
          (1, '{"to": "later"}', '2100-01-01T00:00:00Z', NULL, 0), (1, '{"to": "taken"}', now(), now(), 1),
          (1, '{"to": "failed"}', now(), NULL, 25), (2, '{"to": "other"}', now(), NULL, 0)`
      ],
      left: "SELECT payload ->> 'to' AS \"to\" FROM graphile_worker._private_jobs ORDER BY 1",
      spoil: "UPDATE graphile_worker._private_jobs SET payload = '{}' WHERE payload ->> 'to' = '700'",
      mend: `UPDATE graphile_worker._private_jobs SET payload = '{"to": "700"}' WHERE payload ->> 'to' IS NULL`
    },
    {
      name: "river",
      statements: [
        ...riverTables,
        `INSERT INTO river_job (kind, args, max_attempts, state)
         SELECT 'mails', jsonb_build_object('to', n::text), 25, (ARRAY['available', 'retryable'])[n % 2 + 1]::river_job_state
         FROM generate_series(1, ${due}) AS n`,
        `INSERT INTO river_job (kind, args, max_attempts, state, scheduled_at) VALUES
          ('mails', '{"to": "later"}', 25, 'scheduled', '2100-01-01T00:00:00Z'), ('mails', '{"to": "taken"}', 25, 'running', now()),
          ('mails', '{"to": "failed"}', 25, 'discarded', now()), ('others', '{"to": "other"}', 25, 'available', now())`
      ],
      left: "SELECT args ->> 'to' AS \"to\" FROM river_job ORDER BY 1",
      spoil: "UPDATE river_job SET args = '{}' WHERE args ->> 'to' = '700'",
      mend: `UPDATE river_job SET args = '{"to": "700"}' WHERE args = '{}'`
    }
  ]

  it.live.each(libraries)("takes each of $name from there, once, and leaves what is not to be moved", (library) =>
    Effect.gen(function* () {
      const { take }: { readonly take: string } = yield* Effect.promise(() => load(`${library.name}.ts`))
      const url = yield* scratchDatabase()
      yield* execute(url, [...library.statements, library.spoil])
      const client = PgClient.layer({ url: Redacted.make(url), maxConnections: 3 })
      yield* Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const { iterate } = yield* SpoolStore.SpoolStore
        const left = Effect.map(sql.unsafe<{ readonly to: string | null }>(library.left), (rows) =>
          rows.map(({ to }) => to)
        )
        const here = Effect.map(
          Effect.forEach(["incoming", "deferred"] as const, (state) =>
            Stream.runCollect(iterate(state, { queue: "mails" }))
          ),
          (all) => all.flat()
        )

        // One of them does not fit the schema: its transaction leaves all of its jobs there, and those before it are here.
        yield* Effect.flip(moveJobs(take))
        const before = (yield* here).length
        assert.strictEqual(before + (yield* left).length, due + 4)
        assert.isAtMost(before, 1000)
        assert.include(yield* left, null)

        yield* sql.unsafe(library.mend)
        yield* moveJobs(take)
        yield* moveJobs(take)
        assert.deepStrictEqual(yield* left, ["failed", "other", "taken"])
        const moved = yield* here
        assert.strictEqual(moved.length, due + 1)
        const payloads = yield* Effect.forEach(moved, ({ id }) =>
          Effect.map(
            SpoolStore.SpoolStore.use(({ getMeta }) => getMeta({ queue: "mails", id })),
            ({ payload }) => JSON.stringify(payload)
          )
        )
        assert.strictEqual(new Set(payloads).size, due + 1)
        const times = moved.map(({ nextRetry }) => nextRetry.epochMilliseconds)
        assert.strictEqual(Math.max(...times), Date.UTC(2100, 0, 1))
      }).pipe(Effect.provide(Layer.provideMerge(Postgres.layer(), client)))
    }).pipe(Effect.scoped)
  )
})
