/** Messages and projections, administered by the command while their workers run elsewhere. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Layer, Redacted } from "effect"
import { EventStore, Projection, SpoolStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { execute, freshSchema } from "../postgres/harness.ts"
import { postgresUrl } from "../support/database.ts"
import { begin, fails, jsonLines, strata, succeeds } from "./harness.ts"

/** The stores, and the command, on tables of their own. */
const served = Effect.gen(function* () {
  const schema = yield* freshSchema()
  const pool = PgClient.layer({ url: Redacted.make(postgresUrl), maxConnections: 5 })
  const context = yield* Layer.build(Layer.provideMerge(Postgres.layer({ schema }), pool))
  const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
  const run = (...args: ReadonlyArray<string>) => succeeds(args, options)
  return { schema, context, options, run }
})

describe("strata spool", () => {
  it.live("counts, lists, shows and moves messages, and finds and recovers stranded ones", () =>
    Effect.gen(function* () {
      const { context, options, run, schema } = yield* served
      const spool = Context.get(context, SpoolStore.SpoolStore)
      const message = (id: string) => ({ id, queue: "mail", payload: { to: id } })
      yield* spool.storeMany(["a", "b", "c"].map(message))
      assert.deepInclude(jsonLines(yield* run("spool", "stats", "--json"))[0], { incoming: 3, hold: 0 })
      const ids = (text: string) => jsonLines(text).map(({ id }) => id)
      assert.deepStrictEqual(ids(yield* run("spool", "list", "incoming", "--queue", "mail", "--json")), ["a", "b", "c"])
      assert.deepInclude(jsonLines(yield* run("spool", "show", "a", "--json"))[0], { id: "a", payload: { to: "a" } })

      assert.strictEqual(yield* run("spool", "hold", "a"), `Message "a" is hold\n`)
      yield* fails(["spool", "hold", "a"], 1, /Message "a" is hold, not incoming or deferred/, options)
      yield* run("spool", "release", "a")
      yield* spool.updateMeta("b", { attempts: 7 })
      yield* run("spool", "bounce", "b")
      yield* run("spool", "requeue", "b")
      const { attempts, state } = yield* spool.getMeta("b")
      assert.deepStrictEqual({ attempts, state }, { attempts: 0, state: "incoming" })
      yield* fails(["spool", "delete", "c"], 2, /say --yes/, options)
      yield* run("spool", "delete", "c", "--yes")
      yield* fails(["spool", "show", "c"], 1, /No message has the id "c"/, options)

      yield* spool.claim({ queue: "mail", limit: 1, lease: "1 hour", owner: "dead" })
      yield* execute([`UPDATE ${schema}.retryspool_messages SET lease_until = now() - interval '1 s' WHERE state = 1`])
      const examined = yield* strata(["doctor", "--json"], options)
      const finding = jsonLines(examined.stdout).find(({ check }) => check === "spool")
      assert.deepInclude(finding, { level: "warning", remedy: "start a worker, or run: strata spool recover" })
      assert.deepStrictEqual(ids(yield* run("spool", "recover", "--json")), ["a"])
      assert.strictEqual(yield* run("spool", "recover", "--json"), "")

      const delays = yield* succeeds(["spool", "preview", "backoff", "--base", "1m", "--cap", "3m", "--attempts", "3"])
      assert.strictEqual(
        delays,
        "ATTEMPT  DELAY  SINCE THE FIRST\n      1  1m     1m\n      2  2m     3m\n      3  3m     6m\n"
      )
    }).pipe(Effect.scoped)
  )
})

describe("strata projections", () => {
  it.live("shows how far a projection is and what is parked, and pauses, resumes and resets it", () =>
    Effect.gen(function* () {
      const { context, options, run } = yield* served
      const events = Context.get(context, EventStore.EventStore)
      const handled = yield* Deferred.make<void>()
      const projection = Projection.make({
        name: "balances",
        onFailure: "park",
        handler: ({ aggregateId }) =>
          aggregateId === "bad" ? Effect.fail(new Error("no such account")) : Deferred.succeed(handled, undefined)
      })
      yield* events.append(["bad", "good"].map((aggregateId) => ({ aggregateId, eventType: "Paid", data: {} })))
      yield* Effect.gen(function* () {
        yield* Effect.forkScoped(Projection.run(projection))
        yield* Deferred.await(handled)
        yield* Projection.awaitVersion("balances", 2n, "20 seconds")
      }).pipe(Effect.scoped, Effect.provideContext(context))

      const [shard] = jsonLines(yield* run("projections", "status", "balances", "--json"))
      assert.deepInclude(shard, { shardNumber: 0, offset: "2", head: "2", lag: "0", parked: 1 })
      const [parked] = jsonLines(yield* run("projections", "parked", "balances", "--json"))
      assert.deepInclude(parked, { aggregateId: "bad", version: "1", eventType: "Paid" })
      yield* run("projections", "pause", "balances")
      assert.include(yield* run("projections", "status", "balances"), "paused")
      yield* run("projections", "resume", "balances")
      yield* fails(["projections", "reset", "balances"], 2, /say --yes/, options)
      yield* fails(["projections", "reset", "balances", "--to", "9", "--yes"], 2, /at most 2/, options)
      yield* run("projections", "reset", "balances", "--yes")
      const [reset] = jsonLines(yield* run("projections", "status", "balances", "--json"))
      assert.deepInclude(reset, { offset: "0", lag: "2", parked: 0 })
      yield* fails(["projections", "status", "nobody"], 1, /nobody/, options)
    }).pipe(Effect.scoped)
  )

  it.live("says how the log differs from the one that a projection has read, and has it accepted", () =>
    Effect.gen(function* () {
      const { context, options, run, schema } = yield* served
      const events = Context.get(context, EventStore.EventStore)
      const append = (ids: ReadonlyArray<string>) =>
        events.append(ids.map((id) => ({ id, aggregateId: "a", eventType: "Paid", data: {} })))
      yield* append(["old-1", "old-2", "old-3"])
      yield* Effect.gen(function* () {
        yield* Effect.forkScoped(Projection.run(Projection.make({ name: "balances", handler: () => Effect.void })))
        yield* Projection.awaitVersion("balances", 3n, "1 minute")
      }).pipe(Effect.scoped, Effect.provideContext(context))
      yield* execute([`TRUNCATE ${schema}.events RESTART IDENTITY`])
      yield* append(["new-1", "new-2"])
      const differs = /had the event "old-3" at version 3, and has nothing there now, and ends at version 2.* say --yes/
      yield* fails(["projections", "accept", "balances"], 2, differs, options)
      assert.strictEqual(
        yield* run("projections", "accept", "balances", "--yes"),
        '"balances" goes on after version 2\n'
      )
      assert.match(yield* run("projections", "accept", "balances"), /nothing to accept/)
    }).pipe(Effect.scoped)
  )

  it.live("says on stderr what a pause waits for, while a handler hangs", () =>
    Effect.gen(function* () {
      const { context, options } = yield* served
      const events = Context.get(context, EventStore.EventStore)
      const entered = yield* Deferred.make<void>()
      const leave = yield* Deferred.make<void>()
      const handler = () => Effect.andThen(Deferred.succeed(entered, undefined), Deferred.await(leave))
      yield* events.append({ aggregateId: "a", eventType: "Paid", data: {} })
      yield* Effect.forkScoped(
        Effect.provideContext(Projection.run(Projection.make({ name: "slow", handler })), context)
      )
      yield* Deferred.await(entered)
      const pause = yield* begin(["projections", "pause", "slow"], options)
      yield* pause.says(/^strata: warning: waiting for shard 0 of projection "slow": the batch .* after version 0 /m)
      assert.isTrue(pause.isRunning())
      yield* Deferred.succeed(leave, undefined)
      const { status, stderr, stdout } = yield* pause.ended
      assert.deepStrictEqual([status, stdout], [0, `"slow" is paused\n`])
      assert.strictEqual(stderr.trimEnd().split("\n").length, 1)
    }).pipe(Effect.scoped)
  )
})
