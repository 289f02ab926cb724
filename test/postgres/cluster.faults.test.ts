/** A projection on a cluster of three runners: they are killed, join, and are cut off from the database. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer, Redacted, Schedule } from "effect"
import { EventStore, Projection } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import { untilHandled } from "../../src/testing/ProjectionScene.ts"
import { freePort } from "../support/ports.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import * as Proxy from "../support/Proxy.ts"

const script = fileURLToPath(new URL("cluster.process.ts", import.meta.url))
const schema = "clustered"
const name = "sums"
// The cluster places each shard by the hash of its name, so that a runner is given about a third of them. Of 12 it would be
// given none in one run of 40, and nothing would be seen of it; of 60 in none.
const shards = 60

/** Starts a runner, and kills it with the scope. */
const start = Effect.fnUntraced(function* (url: string) {
  const port = yield* freePort
  const { child, gone } = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const args = ["--conditions=@effect-strata/source", script, url, schema, name, String(port)]
      const child = spawn(process.execPath, args, { stdio: ["ignore", "inherit", "inherit"] })
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
  return {
    name: `runner ${port}`,
    gone: Deferred.await(gone),
    kill: Effect.andThen(
      Effect.sync(() => child.kill("SIGKILL")),
      Deferred.await(gone)
    )
  }
})

type Runner = Effect.Success<ReturnType<typeof start>>

/** Which runners have shards, where all shards have a runner. */
const runnersNow = Effect.map(Projection.processes, (all) => {
  const alive = all.filter(({ isSilent, runs }) => !isSilent && runs.length > 0)
  const count = alive.reduce((sum, { runs }) => sum + runs.reduce((all, { shards }) => all + shards.length, 0), 0)
  return count < shards
    ? ""
    : alive
        .map(({ name }) => name)
        .sort()
        .join()
})

/** Waits until these runners, and no others, have all the shards. Fails if one of them ends by itself. */
const until = (...runners: ReadonlyArray<Runner>) => {
  const expected = runners
    .map(({ name }) => name)
    .sort()
    .join()
  return Effect.repeat(runnersNow, {
    until: (now) => now === expected,
    schedule: Schedule.spaced("50 millis")
  }).pipe(
    Effect.raceFirst(
      Effect.raceAllFirst(
        runners.map(({ gone, name }) => Effect.andThen(gone, Effect.die(new Error(`${name} has ended by itself`))))
      )
    )
  )
}

describe("a projection on three runners of a cluster", () => {
  it.live(
    "adds up exactly, though runners are killed, join, and are cut off from the database",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        const pool = PgClient.layer({ url: Redacted.make(server.url), maxConnections: 5 })
        const context = yield* Layer.build(Layer.provideMerge(Postgres.layer({ schema }), pool))
        const sql = Context.get(context, PgClient.PgClient)
        yield* sql`CREATE TABLE ${sql(schema)}.sums (id text PRIMARY KEY, sum bigint NOT NULL, count bigint NOT NULL)`
        yield* Effect.gen(function* () {
          const events = yield* EventStore.EventStore
          const batch = Array.from({ length: 200 }, (_, data) => ({
            aggregateId: `a${data % 60}`,
            eventType: "Added",
            data
          }))
          const appending = yield* Effect.forkScoped(
            Effect.forever(Effect.andThen(events.append(batch), Effect.sleep("100 millis")))
          )
          const proxy = yield* Proxy.make({ host: "127.0.0.1", port: server.port })
          const cutOff = yield* start(proxy.url(server.url))
          const [second, third] = [yield* start(server.url), yield* start(server.url)]
          yield* until(cutOff, second, third)

          yield* second.kill
          yield* until(cutOff, third)
          const fourth = yield* start(server.url)
          yield* until(cutOff, third, fourth)

          // It reaches the other runners, and the database no more: nothing tells it that its locks have gone.
          yield* proxy.stall(true)
          yield* until(third, fourth)
          yield* proxy.stall(false)
          yield* until(cutOff, third, fourth)
          yield* proxy.cut
          yield* third.kill
          yield* until(cutOff, fourth)

          for (const { process, state } of yield* Projection.status(name)) {
            assert.strictEqual(state, "running")
            assert.isTrue(process._tag === "Some" && [cutOff.name, fourth.name].includes(process.value.name))
          }
          yield* Fiber.interrupt(appending)
          yield* untilHandled(name, yield* events.latestVersion)
          const wrong = yield* sql`
            SELECT id FROM ${sql(schema)}.sums FULL JOIN (
              SELECT aggregate_id AS id, sum(data::text::bigint) AS sum, count(*) FROM ${sql(schema)}.events GROUP BY 1
            ) AS log USING (id)
            WHERE sums.sum IS DISTINCT FROM log.sum OR sums.count IS DISTINCT FROM log.count`
          assert.deepStrictEqual(wrong, [])
        }).pipe(Effect.provide(context))
      }),
    { timeout: 600_000 }
  )
})
