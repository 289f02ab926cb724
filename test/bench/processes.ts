/**
 * What processes that divide projections cost a server while nothing happens: statements a second, and connections, of each.
 *
 * `node --conditions=@effect-strata/source test/bench/processes.ts [--processes 4] [--projections 20] [--seconds 120]`
 */
import { NodeRuntime } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Console, Context, Effect, Layer, Redacted, Schedule, Schema } from "effect"
import { Projection } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { freePort } from "../support/ports.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { startScript } from "../support/scripts.ts"
import type { Amount } from "./harness.ts"

const script = fileURLToPath(new URL("../postgres/atRest.process.ts", import.meta.url))
const schema = "resting"
const role = "resting"

/** The most statements that a process may cost. */
const mostPerSecond = 5

/** How long to let the processes come to rest. */
const secondsToRest = 40

interface Size {
  readonly processes: number
  readonly projections: number
  readonly seconds: number
}

const start = Effect.fnUntraced(function* (url: string, projections: number, isRunner: boolean) {
  const ofCluster = isRunner ? ["0", "0", String(yield* freePort)] : []
  yield* startScript(script, [url, schema, String(projections), ...ofCluster])
})

const Seen = Schema.NonEmptyArray(
  Schema.Struct({ calls: Schema.Number, connections: Schema.Number, seconds: Schema.Number })
)

/** What each of these processes does in a second, once all projections run, and the connections that it has. */
const rest = Effect.fnUntraced(function* ({ processes, projections, seconds }: Size, isCluster: boolean) {
  const server = yield* PostgresServer.make({ settings: { shared_preload_libraries: "pg_stat_statements" } })
  const pool = PgClient.layer({ url: Redacted.make(server.url), maxConnections: 2 })
  const context = yield* Layer.build(Layer.provideMerge(Postgres.layer({ schema }), pool))
  const sql = Context.get(context, PgClient.PgClient)
  yield* sql`CREATE EXTENSION pg_stat_statements`
  yield* sql`CREATE ROLE ${sql(role)} SUPERUSER LOGIN PASSWORD 'secret'`
  const url = new URL(server.url)
  url.username = role
  url.password = "secret"
  yield* Effect.replicateEffect(start(url.href, projections, isCluster), processes)
  const running = Effect.map(Projection.processes, (all) =>
    all.flatMap(({ runs }) => runs).reduce((sum, { shards }) => sum + shards.length, 0)
  ).pipe(Effect.provideContext(context))
  yield* Effect.repeat(running, { until: (count) => count === projections, schedule: Schedule.spaced("200 millis") })
  yield* Effect.sleep(`${secondsToRest} seconds`)
  const seen = sql`
    SELECT coalesce((SELECT sum(calls) FROM pg_stat_statements WHERE userid = ${role}::regrole), 0)::float8 AS calls,
      (SELECT count(*) FROM pg_stat_activity WHERE usename = ${role})::float8 AS connections,
      extract(epoch FROM clock_timestamp())::float8 AS seconds`.pipe(
    Effect.flatMap(Schema.decodeUnknownEffect(Seen)),
    Effect.map(([found]) => found)
  )
  const before = yield* seen
  yield* Effect.sleep(`${seconds} seconds`)
  const after = yield* seen
  return {
    statements: (after.calls - before.calls) / (after.seconds - before.seconds) / processes,
    connections: after.connections / processes
  }
}, Effect.scoped)

const size = { processes: 4, projections: 20, seconds: 120 }

export const figures = (quick: boolean): ReadonlyArray<Amount> => {
  const seconds = quick ? 10 : size.seconds
  return [
    {
      name: "idle/processes",
      unit: "statements/s",
      otherName: "most that it may cost",
      conditions: `each of ${size.processes} processes, ${size.projections} projections, gauges, counted for ${seconds} s`,
      constant: true,
      amount: Effect.map(rest({ ...size, seconds }, false), ({ statements }) => ({
        strata: statements,
        other: mostPerSecond
      }))
    }
  ]
}

const main = Effect.gen(function* () {
  const { values } = parseArgs({
    options: {
      processes: { type: "string", default: String(size.processes) },
      projections: { type: "string", default: String(size.projections) },
      seconds: { type: "string", default: String(size.seconds) }
    }
  })
  const asked = {
    processes: Number(values.processes),
    projections: Number(values.projections),
    seconds: Number(values.seconds)
  }
  for (const [name, isCluster] of [
    ["plain processes", false],
    ["runners of a cluster", true]
  ] as const) {
    const { connections, statements } = yield* rest(asked, isCluster)
    yield* Console.log(
      `${name.padEnd(20)} of each ${statements.toFixed(2)} statements a second, ${connections.toFixed(2)} connections`
    )
  }
})

if (import.meta.main) NodeRuntime.runMain(main)
