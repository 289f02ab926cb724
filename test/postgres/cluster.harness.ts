/** What the tests of a cluster share: a server, runners in processes of their own, and what they have to add up. */
import { PgClient } from "@effect/sql-pg"
import { assert } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Redacted, Schedule, Stream } from "effect"
import { EventStore, OffsetStore, Projection } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { fileURLToPath } from "node:url"
import { untilHandled } from "../../src/testing/ProjectionScene.ts"
import { freePort } from "../support/ports.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import * as Proxy from "../support/Proxy.ts"
import { startScript } from "../support/scripts.ts"

const script = fileURLToPath(new URL("cluster.process.ts", import.meta.url))
const clock = new URL("../chaos/clock.ts", import.meta.url).href
const schema = "clustered"
const projection = "sums"

// The cluster places each shard by the hash of its name, so that a runner is given about a third of them. Of 12 it would be
// given none in one run of 40, and nothing would be seen of it; of 60 in none.
const shards = 60

// A busy machine handles less than it could append: without a limit the runners would have more and more to do.
const mostAhead = 2000n

export interface Placing {
  /** The database, as this runner reaches it. */
  readonly url: string
  /** The port on which it listens. */
  readonly listen?: number
  /** The port at which the others look for it: the one on which it listens, unless given. */
  readonly advertised?: number
  /** By how many milliseconds its clock is ahead of the machine's. */
  readonly clockAhead?: number
  /** The time zone of its sessions. */
  readonly timeZone?: string
}

/** Starts a runner, and kills it with the scope. */
export const start = Effect.fnUntraced(function* ({
  advertised,
  clockAhead = 0,
  listen,
  timeZone = "UTC",
  url
}: Placing) {
  const port = listen ?? (yield* freePort)
  const args = [url, schema, projection, String(port), String(advertised ?? port), timeZone]
  const { ended, kill, send } = yield* startScript(script, args, {
    flags: [`--import=${clock}`],
    env: { CHAOS_CLOCK: String(clockAhead) },
    stdio: ["ignore", "inherit", "inherit"]
  })
  return {
    name: `runner ${port}`,
    port,
    ended,
    kill,
    /** It does nothing until it is told to go on, and its connections stay open. */
    stop: send("SIGSTOP"),
    goOn: send("SIGCONT")
  }
})

export type Runner = Effect.Success<ReturnType<typeof start>>

/** A runner that the others reach by way of a network of its own. */
export const startBehindProxy = Effect.fnUntraced(function* (placing: Placing) {
  const listen = yield* freePort
  const network = yield* Proxy.make({ host: "127.0.0.1", port: listen })
  return { network, ...(yield* start({ ...placing, listen, advertised: network.port })) }
})

/** Which runners have shards, where all shards have a runner: their names, in order. */
export const runnersNow = Effect.map(Projection.processes, (all) => {
  const alive = all.filter(({ isSilent, runs }) => !isSilent && runs.length > 0)
  const count = alive.reduce((sum, { runs }) => sum + runs.reduce((all, { shards }) => all + shards.length, 0), 0)
  return count < shards ? [] : alive.map(({ name }) => name).sort()
})

/** Fails if one of these ends by itself. */
const endOf = (runners: ReadonlyArray<Runner>) =>
  Effect.raceAllFirst(
    runners.map(({ ended, name }) => Effect.andThen(ended, Effect.die(new Error(`${name} has ended by itself`))))
  )

/** Waits until so many of these runners, and no others, have all the shards. Returns which ones. */
export const untilSome = (count: number, ...runners: ReadonlyArray<Runner>) =>
  runnersNow.pipe(
    Effect.map((now) =>
      runners.filter(({ name }) => now.includes(name)).map(({ name }) => [name, now.length] as const)
    ),
    Effect.repeat({
      until: (found) => found.length === count && found.every(([, all]) => all === count),
      schedule: Schedule.spaced("50 millis")
    }),
    Effect.map((found) => found.map(([name]) => name)),
    Effect.raceFirst(endOf(runners))
  )

/** Waits until these runners, and no others, have all the shards. */
export const until = (...runners: ReadonlyArray<Runner>) => untilSome(runners.length, ...runners)

/** A server whose log gets events all the time, of which runners keep sums. */
export const clustered = Effect.gen(function* () {
  const server = yield* PostgresServer.make()
  const pool = PgClient.layer({ url: Redacted.make(server.url), maxConnections: 5 })
  const context = yield* Layer.build(Layer.provideMerge(Postgres.layer({ schema }), pool))
  const sql = Context.get(context, PgClient.PgClient)
  const events = Context.get(context, EventStore.EventStore)
  const offsets = Context.get(context, OffsetStore.OffsetStore)
  yield* sql`CREATE TABLE ${sql(schema)}.sums (id text PRIMARY KEY, sum bigint NOT NULL, count bigint NOT NULL)`
  yield* sql`CREATE TABLE ${sql(schema)}.noted (runner text NOT NULL)`
  yield* sql`INSERT INTO ${sql(schema)}.noted VALUES ('nobody')`
  const batch = Array.from({ length: 200 }, (_, data) => ({ aggregateId: `a${data % 60}`, eventType: "Added", data }))
  const isNear = (last: bigint) =>
    Effect.map(
      Stream.runCollect(offsets.listOffsets(projection)),
      (all) => all.length === shards && all.every(({ value }) => last - value <= mostAhead)
    )
  // What fails while the server is away is in the log or is not, and the sums are compared with the log.
  const appending = yield* Effect.gen(function* () {
    const last = (yield* events.append(batch)).at(-1)?.version ?? 0n
    yield* Effect.repeat(isNear(last), { until: (is) => is, schedule: Schedule.spaced("100 millis") })
  }).pipe(Effect.ignore, Effect.andThen(Effect.sleep("100 millis")), Effect.forever, Effect.forkScoped)
  const untilAllHandled = Effect.flatMap(events.latestVersion, (version) => untilHandled(projection, version)).pipe(
    Effect.provideContext(context)
  )
  return {
    context,
    server,
    sql,
    status: Effect.provideContext(Projection.status(projection), context),
    /** Waits until all that is in the log by now was handled. */
    untilAllHandled,
    /** Waits until the singleton runs in one of these runners. */
    untilNoted: Effect.fnUntraced(function* (...runners: ReadonlyArray<Runner>) {
      yield* sql`UPDATE ${sql(schema)}.noted SET runner = 'nobody'`
      yield* Effect.repeat(sql<{ readonly runner: string }>`SELECT runner FROM ${sql(schema)}.noted`, {
        until: ([noted]) => runners.some(({ name }) => name === noted?.runner),
        schedule: Schedule.spaced("50 millis")
      })
    }),
    /** Fails unless each event has taken effect once, and no more come. */
    exact: Effect.gen(function* () {
      yield* Fiber.interrupt(appending)
      yield* untilAllHandled
      const wrong = yield* sql`
        SELECT id FROM ${sql(schema)}.sums FULL JOIN (
          SELECT aggregate_id AS id, sum(data::text::bigint) AS sum, count(*) FROM ${sql(schema)}.events GROUP BY 1
        ) AS log USING (id)
        WHERE sums.sum IS DISTINCT FROM log.sum OR sums.count IS DISTINCT FROM log.count`
      assert.deepStrictEqual(wrong, [])
    })
  }
})
