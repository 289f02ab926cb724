/** Transactions of projections and workers that end when their process has fallen silent, and only then. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schedule, Schema, Stream } from "effect"
import { type EventStore, InvalidInput, Projection, Spool, SpoolStore, Transactor } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { untilHandled } from "../../src/testing/ProjectionScene.ts"
import { event, serveEvents } from "./events.harness.ts"

const served = serveEvents({ options: { silenceLimit: "1 second" } })

/** Longer than the server waits for a process that says nothing. */
const long = "3 seconds"

/** Keeps the event loop busy for as long. */
const blocked = Effect.sync(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3000))

const ended =
  /Transactor.withTransaction: this process said nothing for \d+ milliseconds in the middle of a transaction, and silenceLimit is 1s: the server has ended the transaction; do what keeps the event loop busy/

const mails = Spool.make({
  name: "mails",
  payload: Schema.String,
  maxAttempts: 2,
  policies: { default: Spool.fixed(0) }
})

const messages = (isWanted: (counts: Readonly<Record<SpoolStore.State, number>>) => boolean) =>
  SpoolStore.SpoolStore.use((spool) => Effect.repeat(spool.countByState("mails"), { until: isWanted }))

describe("a handler that takes long beside the database", () => {
  it.live("is handled once by a projection", () =>
    Effect.gen(function* () {
      const { context, events } = yield* served
      const [appended] = yield* events.append(event("a"))
      const calls: Array<string> = []
      const handler = () =>
        Effect.delay(
          Effect.sync(() => calls.push("handled")),
          long
        )
      yield* Effect.raceFirst(
        Projection.run(Projection.make({ name: "slow", handler })),
        untilHandled("slow", appended?.version ?? 0n)
      ).pipe(Effect.provideContext(context))
      assert.deepStrictEqual(calls, ["handled"])
    })
  )

  it.live("is handled once by a transactional worker", () =>
    Effect.gen(function* () {
      const { context } = yield* served
      yield* Effect.gen(function* () {
        yield* mails.enqueue("a")
        const calls: Array<number> = []
        const handler = (_: string, { attempts }: SpoolStore.SpoolMessage) =>
          Effect.delay(
            Effect.sync(() => calls.push(attempts)),
            long
          )
        yield* Effect.forkScoped(mails.run(handler, { transactional: true }))
        yield* messages((counts) => Object.values(counts).every((count) => count === 0))
        assert.deepStrictEqual(calls, [1])
      }).pipe(Effect.provideContext(context))
    })
  )
})

describe("a handler that keeps the event loop busy", () => {
  it.live("stops a projection, whose message says why", () =>
    Effect.gen(function* () {
      const { context, events } = yield* served
      yield* events.append(["a", "busy", "b"].map((aggregateId) => event(aggregateId)))
      const handler = ({ aggregateId }: EventStore.StoredEvent) => (aggregateId === "busy" ? blocked : Effect.void)
      const retry = Schedule.recurs(1)
      const error = yield* Effect.flip(Projection.run(Projection.make({ name: "busy", retry, handler }))).pipe(
        Effect.provideContext(context)
      )
      assert.instanceOf(error, Projection.ProjectionFailed)
      assert.deepStrictEqual([error.aggregateId, error.attempts], ["busy", 2])
      assert.match(String(error.cause), ended)
    })
  )

  it.live.each(["skip", "park"] as const)("is passed by a projection (%s)", (onFailure) =>
    Effect.gen(function* () {
      const { context, events } = yield* served
      const appended = yield* events.append(["a", "busy", "b"].map((aggregateId) => event(aggregateId)))
      const handled: Array<string> = []
      const handler = ({ aggregateId }: EventStore.StoredEvent) =>
        Effect.gen(function* () {
          if (aggregateId === "busy") yield* blocked
          // This failure comes of the silence: it is not the one to tell.
          const { afterCommit } = yield* Transactor.Transactor
          const sql = yield* PgClient.PgClient
          yield* sql`SELECT 1`
          yield* afterCommit(Effect.sync(() => handled.push(aggregateId)))
        })
      const projection = Projection.make({ name: "busy", retry: Schedule.recurs(0), onFailure, handler })
      yield* Effect.gen(function* () {
        const untilPassed = untilHandled("busy", appended.at(-1)?.version ?? 0n)
        yield* Effect.raceFirst(Projection.run(projection), untilPassed)
        const unhandled = onFailure === "skip" ? Projection.skipped("busy") : Projection.parked("busy")
        const [failure, ...more] = yield* Stream.runCollect(unhandled)
        assert.deepStrictEqual([failure?.aggregateId, more.length], ["busy", 0])
        assert.include(failure?.error, "this process said nothing for")
        if (onFailure === "skip") return
        const retried = yield* Effect.raceFirst(Projection.run(projection), Projection.retryParked("busy", "4 minutes"))
        assert.deepStrictEqual(
          retried.map(({ state }) => state),
          ["parked"]
        )
      }).pipe(Effect.provideContext(context))
      assert.deepStrictEqual(handled, ["a", "b"])
    })
  )

  it.live("bounces in a transactional worker", () =>
    Effect.gen(function* () {
      const { context } = yield* served
      yield* Effect.gen(function* () {
        const busy = yield* mails.enqueue("busy")
        yield* Effect.forkScoped(mails.run(() => blocked, { transactional: true }))
        yield* messages(({ bounce }) => bounce === 1)
        const { attempts, lastError } = yield* SpoolStore.SpoolStore.use((spool) =>
          spool.getMeta({ queue: mails.name, id: busy })
        )
        assert.strictEqual(attempts, 2)
        assert.match(lastError, ended)
      }).pipe(Effect.provideContext(context))
    })
  )
})

describe("the limit", () => {
  const settingOf = (sql: PgClient.PgClient) =>
    Effect.map(
      sql`SELECT current_setting('idle_in_transaction_session_timeout') AS setting`,
      ([row]) => row?.["setting"]
    )

  it.live("is set by the move of the offset, and costs no statement", () =>
    Effect.gen(function* () {
      const { context, events, sql } = yield* served
      const [appended] = yield* events.append(event("a"))
      const found: Array<unknown> = []
      const handler = () =>
        Effect.gen(function* () {
          const rows =
            yield* sql`SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%set_config(''idle%'`
          found.push(yield* settingOf(sql), ...rows.map(({ statement }) => String(statement).trim().split(" ")[0]))
        })
      yield* Effect.raceFirst(
        Projection.run(Projection.make({ name: "limited", handler })),
        untilHandled("limited", appended?.version ?? 0n)
      ).pipe(Effect.provideContext(context))
      assert.deepStrictEqual(found, ["1s", "UPDATE"])
    })
  )

  it.live("is set before the first statement of the application, and ends with the transaction", () =>
    Effect.gen(function* () {
      const { context, sql } = yield* serveEvents({ client: { maxConnections: 1 } })
      const { withTransaction, withWatchedTransaction } = yield* Effect.provideContext(Transactor.Transactor, context)
      assert.strictEqual(yield* withWatchedTransaction(settingOf(sql)), "5s")
      assert.strictEqual(yield* withTransaction(withWatchedTransaction(settingOf(sql))), "0")
      assert.strictEqual(yield* settingOf(sql), "0")
    })
  )

  it.live("is at least a second", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(serveEvents({ options: { silenceLimit: "999 millis" }, layer: Postgres.layer }))
      assert.instanceOf(error, InvalidInput.InvalidInput)
      assert.include(error.message, "silenceLimit")
    })
  )
})
