/** The figures of the `SpoolStore`, beside the same work on the bare driver. */
import { PgClient } from "@effect/sql-pg"
import { Context, Deferred, Effect, Fiber, Layer, Schema } from "effect"
import { Spool, SpoolStore, type Transactor } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { fibers, type Figure } from "./harness.ts"

const payload = { to: "anna@example.org", subject: "a message like any other" }

/** Messages in a queue, a thousand at a time. */
const fill = (queue: string | undefined, count: number, options: object = {}) =>
  SpoolStore.SpoolStore.use((spool) =>
    Effect.gen(function* () {
      for (let stored = 0; stored < count; stored += 1000) {
        yield* spool.storeMany(
          Array.from({ length: Math.min(1000, count - stored) }, () => ({
            ...options,
            id: crypto.randomUUID(),
            ...(queue === undefined ? {} : { queue }),
            payload
          }))
        )
      }
    })
  )

/** Claims and settles everything in a queue, `size` at a time, by 4 workers. */
const drain = (queue: string, size: number) =>
  SpoolStore.SpoolStore.use((spool) => {
    let claims = 0
    const worker = Effect.gen(function* () {
      while (true) {
        const owner = `bench ${++claims}`
        const messages = yield* spool.claim({ queue, limit: size, lease: "1 minute", owner })
        if (messages.length === 0) return
        yield* spool.settle(
          messages.map((message) => Object.assign({ outcome: "done" as const }, SpoolStore.leaseOf(message, owner)))
        )
      }
    })
    return Effect.all([worker, worker, worker, worker], { concurrency: 4 })
  })

/** Four workers that take one message at a time: `take` handles one, if there is one. */
const drainOneByOne =
  (take: (sql: PgClient.PgClient, queue: string) => Effect.Effect<boolean, unknown>) => (queue: string) =>
    PgClient.PgClient.use((sql) => {
      const worker = Effect.repeat(take(sql, queue), { while: (found) => found })
      return Effect.all([worker, worker, worker, worker], { concurrency: 4 })
    })

/**
 * Works as RetrySpool does: looks for a message, moves it by compare-and-set, which fails if another worker has moved it, and
 * deletes it.
 */
const comparing = drainOneByOne(
  Effect.fnUntraced(function* (sql, queue) {
    const [next] = yield* sql`
      SELECT id FROM strata_messages WHERE state = 0 AND queue = ${queue}
      ORDER BY priority, created, id COLLATE "C" LIMIT 1`.values
    if (next === undefined) return false
    const id = String(next[0])
    const claimed = yield* sql`
      UPDATE strata_messages SET state = 1, attempts = attempts + 1, updated = now() WHERE queue = ${queue} AND id = ${id} AND state = 0
      RETURNING id, payload, headers`.values
    if (claimed.length > 0) yield* sql`DELETE FROM strata_messages WHERE queue = ${queue} AND id = ${id} AND state = 1`
    return true
  })
)

/** Works without lost claims: takes a message that no other worker has locked, and deletes it. */
const skippingLocked = drainOneByOne(
  Effect.fnUntraced(function* (sql, queue) {
    const [claimed] = yield* sql`
      UPDATE strata_messages SET state = 1, attempts = attempts + 1, updated = now()
      WHERE queue = ${queue} AND id = (
        SELECT id FROM strata_messages WHERE state = 0 AND queue = ${queue}
        ORDER BY priority, created, id COLLATE "C" LIMIT 1 FOR UPDATE SKIP LOCKED
      ) RETURNING id, payload, headers`.values
    if (claimed === undefined) return false
    yield* sql`DELETE FROM strata_messages WHERE queue = ${queue} AND id = ${String(claimed[0])} AND state = 1`
    return true
  })
)
/** Both sides drain a queue of their own. Only the draining is timed. */
const claims = (size: number, drainOther: typeof comparing) =>
  Effect.gen(function* () {
    const context = yield* Effect.context<SpoolStore.SpoolStore | PgClient.PgClient>()
    return {
      prepare: (operations: number) =>
        Effect.provideContext(Effect.andThen(fill("strata", operations), fill("other", operations)), context),
      strata: () => Effect.provideContext(drain("strata", size), context),
      other: () => Effect.provideContext(drainOther("other"), context)
    }
  })

const stores = (count: number) =>
  Effect.gen(function* () {
    const spool = yield* SpoolStore.SpoolStore
    const sql = yield* PgClient.PgClient
    return {
      strata: fibers(count, () => spool.storeMeta({ id: crypto.randomUUID(), queue: "stored", payload })),
      other: fibers(
        count,
        () => sql`
          INSERT INTO strata_messages (id, queue, state, max_attempts, next_retry, last_error, headers, payload)
          VALUES (${crypto.randomUUID()}, 'bare', 0, 10, now(), '', '{}', ${JSON.stringify(payload)})`
      )
    }
  })

/** The same draining on two tables, of which one has a million archived messages and 200,000 for the future beside. */
const backlog = Effect.gen(function* () {
  const context = yield* Effect.context<PgClient.PgClient>()
  const sql = Context.get(context, PgClient.PgClient)
  const tables = (name: string) => ({
    messages: name,
    spool: `${name}_go`,
    events: "backlog_events",
    offsets: "backlog_offsets"
  })
  const serve = (name: string) =>
    Effect.map(Layer.build(Layer.fresh(Postgres.layer({ tables: tables(name) }))), (stores) =>
      Context.merge(context, stores)
    )
  const full = yield* serve("backlog_full")
  const empty = yield* serve("backlog_empty")
  yield* sql`
    INSERT INTO backlog_full (id, queue, state, max_attempts, next_retry, created, updated, last_error, headers, payload)
    SELECT n::text, 'strata', CASE WHEN n <= 1000000 THEN 5 ELSE 2 END, 10, now() + interval '1 year',
      now() - interval '1 day', now(), '', '{}', ${JSON.stringify(payload)}::jsonb
    FROM generate_series(1, 1200000) AS n`
  yield* sql`VACUUM ANALYZE backlog_full`
  return {
    prepare: (operations: number) =>
      Effect.andThen(
        Effect.provideContext(fill("strata", operations), full),
        Effect.provideContext(fill("strata", operations), empty)
      ),
    strata: () => Effect.provideContext(drain("strata", 100), full),
    other: () => Effect.provideContext(drain("strata", 100), empty)
  }
})

const Payload = Schema.Struct({ to: Schema.String, subject: Schema.String })

/** Messages that wait are handled by a worker that does nothing, from its start to the last one. */
const endToEnd = (size: number) =>
  Effect.gen(function* () {
    const context = yield* Effect.context<SpoolStore.SpoolStore | Transactor.Transactor | PgClient.PgClient>()
    const jobs = Spool.make({ name: "end to end", payload: Payload })
    return {
      prepare: (operations: number) =>
        Effect.provideContext(Effect.andThen(fill(jobs.name, operations), fill("other", operations)), context),
      strata: (operations: number) =>
        Effect.gen(function* () {
          const done = yield* Deferred.make<void>()
          let handled = 0
          const handler = () =>
            Effect.suspend(() => (++handled === operations ? Deferred.succeed(done, undefined) : Effect.void))
          const worker = yield* Effect.forkScoped(jobs.run(handler, { concurrency: size, buffer: size * 4 }))
          yield* Deferred.await(done)
          yield* Fiber.interrupt(worker)
        }).pipe(Effect.scoped, Effect.provideContext(context)),
      other: () => Effect.provideContext(skippingLocked("other"), context)
    }
  })

const otherName = "bare driver, one at a time, SKIP LOCKED"

export const figures: ReadonlyArray<Figure> = [
  {
    name: "spool/claim-100",
    operations: 2_000,
    otherName: "bare driver, one at a time, compare-and-set",
    unit: "messages/s",
    conditions: "4 workers, claim and settle 100 at a time",
    sides: claims(100, comparing)
  },
  {
    name: "spool/claim-100-locked",
    operations: 4_000,
    otherName,
    unit: "messages/s",
    conditions: "4 workers, claim and settle 100 at a time",
    sides: claims(100, skippingLocked)
  },
  {
    name: "spool/end-to-end",
    operations: 8_000,
    otherName,
    unit: "messages/s",
    conditions: "1 worker, 100 at a time, no-op handler",
    sides: endToEnd(100)
  },
  {
    name: "spool/backlog",
    operations: 40_000,
    quick: 1_000,
    otherName: "same with nothing else in the table",
    unit: "messages/s",
    conditions: "claim and settle 100 at a time, beside 1M archived and 200k future messages",
    sides: backlog
  },
  {
    name: "spool/store-16",
    operations: 3_200,
    otherName: "bare driver",
    unit: "messages/s",
    conditions: "16 fibers, 1 at a time",
    sides: stores(16)
  }
]
