/** Projections in processes that are killed, on a server that is restarted. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Layer, Redacted, Schedule, type Scope, Stream } from "effect"
import { EventStore, Projection } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { spawn } from "node:child_process"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { untilHandled } from "../../src/testing/ProjectionScene.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { event, serveEvents } from "./events.harness.ts"
import { freshSchema } from "./harness.ts"

const script = fileURLToPath(new URL("projection.process.ts", import.meta.url))
const cache = join(tmpdir(), "strata-compile-cache")
const schema = "projected"
const aggregates = 500

/** Starts three processes that run the projection. One of them can be killed while it handles a batch. */
const runners = Effect.fnUntraced(function* (url: string, name: string) {
  let onBatch = (_runner: Runner): void => {}
  interface Runner {
    readonly kill: Effect.Effect<void>
  }
  const begin: Effect.Effect<Runner, never, Scope.Scope> = Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn(process.execPath, ["--conditions=@effect-strata/source", script, url, schema, name], {
        stdio: ["ignore", "pipe", "inherit"],
        env: { ...process.env, NODE_COMPILE_CACHE: cache }
      })
      const gone = Deferred.makeUnsafe<void>()
      child.once("close", () => Deferred.doneUnsafe(gone, Effect.void))
      const runner = {
        kill: Effect.andThen(
          Effect.sync(() => child.kill("SIGKILL")),
          Deferred.await(gone)
        )
      }
      createInterface(child.stdout).on("line", () => onBatch(runner))
      return runner
    }),
    ({ kill }) => kill
  )
  yield* Effect.replicateEffect(begin, 3)
  return {
    /** Kills the process that handles the batch after so many others, and starts another process. */
    killOne: Effect.fnUntraced(function* (batches: number, delay: number) {
      const chosen = Deferred.makeUnsafe<Runner>()
      let left = batches
      onBatch = (runner) => {
        if (left-- === 0) Deferred.doneUnsafe(chosen, Effect.succeed(runner))
      }
      const { kill } = yield* Deferred.await(chosen)
      // The delay lets the process die before, in or after the commit of the batch.
      if (delay > 0) yield* Effect.sleep(delay)
      yield* kill
      yield* begin
    })
  }
})

const serve = Effect.fnUntraced(function* (url: string) {
  const pool = PgClient.layer({ url: Redacted.make(url), maxConnections: 5 })
  const context = yield* Layer.build(Layer.provideMerge(Postgres.layer({ schema }), pool))
  const sql = Context.get(context, PgClient.PgClient)
  yield* sql`CREATE TABLE ${sql(schema)}.sums (id text PRIMARY KEY, sum bigint NOT NULL, count bigint NOT NULL)`
  return { context, sql, events: Context.get(context, EventStore.EventStore) }
})

describe("a projection in three processes", () => {
  it.live(
    "adds up exactly, though they are killed fifty times, and the server is",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        const { context, events, sql } = yield* serve(server.url)
        const kills = 50
        const batch = Array.from({ length: 1000 }, (_, index) => ({
          aggregateId: `a${index % aggregates}`,
          eventType: "Added",
          data: index
        }))
        const { killOne } = yield* runners(server.url, "sums")
        for (let round = 0; round < kills; round++) {
          yield* events.append(batch)
          yield* events.append(batch)
          yield* killOne(Math.floor(Math.random() * 6), Math.floor(Math.random() * 5))
          if (round === 20) yield* server.restart("immediate")
          if (round === 35) yield* Effect.andThen(server.kill, server.start)
        }
        const head = yield* events.latestVersion
        yield* Effect.provide(untilHandled("sums", head), context)
        const status = yield* Effect.provide(Projection.status("sums"), context)
        assert.deepStrictEqual(
          status.map(({ offset }) => offset),
          Array.from({ length: 6 }, () => head)
        )
        const [total] = yield* sql`SELECT sum(sum)::text, sum(count)::text AS count FROM ${sql(schema)}.sums`
        assert.deepStrictEqual(total, { sum: String((2 * kills * 999 * 1000) / 2), count: String(kills * 2000) })
        const wrong = yield* sql`
          SELECT id FROM ${sql(schema)}.sums
          FULL JOIN (
            SELECT aggregate_id AS id, sum(data::text::bigint) AS sum, count(*) FROM ${sql(schema)}.events GROUP BY 1
          ) AS log USING (id)
          WHERE sums.sum IS DISTINCT FROM log.sum OR sums.count IS DISTINCT FROM log.count`
        assert.deepStrictEqual(wrong, [])
      }),
    // The test takes some 30 seconds on two quiet cores.
    { timeout: 600_000 }
  )
})

describe("a projection that skips what fails", () => {
  it.live("does not skip an event because its connection was lost", () =>
    Effect.gen(function* () {
      const { events, sql, ...served } = yield* serveEvents({ options: { schema: yield* freshSchema() } })
      const stored = yield* events.append(["a", "b", "c"].map((aggregateId) => event(aggregateId)))
      const handled: Array<string> = []
      // The event fails in the batch, by itself, and in the transaction that would record its failure.
      let losses = 4
      const projection = Projection.make({
        name: "skipping",
        onFailure: "skip",
        retry: Schedule.recurs(1),
        handler: ({ aggregateId }) =>
          Effect.gen(function* () {
            if (aggregateId === "b" && losses-- > 0) yield* sql`SELECT pg_terminate_backend(pg_backend_pid())`
            yield* sql`SELECT 1`
            yield* sql.afterCommit(Effect.sync(() => handled.push(aggregateId)))
          })
      })
      yield* Effect.gen(function* () {
        const version = stored.at(-1)?.version ?? 0n
        yield* Effect.raceFirst(Projection.run(projection), untilHandled("skipping", version))
        assert.deepStrictEqual(yield* Stream.runCollect(Projection.skipped("skipping")), [])
      }).pipe(served.watched, Effect.provide(served.context))
      assert.deepStrictEqual(handled, ["a", "b", "c"])
      assert.isBelow(losses, 0)
    })
  )
})
