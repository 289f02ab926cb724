/** What looks at queues read beside hundreds of thousands of messages that wait. */
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Effect, Layer, Option, Redacted, type Scope } from "effect"
import { Health, SpoolStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { strata } from "../cli/harness.ts"
import { scratchDatabase } from "../support/database.ts"
import { rowsRead } from "../support/rowsRead.ts"
import { execute, migrate } from "./harness.ts"

/** The stores, on a pool that is closed afterwards: the server counts what a session has read once it has ended. */
const withStores = <A, E>(url: string, use: Effect.Effect<A, E, Postgres.Stores>) => {
  const pool = PgClient.layer({ url: Redacted.make(url), maxConnections: 2 })
  return Effect.provide(use, Layer.fresh(Layer.provide(Postgres.layerStorage(), pool)))
}

const stored = (values: string, from: number, to: number) =>
  `INSERT INTO strata_messages (queue, id, state, max_attempts, next_retry, created, priority)
   SELECT ${values} FROM generate_series(${from}, ${to}) AS n`

/** A database with these messages, which no vacuum reads. */
const filled = Effect.fnUntraced(function* (messages: ReadonlyArray<string>) {
  const url = yield* scratchDatabase()
  yield* migrate(url)
  yield* execute(
    ["ALTER TABLE strata_messages SET (autovacuum_enabled = off)", ...messages, "VACUUM ANALYZE strata_messages"],
    url
  )
  return url
})

/** How many rows it reads, and what it gives. */
const reading = Effect.fnUntraced(function* <A, E>(url: string, look: Effect.Effect<A, E, Scope.Scope>) {
  const before = yield* rowsRead(url, "strata_messages", "retryspool_messages")
  const seen = yield* Effect.scoped(look)
  return { seen, read: (yield* rowsRead(url, "strata_messages", "retryspool_messages")) - before }
})

it.live(
  "the overview, Health, status and doctor read a part of 300,000 messages that wait, and say what they estimate",
  () =>
    Effect.gen(function* () {
      const url = yield* filled([
        stored("'large', 'i' || n, 0, 3, now(), now() - n * interval '1 ms', 1 + n % 3", 1, 150_000),
        stored("'large', 'd' || n, 2, 3, now() - interval '2 hours', now(), 5", 1, 140_000),
        stored("'large', 'b' || n, 4, 3, now(), now() - interval '1 day', 5", 1, 10_000),
        stored("'small', 'i' || n, 0, 3, now(), now() - interval '1 hour', 5", 1, 7),
        stored("'small', 'd' || n, 2, 3, now() + interval '1 hour', now(), 5", 1, 5),
        stored("'small', 'h' || n, 3, 3, now(), now(), 5", 1, 3),
        `INSERT INTO retryspool_messages (id, state, attempts, max_attempts, next_retry, created, updated, size, priority, headers)
         SELECT 'r' || n, 0, 0, 3, now(), now(), now(), 0, 5, '{}' FROM generate_series(1, 4) AS n`
      ])
      const mostRead = 60_000

      const { read, seen } = yield* reading(
        url,
        withStores(
          url,
          Effect.flatMap(SpoolStore.SpoolStore, ({ overview }) => overview)
        )
      )
      assert.isBelow(read, mostRead)
      const [none, large, small] = seen
      assert.deepInclude(none, { queue: undefined, estimated: [] })
      assert.strictEqual(none?.counts.incoming, 4)
      assert.deepStrictEqual(large?.estimated, ["incoming", "deferred", "bounce"])
      const about = (count = 0, true_: number) => {
        assert.isAbove(count, true_ / 2)
        assert.isBelow(count, true_ * 2)
      }
      about(large?.counts.incoming, 150_000)
      about(large?.counts.deferred, 140_000)
      about(large?.counts.bounce, 10_000)
      assert.isTrue(Option.isSome(large?.oldestReady ?? Option.none()))
      assert.deepStrictEqual(small?.counts, { incoming: 7, active: 0, deferred: 5, hold: 3, bounce: 0 })

      const health = yield* reading(url, withStores(url, Health.check()))
      assert.isBelow(health.read, mostRead)
      assert.deepStrictEqual(
        health.seen.problems.map(({ _tag }) => _tag),
        ["MessagesBounced", "MessagesWaiting", "MessagesWaiting"]
      )
      assert.match(health.seen.problems[0]?.message ?? "", /^about [\d,]+ messages of queue "large" could not/)

      const status = yield* reading(url, strata(["status"], { url }))
      assert.isBelow(status.read, mostRead)
      assert.match(
        status.seen.stdout,
        /^messages +about [\d,]+ incoming, 0 active, about [\d,]+ deferred, 3 hold, about [\d,]+ bounce$/m
      )
      const exact = yield* strata(["status", "--exact"], { url })
      assert.match(exact.stdout, /^messages +150,011 incoming, 0 active, 140,005 deferred, 3 hold, 10,000 bounce$/m)

      const doctor = yield* reading(url, strata(["doctor"], { url }))
      assert.isBelow(doctor.read, mostRead)
      assert.match(doctor.seen.stdout, /a message of queue "small" has waited/)
    }).pipe(Effect.scoped),
  600_000
)

it.live(
  "a page of a small queue reads a few messages beside many of another queue, in each state",
  () =>
    Effect.gen(function* () {
      const states = ["incoming", "active", "deferred", "hold", "bounce", "archived"] as const
      // Active messages are as many as workers have.
      const many = [40_000, 200, 40_000, 40_000, 40_000, 40_000]
      const url = yield* filled([
        // A queue with much that is done, and little that is not.
        stored("'mixed', 'a' || n, 5, 3, now(), now(), 5", 1, 40_000),
        ...[2, 3, 4].map((code) =>
          stored(`'mixed', 'm${code}-' || n, ${code}, 3, now(), now() - interval '1 day', 5`, 1, 3)
        ),
        ...states.flatMap((state, code) => [
          stored(`'large', '${state}' || n, ${code}, 3, now(), now(), 1 + n % 10`, 1, many[code] ?? 0),
          stored(
            `'small', '${state}' || n, ${code}, 3, now(), now() - n * interval '1 minute' - interval '1 hour', 1 + n % 10`,
            1,
            25
          )
        ])
      ])
      for (const state of ["deferred", "hold", "bounce"] as const) {
        const page = SpoolStore.SpoolStore.use(({ listMessages }) =>
          listMessages(state, { queue: "mixed", sortOrder: "desc" })
        )
        const { read, seen } = yield* reading(url, withStores(url, page))
        assert.isBelow(read, 2_500, state)
        assert.lengthOf(seen.messages, 3)
      }
      for (const state of states) {
        for (const sortOrder of ["asc", "desc"] as const) {
          const pageOf = (queue: string, offset: number) =>
            SpoolStore.SpoolStore.use(({ listMessages }) =>
              listMessages(state, { queue, limit: 10, offset, sortBy: "created", sortOrder })
            )
          const { read, seen } = yield* reading(
            url,
            withStores(
              url,
              Effect.all([pageOf("small", 0), pageOf("small", 10), pageOf("small", 20), pageOf("large", 0)])
            )
          )
          assert.isBelow(read, 2_500, `${state}, ${sortOrder}`)
          const names = Array.from({ length: 25 }, (_, index) => `${state}${index + 1}`)
          assert.deepStrictEqual(
            seen.slice(0, 3).flatMap(({ messages }) => messages.map(({ id }) => id)),
            sortOrder === "desc" ? names : names.toReversed()
          )
          assert.deepStrictEqual(
            seen.map(({ hasMore }) => hasMore),
            [true, true, false, true]
          )
          assert.lengthOf(seen[3]?.messages ?? [], 10)
        }
      }
    }).pipe(Effect.scoped),
  600_000
)
