/** Messages and projections, administered by the command while their workers run elsewhere. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer, Redacted, Schedule } from "effect"
import { EventStore, Projection, SpoolStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { execute, freshSchema } from "../postgres/harness.ts"
import { postgresUrl } from "../support/database.ts"
import { beginOnTerminal, begin, fails, jsonLines, strata, succeeds } from "./harness.ts"

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
  it.live("requeues all messages in a state that a filter describes, and says how far it is", () =>
    Effect.gen(function* () {
      const { context, options, run } = yield* served
      const spool = Context.get(context, SpoolStore.SpoolStore)
      const stored = Array.from({ length: 2500 }, (_, index) => ({ id: `m${index}`, queue: "mail", payload: index }))
      yield* spool.storeMany([...stored, { id: "m1", queue: "sms", payload: 1 }])
      const bounced = (queue: string, id: string, lastError: string) =>
        spool.moveToState({ queue, id }, "incoming", "bounce", { lastError, attempts: 7 })
      yield* Effect.forEach(
        stored,
        ({ id }, index) => bounced("mail", id, index % 5 === 0 ? "Connection TIMED OUT" : "no such user"),
        {
          concurrency: 8
        }
      )
      yield* bounced("sms", "m1", "timed out")
      const states = (queue: string) =>
        Effect.map(spool.countByState(queue), ({ bounce, incoming }) => ({ bounce, incoming }))

      yield* fails(["spool", "requeue"], 2, /give the id of one message, or --state/, options)
      yield* fails(
        ["spool", "requeue", "m1", "--state", "bounce"],
        2,
        /give the id of one message, or --state/,
        options
      )
      yield* fails(["spool", "requeue", "--error", "x"], 2, /give the id of one message, or --state/, options)
      const args = ["spool", "requeue", "--queue", "mail", "--state", "bounce"]
      yield* fails(args, 2, /Deliver 2,500 messages in bounce of queue "mail" again\?.*say --yes/, options)
      const first = yield* strata([...args, "--error", "timed out", "--yes"], options)
      assert.strictEqual(first.stdout, `500 messages of queue "mail" are incoming\n`)
      assert.match(first.stderr, /^looked at 1,000 of 2,500 messages\n/)
      const shown = yield* beginOnTerminal([...args, "--error", "nothing has this", "--yes"], options)
      yield* shown.says(/\[[#.]+\] looked at [\d,]+ of 2,000 messages/)
      assert.strictEqual((yield* shown.ended).status, 0)
      assert.deepStrictEqual(yield* states("mail"), { bounce: 2000, incoming: 500 })
      assert.deepStrictEqual(yield* states("sms"), { bounce: 1, incoming: 0 })
      const { attempts, lastError } = yield* spool.getMeta({ queue: "mail", id: "m0" })
      assert.deepStrictEqual([attempts, lastError], [0, "Connection TIMED OUT"])
      assert.strictEqual(
        yield* run(...args, "--created-after", "2100-01-01T00:00:00Z", "--yes"),
        `0 messages of queue "mail" are incoming\n`
      )
      assert.deepStrictEqual(jsonLines(yield* run("spool", "requeue", "--state", "bounce", "--yes", "--json")), [
        { requeued: 2001, from: "bounce" }
      ])
      assert.deepStrictEqual(yield* states("sms"), { bounce: 0, incoming: 1 })
    }).pipe(Effect.scoped)
  )

  it.live("counts, lists, shows and moves messages, and finds and recovers stranded ones", () =>
    Effect.gen(function* () {
      const { context, options, run, schema } = yield* served
      const spool = Context.get(context, SpoolStore.SpoolStore)
      const mail = ["--queue", "mail"]
      const message = (id: string) => ({ id, queue: "mail", payload: { to: id } })
      yield* spool.storeMany(["a", "b", "c"].map(message))
      assert.deepInclude(jsonLines(yield* run("spool", "stats", "--json"))[0], { incoming: 3, hold: 0 })
      const ids = (text: string) => jsonLines(text).map(({ id }) => id)
      assert.deepStrictEqual(ids(yield* run("spool", "list", "incoming", "--queue", "mail", "--json")), ["a", "b", "c"])
      assert.deepInclude(jsonLines(yield* run("spool", "show", "a", ...mail, "--json"))[0], {
        id: "a",
        payload: { to: "a" }
      })

      assert.strictEqual(yield* run("spool", "hold", "a", ...mail), `Message "a" of queue "mail" is hold\n`)
      yield* fails(
        ["spool", "hold", "a", ...mail],
        1,
        /Message "a" of queue "mail" is hold, not incoming or deferred/,
        options
      )
      yield* run("spool", "release", "a", ...mail)
      yield* spool.updateMeta({ queue: "mail", id: "b" }, { attempts: 7 })
      yield* run("spool", "bounce", "b", ...mail)
      yield* run("spool", "requeue", "b", ...mail)
      const { attempts, state } = yield* spool.getMeta({ queue: "mail", id: "b" })
      assert.deepStrictEqual({ attempts, state }, { attempts: 0, state: "incoming" })
      yield* fails(["spool", "delete", "c", ...mail], 2, /say --yes/, options)
      yield* run("spool", "delete", "c", "--yes", ...mail)
      yield* fails(["spool", "show", "c", ...mail], 1, /No message of queue "mail" has the id "c"/, options)
      yield* fails(
        ["spool", "show", "a"],
        1,
        /No message without a queue has the id "a"; .*name the queue, too/,
        options
      )
      // A message of RetrySpool's is in no queue.
      yield* spool.storeMeta({ id: "a", payload: "of Go" })
      assert.deepInclude(jsonLines(yield* run("spool", "show", "a", "--json"))[0], { id: "a", payload: "of Go" })
      assert.deepStrictEqual(ids(yield* run("spool", "list", "incoming", "--json")), ["a", "b", "a"])
      yield* run("spool", "delete", "a", "--yes")

      yield* spool.claim({ queue: "mail", limit: 1, lease: "1 hour", owner: "dead" })
      yield* execute([`UPDATE ${schema}.strata_messages SET lease_until = now() - interval '1 s' WHERE state = 1`])
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
        yield* Projection.awaitVersion("balances", 2n, "4 minutes")
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
        yield* Projection.awaitVersion("balances", 3n, "4 minutes")
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

describe("strata projections rebuild", () => {
  it.live("has the process that runs it empty the read model and build it anew, or says why not", () =>
    Effect.gen(function* () {
      const { context, options, run, schema } = yield* served
      const sql = Context.get(context, PgClient.PgClient)
      yield* execute([
        `CREATE TABLE ${schema}.sums (id int PRIMARY KEY, sum int NOT NULL)`,
        `INSERT INTO ${schema}.sums VALUES (1, 0)`
      ])
      const sum = Effect.map(sql`SELECT sum FROM ${sql(schema)}.sums`.values, (rows) => Number(rows[0]?.[0]))
      const add = (amount: number) => sql`UPDATE ${sql(schema)}.sums SET sum = sum + ${amount}`
      const events = Context.get(context, EventStore.EventStore)
      let isBroken = true
      const projection = (name: string, withClear: boolean) =>
        Projection.make({
          name,
          shards: 2,
          onFailure: "skip",
          retry: Schedule.recurs(0),
          handler: ({ data }) => (data === 13 ? Effect.fail(new Error("bad luck")) : add(Number(data))),
          ...(withClear
            ? {
                clear: () =>
                  isBroken ? Effect.fail(new Error("no permission")) : sql`UPDATE ${sql(schema)}.sums SET sum = 0`
              }
            : {})
        })
      yield* events.append([1, 2, 13].map((data) => ({ aggregateId: `a${data}`, eventType: "T", data })))
      const rebuild = (name: string, ...more: ReadonlyArray<string>) => [
        "projections",
        "rebuild",
        name,
        "--yes",
        ...more
      ]
      yield* fails(rebuild("sums"), 1, /No projection "sums" has run/, options)

      yield* Effect.gen(function* () {
        const running = yield* Effect.forkScoped(Projection.run(projection("sums", true)))
        yield* Projection.awaitVersion("sums", 3n, "4 minutes")
        assert.strictEqual(yield* sum, 3)
        const [skipped] = jsonLines(yield* run("projections", "skipped", "sums", "--json"))
        assert.deepInclude(skipped, { version: "3", aggregateId: "a13" })
        assert.match(
          yield* run("projections", "skipped", "sums"),
          /^VERSION  SHARD  AGGREGATE  TYPE  ERROR\n +3 +\d +a13 +T +Error: bad luck\n$/
        )
        // What only a rebuild mends.
        yield* add(1000)
        yield* fails(["projections", "rebuild", "sums"], 2, /Empty the read model of "sums".*say --yes/, options)
        yield* fails(rebuild("sums", "--timeout", "60s"), 1, /"sums" is not built anew: Error: no permission/, options)
        assert.strictEqual(yield* sum, 1003)
        isBroken = false
        assert.strictEqual(
          yield* run(...rebuild("sums", "--timeout", "60s")),
          `The read model of "sums" is built anew\n`
        )
        assert.strictEqual(yield* sum, 3)
        // The projection goes on.
        yield* events.append({ aggregateId: "b", eventType: "T", data: 4 })
        yield* Projection.awaitVersion("sums", 4n, "4 minutes")
        assert.strictEqual(yield* sum, 7)
        yield* Fiber.interrupt(running)

        // Where nobody runs it, the next one that does begins.
        yield* add(1000)
        yield* fails(rebuild("sums", "--timeout", "10ms"), 1, /no process runs "sums"; start one/, options)
        yield* Effect.forkScoped(Projection.run(projection("sums", true)))
        yield* Effect.repeat(sum, { until: (now) => now === 7 })

        yield* Effect.forkScoped(Projection.run(projection("plain", false)))
        yield* Projection.awaitVersion("plain", 4n, "4 minutes")
        yield* fails(
          rebuild("plain", "--timeout", "60s"),
          1,
          /"plain" is not built anew: the projection has no `clear`/,
          options
        )
        assert.strictEqual(yield* run("projections", "remove", "plain", "--yes"), `"plain" is removed\n`)
        yield* fails(["projections", "status", "plain"], 1, /No projection "plain" has run/, options)
      }).pipe(Effect.provide(context), Effect.scoped)
    }).pipe(Effect.scoped)
  )
})
