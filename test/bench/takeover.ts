/**
 * How long the work of a killed process stands still: from SIGKILL until another process does it.
 *
 * `node --conditions=@effect-strata/source test/bench/takeover.ts [--kills 20] [--processes 3] [--shards 60]`
 */
import { NodeRuntime } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Console, Context, Effect, Layer, Redacted, Schedule } from "effect"
import { EventStore, Projection } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { freePort } from "../support/ports.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { startScript } from "../support/scripts.ts"
import { type Amount, now } from "./harness.ts"

const script = fileURLToPath(new URL("takeover.process.ts", import.meta.url))
const schema = "taken_over"
const projection = "taken over"

/** The most that it may take. */
const limitMillis = 5_000

/** Who divides the shards: the processes themselves, or `effect/cluster`, which places a singleton, too. */
type Mode = "cluster" | "plain"

interface Size {
  readonly kills: number
  readonly processes: number
  readonly shards: number
}

const start = Effect.fnUntraced(function* (mode: Mode, url: string, shards: number) {
  const port = yield* freePort
  const { send } = yield* startScript(script, [mode, url, schema, projection, String(shards), String(port)])
  return { name: `process ${port}`, kill: send("SIGKILL") }
})

const often = Schedule.spaced("10 millis")

/** Kills processes, one after the other. Returns for how long its shards, and its singleton, stood still each time. */
const kill = Effect.fnUntraced(function* (mode: Mode, { kills, processes, shards }: Size) {
  const server = yield* PostgresServer.make()
  const pool = PgClient.layer({ url: Redacted.make(server.url), maxConnections: 5 })
  const context = yield* Layer.build(Layer.provideMerge(Postgres.layer({ schema }), pool))
  const sql = Context.get(context, PgClient.PgClient)
  const events = Context.get(context, EventStore.EventStore)
  yield* sql`CREATE TABLE ${sql(schema)}.noted (process text NOT NULL)`
  yield* sql`INSERT INTO ${sql(schema)}.noted VALUES ('nobody')`

  const noted = Effect.map(
    sql<{ readonly process: string }>`SELECT process FROM ${sql(schema)}.noted`,
    ([row]) => row?.process ?? ""
  )
  const runs = Effect.map(Projection.processes, (all) =>
    all.flatMap(({ isSilent, name, runs }) => {
      const count = runs.reduce((sum, run) => sum + run.shards.length, 0)
      return isSilent || count === 0 ? [] : [{ name, count }]
    })
  ).pipe(Effect.provideContext(context))
  const untilAllRun = (names: ReadonlyArray<string>) =>
    Effect.repeat(runs, {
      until: (all) =>
        all.length === names.length &&
        all.every(({ name }) => names.includes(name)) &&
        all.reduce((sum, { count }) => sum + count, 0) === shards,
      schedule: often
    })

  /** Until each shard has passed what is in the log by now. */
  const untilPassed = Effect.gen(function* () {
    const [stored] = yield* events.append({ aggregateId: "a", eventType: "Happened", data: 0 })
    const least = sql<{ readonly least: bigint }>`
      SELECT min(current_offset) AS least FROM ${sql(schema)}.offsets_store WHERE projection_name = ${projection}`
    yield* Effect.repeat(least, { until: ([row]) => (row?.least ?? 0n) >= (stored?.version ?? 0n), schedule: often })
  })

  let alive = yield* Effect.replicateEffect(start(mode, server.url, shards), processes)
  const all: { readonly shards: Array<number>; readonly singleton: Array<number> } = { shards: [], singleton: [] }
  for (let turn = 0; turn < kills; turn++) {
    yield* untilAllRun(alive.map(({ name }) => name))
    yield* untilPassed
    // Not always at the same moment of a heartbeat.
    yield* Effect.sleep((1000 * turn) / kills)
    const running = yield* noted
    const victim = alive.find(({ name }) => mode === "plain" || name === running)
    if (victim === undefined) return yield* Effect.die(new Error("the singleton runs nowhere"))
    const begun = yield* now
    const since = Effect.map(now, (ended) => ended - begun)
    yield* victim.kill
    const untilNoted = Effect.repeat(noted, { until: (name) => name !== running, schedule: often })
    const [shardsAfter, ...singletonAfter] = yield* Effect.all(
      [untilPassed, ...(mode === "plain" ? [] : [untilNoted])].map((wait) => Effect.andThen(wait, since)),
      { concurrency: 2 }
    )
    all.shards.push(shardsAfter ?? Number.NaN)
    all.singleton.push(...singletonAfter)
    alive = [...alive.filter((one) => one !== victim), yield* start(mode, server.url, shards)]
  }
  return all
}, Effect.scoped)

const size = { processes: 3, shards: 60 }

export const figures = (quick: boolean): ReadonlyArray<Amount> =>
  (["plain", "cluster"] as const).map((mode) => {
    const kills = quick ? 2 : 10
    return {
      name: `takeover/${mode}`,
      unit: "ms",
      otherName: "most that it may take",
      conditions: `the longest of ${kills}, from SIGKILL of one of ${size.processes} processes until others do its work`,
      constant: true,
      amount: Effect.map(kill(mode, { ...size, kills }), ({ shards, singleton }) => ({
        strata: Math.max(...shards, ...singleton),
        other: limitMillis
      }))
    }
  })

const line = (name: string, millis: ReadonlyArray<number>) => {
  const sorted = millis.toSorted((a, b) => a - b)
  const seconds = (at: number) => ((sorted[at] ?? Number.NaN) / 1000).toFixed(2)
  return `${name.padEnd(28)} p50 ${seconds(sorted.length >> 1)} s, at most ${seconds(sorted.length - 1)} s, of ${sorted.length}`
}

const main = Effect.gen(function* () {
  const { values } = parseArgs({
    options: {
      kills: { type: "string", default: "20" },
      processes: { type: "string", default: String(size.processes) },
      shards: { type: "string", default: String(size.shards) }
    }
  })
  const asked = { kills: Number(values.kills), processes: Number(values.processes), shards: Number(values.shards) }
  const plain = yield* kill("plain", asked)
  yield* Console.log(line("shards of plain processes", plain.shards))
  const cluster = yield* kill("cluster", asked)
  yield* Console.log(line("shards of a cluster", cluster.shards))
  yield* Console.log(line("a singleton of a cluster", cluster.singleton))
})

if (import.meta.main) NodeRuntime.runMain(main)
