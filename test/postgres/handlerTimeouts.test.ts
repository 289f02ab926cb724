/** Handlers that hang in the database: the time limit ends their statement, and what comes after it goes on. */
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Context, Effect, Layer, Redacted, Schedule, Schema, Stream } from "effect"
import { EventStore, Projection, Spool, SpoolStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { postgresUrl } from "../support/database.ts"
import { freshSchema } from "./harness.ts"

/** The stores, and a statement that takes an hour. */
const serve = Effect.gen(function* () {
  const schema = yield* freshSchema()
  const pool = PgClient.layer({ url: Redacted.make(postgresUrl), maxConnections: 4 })
  const context = yield* Layer.build(Layer.provideMerge(Postgres.layer({ schema }), pool))
  const sql = Context.get(context, PgClient.PgClient)
  return { context, hang: sql`SELECT pg_sleep(3600)` }
})

it.live.each(["skip", "park"] as const)("a projection passes the event whose statement hangs (%s)", (onFailure) =>
  Effect.gen(function* () {
    const { context, hang } = yield* serve
    yield* Effect.gen(function* () {
      const events = yield* EventStore.EventStore
      yield* events.append(["a", "hangs", "b"].map((aggregateId) => ({ aggregateId, eventType: "Paid", data: {} })))
      const projection = Projection.make({
        name: "limited",
        timeout: "200 millis",
        retry: Schedule.recurs(1),
        onFailure,
        handler: ({ aggregateId }) => (aggregateId === "hangs" ? hang : Effect.void)
      })
      yield* Effect.forkScoped(Projection.run(projection))
      yield* Projection.awaitVersion("limited", 3n, "4 minutes")
      const unhandled = onFailure === "skip" ? Projection.skipped("limited") : Projection.parked("limited")
      const [failure, ...more] = yield* Stream.runCollect(unhandled)
      assert.deepStrictEqual([failure?.aggregateId, more.length], ["hangs", 0])
      assert.include(failure?.error, "the handler has not ended within 200ms")
    }).pipe(Effect.provideContext(context))
  })
)

it.live.each([false, true])("a worker bounces the message whose statement hangs (transactional: %s)", (transactional) =>
  Effect.gen(function* () {
    const { context, hang } = yield* serve
    yield* Effect.gen(function* () {
      const spool = yield* SpoolStore.SpoolStore
      const mails = Spool.make({
        name: "mails",
        payload: Schema.String,
        maxAttempts: 2,
        policies: { default: Spool.fixed(0) }
      })
      yield* Effect.forkScoped(
        mails.run((to) => (to === "hangs" ? hang : Effect.void), { timeout: "200 millis", transactional })
      )
      const hangs = yield* mails.enqueue("hangs")
      yield* mails.enqueue("goes on")
      yield* Effect.repeat(spool.countByState("mails"), {
        until: ({ active, bounce, deferred, incoming }) => bounce === 1 && active + deferred + incoming === 0
      })
      const { attempts, lastError } = yield* spool.getMeta({ queue: "mails", id: hangs })
      assert.strictEqual(attempts, 2)
      assert.include(lastError, "the handler has not ended within 200ms")
    }).pipe(Effect.provideContext(context))
  })
)
