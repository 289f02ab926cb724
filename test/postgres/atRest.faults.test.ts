/** What processes cost a server while nothing happens. It counts, and measures no time. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Redacted, Schedule, Schema } from "effect"
import { Projection } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { fileURLToPath } from "node:url"
import * as PostgresServer from "../support/PostgresServer.ts"
import { startScript } from "../support/scripts.ts"

const script = fileURLToPath(new URL("atRest.process.ts", import.meta.url))
const schema = "resting"

interface Work {
  readonly projections: number
  readonly subscribers?: number
  readonly workers?: number
}

/** Starts a process that does so much work, and kills it with the scope. */
const start = (url: string, { projections, subscribers = 0, workers = 0 }: Work) =>
  startScript(script, [url, schema, ...[projections, subscribers, workers].map(String)])

const Beats = Schema.Array(Schema.Struct({ beat: Schema.Int }))
const Seen = Schema.Struct({ calls: Schema.Int, connections: Schema.Int, seconds: Schema.Number })

const sumOf = (all: ReadonlyArray<number>) => all.reduce((sum, one) => sum + one, 0)
const spaced = Schedule.spaced("500 millis")

/** A server that counts the statements of a role, and processes that connect with it. */
const resting = Effect.gen(function* () {
  const server = yield* PostgresServer.make({ settings: { shared_preload_libraries: "pg_stat_statements" } })
  const pool = PgClient.layer({ url: Redacted.make(server.url), maxConnections: 2 })
  const context = yield* Layer.build(Layer.provideMerge(Postgres.layer({ schema }), pool))
  const sql = Context.get(context, PgClient.PgClient)
  yield* sql`CREATE EXTENSION pg_stat_statements`
  yield* sql`CREATE ROLE resting SUPERUSER LOGIN PASSWORD 'secret'`
  const url = new URL(server.url)
  url.username = "resting"
  url.password = "secret"

  const beats = sql`
    SELECT version_number::int AS beat FROM ${sql(schema)}.states_store
    WHERE persistence_id LIKE 'strata/projection/process/%' ORDER BY persistence_id`.pipe(
    Effect.flatMap(Schema.decodeUnknownEffect(Beats)),
    Effect.map((all) => all.map(({ beat }) => beat))
  )
  const seen = sql`
    SELECT coalesce((SELECT sum(calls) FROM pg_stat_statements WHERE userid = 'resting'::regrole), 0)::int AS calls,
      (SELECT count(*) FROM pg_stat_activity WHERE usename = 'resting')::int AS connections,
      extract(epoch FROM clock_timestamp())::float8 AS seconds`.pipe(
    Effect.flatMap(Schema.decodeUnknownEffect(Schema.NonEmptyArray(Seen))),
    Effect.map(([found]) => found)
  )

  /** Waits until all processes together have beaten so often. Returns what they did meanwhile. */
  const during = Effect.fnUntraced(function* (count: number) {
    const before = { beats: yield* beats, ...(yield* seen) }
    let most = 0
    yield* Effect.repeat(
      Effect.gen(function* () {
        const { connections } = yield* seen
        most = Math.max(most, connections)
        return sumOf(yield* beats) - sumOf(before.beats)
      }),
      { until: (beaten) => beaten >= count, schedule: spaced }
    )
    const after = { beats: yield* beats, ...(yield* seen) }
    return {
      processes: after.beats.length,
      statements: after.calls - before.calls,
      seconds: after.seconds - before.seconds,
      mostConnections: most
    }
  })

  return { context, during, seen, start: (work: Work) => start(url.href, work) }
})

// Each has a server of its own, and mostly waits.
describe.concurrent("a process at rest", () => {
  it.live(
    "does at most 2 statements a second, and needs 3 connections, however many projections there are",
    () =>
      Effect.gen(function* () {
        const processes = 4
        const projections = 20
        const { context, during, seen, start } = yield* resting
        yield* Effect.replicateEffect(start({ projections }), processes)

        const shares = Effect.provide(
          Effect.map(Projection.processes, (all) =>
            all.map(({ runs }) => runs.reduce((sum, { shards }) => sum + shards.length, 0))
          ),
          context
        )
        const even = Array.from({ length: processes }, () => projections / processes).join()
        yield* Effect.repeat(shares, { until: (all) => all.join() === even, schedule: Schedule.spaced("200 millis") })
        // The connections with which the processes began have been idle for long enough.
        yield* Effect.repeat(seen, { until: ({ connections }) => connections <= 3 * processes, schedule: spaced })

        // The readers of the tail come to rest.
        yield* during(40 * processes)
        const did = yield* during(30 * processes)
        assert.strictEqual(did.processes, processes)
        // A slow machine does less in a second.
        assert.isAtMost(did.statements / did.seconds, 2 * processes)
        assert.isAtMost(did.mostConnections, 3 * processes)
      }),
    { timeout: 600_000 }
  )

  it.live.each([1, 1_000])(
    "does at most 2 statements a second, with a worker, a projection and %i subscribers",
    (subscribers) =>
      Effect.gen(function* () {
        const { during, start } = yield* resting
        yield* start({ projections: 1, subscribers, workers: 1 })
        yield* during(40)
        // Two minutes, as what happens once a minute counts, too.
        const did = yield* during(120)
        assert.isAtMost(did.statements / did.seconds, 2)
      }),
    { timeout: 600_000 }
  )
})
