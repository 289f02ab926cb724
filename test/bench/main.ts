/**
 * What the stores cost, measured against the bare driver.
 *
 * `npm run bench -- [--only NAME] [--quick] [--json FILE] [--url DSN] [--peers]`
 */
import { NodeRuntime } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Console, Effect, Layer, Redacted } from "effect"
import * as Postgres from "effect-strata/postgres"
import { writeFile } from "node:fs/promises"
import { parseArgs } from "node:util"
import { withConnection } from "../support/connection.ts"
import { acquire } from "../support/server.ts"
import * as Events from "./events.ts"
import { type Measurement, measure, measureLatency } from "./harness.ts"
import * as Offsets from "./offsets.ts"
import * as Peers from "./peers.ts"
import * as Projections from "./projection.ts"
import * as Reads from "./reads.ts"
import * as Spool from "./spool.ts"
import * as States from "./states.ts"
import * as Subscriptions from "./subscriptions.ts"
import * as Typed from "./typed.ts"

const { values: options } = parseArgs({
  options: {
    only: { type: "string" },
    quick: { type: "boolean", default: false },
    json: { type: "string" },
    url: { type: "string" },
    peers: { type: "boolean", default: false }
  }
})

// Those of reads last: they fill the log.
const figures = [
  ...Events.figures,
  ...Offsets.figures,
  ...States.figures,
  ...Spool.figures,
  ...Subscriptions.figures,
  ...Subscriptions.latencies,
  ...Typed.figures,
  ...Projections.latencies,
  ...Projections.figures,
  ...Reads.figures,
  ...(options.peers ? await Peers.load() : [])
].filter(({ name }) => options.only === undefined || name.includes(options.only))

const line = (cells: ReadonlyArray<string>) =>
  [
    ...cells.slice(0, 1).map((cell) => cell.padEnd(26)),
    ...cells.slice(1, 5).map((cell) => cell.padStart(14)),
    ...cells.slice(5)
  ].join("  ")

const row = ({ conditions, max, min, name, other, otherName, ratio, strata, unit }: Measurement) =>
  line([
    name,
    strata.toFixed(unit === "ms" ? 2 : 0),
    other.toFixed(unit === "ms" ? 2 : 0),
    ratio.toFixed(2),
    `${min.toFixed(2)}-${max.toFixed(2)}`,
    `${unit}, ${conditions}, against the ${otherName}`
  ])

const program = Effect.gen(function* () {
  const server = options.url === undefined ? yield* acquire : { url: options.url, description: "--url" }
  const schema = `strata_bench_${process.pid}`
  yield* Effect.addFinalizer(() =>
    Effect.orDie(withConnection(server.url, (sql) => sql`DROP SCHEMA IF EXISTS ${sql(schema)} CASCADE`))
  )
  const client = PgClient.layer({
    url: Redacted.make(server.url),
    maxConnections: 25,
    startupParameters: { search_path: schema }
  })
  yield* Console.log(`${server.description}; Node ${process.versions.node}; medians of alternating rounds`)
  yield* Console.log(line(["figure", "strata", "other", "ratio", "min-max"]))

  const measurements: Array<Measurement> = []
  yield* Effect.forEach(figures, (figure) =>
    Effect.gen(function* () {
      const rounds = options.quick ? 3 : 11
      const measured = yield* "round" in figure ? measureLatency(figure, rounds) : measure(figure, rounds)
      measurements.push(...measured)
      yield* Effect.forEach(measured, (measurement) => Console.log(row(measurement)))
    })
  ).pipe(Effect.provide(Layer.provideMerge(Postgres.layer({ schema }), client)))

  const { json } = options
  if (json !== undefined) yield* Effect.promise(() => writeFile(json, `${JSON.stringify(measurements, null, 2)}\n`))
})

NodeRuntime.runMain(Effect.scoped(program))
