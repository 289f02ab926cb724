/** What processes with many projections cost a server while nothing happens. It counts, and measures no time. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Layer, Redacted, Schedule, Schema } from "effect"
import { Projection } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import * as PostgresServer from "../support/PostgresServer.ts"

const script = fileURLToPath(new URL("atRest.process.ts", import.meta.url))
const schema = "resting"
const processes = 4
const projections = 20

/** Starts a process that runs all projections, and kills it with the scope. */
const start = (url: string) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const args = ["--conditions=@effect-strata/source", script, url, schema, String(projections)]
      const child = spawn(process.execPath, args, { stdio: ["ignore", "ignore", "inherit"] })
      const gone = Deferred.makeUnsafe<void>()
      child.once("close", () => Deferred.doneUnsafe(gone, Effect.void))
      return { child, gone }
    }),
    ({ child, gone }) =>
      Effect.andThen(
        Effect.sync(() => child.kill("SIGKILL")),
        Deferred.await(gone)
      )
  )

const Beats = Schema.Array(Schema.Struct({ beat: Schema.Int }))
const Calls = Schema.Array(Schema.Struct({ calls: Schema.Int, connections: Schema.Int }))

describe("projections at rest", () => {
  it.live(
    "do at most 5 statements a beat in a process, and need 3 connections, however many there are",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make({
          settings: { shared_preload_libraries: "pg_stat_statements", "pg_stat_statements.track_utility": "off" }
        })
        const pool = PgClient.layer({ url: Redacted.make(server.url), maxConnections: 2 })
        const context = yield* Layer.build(Layer.provideMerge(Postgres.layer({ schema }), pool))
        const sql = Context.get(context, PgClient.PgClient)
        yield* sql`CREATE EXTENSION pg_stat_statements`
        yield* sql`CREATE ROLE resting SUPERUSER LOGIN PASSWORD 'secret'`
        const url = new URL(server.url)
        url.username = "resting"
        url.password = "secret"
        yield* Effect.replicateEffect(start(url.href), processes)

        const shares = Effect.provide(
          Effect.map(Projection.processes, (all) =>
            all.map(({ runs }) => runs.reduce((sum, { shards }) => sum + shards.length, 0))
          ),
          context
        )
        const even = Array.from({ length: processes }, () => projections / processes).join()
        yield* Effect.repeat(shares, { until: (all) => all.join() === even, schedule: Schedule.spaced("200 millis") })

        const beats = sql`
          SELECT version_number::int AS beat FROM ${sql(schema)}.states_store
          WHERE persistence_id LIKE 'strata/projection/process/%' ORDER BY persistence_id`.pipe(
          Effect.flatMap(Schema.decodeUnknownEffect(Beats)),
          Effect.map((all) => all.map(({ beat }) => beat))
        )
        const seen = sql`
          SELECT coalesce((SELECT sum(calls) FROM pg_stat_statements WHERE userid = 'resting'::regrole), 0)::int AS calls,
            (SELECT count(*) FROM pg_stat_activity WHERE usename = 'resting')::int AS connections`.pipe(
          Effect.flatMap(Schema.decodeUnknownEffect(Calls)),
          Effect.map(([found]) => found ?? { calls: 0, connections: 0 })
        )
        const sumOf = (all: ReadonlyArray<number>) => all.reduce((sum, one) => sum + one, 0)
        // The connections with which the processes began have been idle for long enough.
        const spaced = Schedule.spaced("500 millis")
        yield* Effect.repeat(seen, { until: ({ connections }) => connections <= 3 * processes, schedule: spaced })

        const before = { beats: yield* beats, ...(yield* seen) }
        let most = 0
        yield* Effect.repeat(
          Effect.gen(function* () {
            const { connections } = yield* seen
            most = Math.max(most, connections)
            return sumOf(yield* beats) - sumOf(before.beats)
          }),
          { until: (count) => count >= 20 * processes, schedule: spaced }
        )
        const after = { beats: yield* beats, ...(yield* seen) }
        assert.lengthOf(after.beats, processes)
        const statements = (after.calls - before.calls) / (sumOf(after.beats) - sumOf(before.beats))
        assert.isAtMost(statements, 5)
        assert.isAtMost(most, 3 * processes)
      }),
    { timeout: 600_000 }
  )
})
