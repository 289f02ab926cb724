import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, Queue, Scope, Stream } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import * as Pglite from "../../src/pglite/index.ts"

const sqlError = <A, R>(effect: Effect.Effect<A, SqlError.SqlError, R>) =>
  Effect.map(Effect.flip(effect), ({ reason }) => ({
    tag: reason._tag,
    code: reason.cause instanceof Error && "code" in reason.cause ? reason.cause.code : undefined,
    reason
  }))

// Retires the pooled connection: the driver drops one that starts a COPY.
const loseConnection = PgClient.PgClient.use((sql) => Effect.flip(sql`COPY (SELECT 1) TO STDOUT`))

describe("Pglite in memory", () => {
  it.layer(Pglite.layer(), { excludeTestServices: true })((it) => {
    it.effect("is a Postgres 18 with the defaults of a server", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const [row] =
          yield* sql`SELECT current_setting('TimeZone') AS zone, current_setting('client_encoding') AS encoding,
          current_setting('server_version') AS version, current_user::text AS who, current_database()::text AS db,
          current_setting('application_name') AS application, current_setting('search_path') AS path`
        assert.deepInclude(row, { zone: "UTC", encoding: "UTF8", who: "postgres", db: "postgres" })
        assert.deepInclude(row, { application: "@effect/sql-pg" })
        assert.match(String(row?.["version"]), /^18\./)
        assert.strictEqual(sql.driver, "pglite")
      })
    )

    it.effect("decodes what a server would", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const rows = yield* sql`SELECT 9007199254740993::int8 AS big, '2026-01-02T03:04:05.678Z'::timestamptz AS time,
          ${sql.json({ a: [1, "ü"] })} AS doc, '\\x00ff'::bytea AS bytes, 'žluťoučký 🐎' AS words, ${[1, 2]}::int[] AS list`
        assert.deepStrictEqual(rows, [
          {
            big: 9007199254740993n,
            time: new Date("2026-01-02T03:04:05.678Z"),
            doc: { a: [1, "ü"] },
            bytes: rows[0]?.["bytes"],
            words: "žluťoučký 🐎",
            list: [1, 2]
          }
        ])
        assert.strictEqual(
          Buffer.from((yield* sql<{ b: Uint8Array }>`SELECT '\\x00ff'::bytea AS b`)[0]?.b ?? []).toString("hex"),
          "00ff"
        )
      })
    )

    it.effect("fails like a server, and goes on", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE errors (id int PRIMARY KEY, amount int NOT NULL CHECK (amount > 0))`
        yield* sql`INSERT INTO errors VALUES (1, 1)`
        const unique = yield* sqlError(sql`INSERT INTO errors VALUES (1, 1)`)
        assert.strictEqual(unique.reason._tag === "UniqueViolation" && unique.reason.constraint, "errors_pkey")
        assert.strictEqual(unique.code, "23505")
        assert.deepInclude(yield* sqlError(sql`INSERT INTO errors VALUES (2, 0)`), {
          tag: "ConstraintError",
          code: "23514"
        })
        assert.deepInclude(yield* sqlError(sql`INSERT INTO errors VALUES (2, null)`), {
          tag: "ConstraintError",
          code: "23502"
        })
        assert.deepInclude(yield* sqlError(sql`SELEKT 1`), { tag: "SqlSyntaxError", code: "42601" })
        assert.deepInclude(yield* sqlError(sql`SELECT 1; SELECT 2`), { tag: "SqlSyntaxError", code: "42601" })
        assert.deepInclude(yield* sqlError(sql`SELECT 1 / 0`), { tag: "UnknownError", code: "22012" })
        assert.deepInclude(yield* sqlError(sql`SELECT repeat('x', 2000000000)`), { tag: "UnknownError", code: "54000" })
        assert.deepInclude(yield* sqlError(sql`DO $$ BEGIN RAISE EXCEPTION 'e' USING ERRCODE = '40001'; END $$`), {
          tag: "SerializationError"
        })
        assert.deepStrictEqual(yield* sql`SELECT count(*)::int AS count FROM errors`, [{ count: 1 }])
      })
    )

    it.effect("rolls back failures, keeps savepoints apart, and refuses to commit what has failed", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE kept (id int PRIMARY KEY)`
        yield* Effect.flip(sql.withTransaction(Effect.andThen(sql`INSERT INTO kept VALUES (1)`, Effect.fail("no"))))
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`INSERT INTO kept VALUES (2)`
            yield* Effect.ignore(sql.withTransaction(sql`INSERT INTO kept VALUES (2)`))
            yield* sql`INSERT INTO kept VALUES (3)`
          })
        )
        const poisoned = sql.withTransaction(Effect.ignore(sql`INSERT INTO kept VALUES (4), (4)`))
        assert.strictEqual((yield* sqlError(poisoned)).reason.operation, "commit")
        assert.deepStrictEqual(yield* sql`SELECT id FROM kept ORDER BY id`, [{ id: 2 }, { id: 3 }])
      })
    )

    it.effect("carries 10 MB in a parameter and in a result", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const text = "0123456789".repeat(1_000_000)
        const [row] = yield* sql<{ text: string }>`SELECT ${text} AS text`
        assert.isTrue(row?.text === text)
        const bytes = new Uint8Array(10_000_000).map((_, index) => index)
        const [back] = yield* sql<{ bytes: Uint8Array }>`SELECT ${bytes}::bytea AS bytes`
        assert.isTrue(Buffer.compare(bytes, back?.bytes ?? new Uint8Array()) === 0)
        assert.strictEqual((yield* sql`SELECT repeat('y', 1000) FROM generate_series(1, 20000)`).length, 20000)
        const [larger] = yield* sql<{ text: string }>`SELECT repeat('z', 40000000) AS text`
        assert.strictEqual(larger?.text.length, 40_000_000)
      })
    )

    it.effect("gives each of many concurrent statements its own answer", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const numbers = Array.from({ length: 2000 }, (_, index) => index)
        const answers = yield* Effect.forEach(
          numbers,
          Effect.fnUntraced(function* (n) {
            if (n % 10 === 0) return yield* Effect.as(Effect.flip(sql`SELECT ${n}::int / 0`), n)
            return (yield* sql<{ n: number }>`SELECT ${n}::int AS n`)[0]?.n
          }),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(answers, numbers)
      })
    )

    it.effect("never interleaves transactions, nor lets a statement or stream into one", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE turns (n serial, who int)`
        const opened = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const first = yield* Effect.forkChild(
          sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`INSERT INTO turns (who) VALUES (1)`
              yield* Deferred.succeed(opened, undefined)
              yield* Deferred.await(go)
              yield* sql`INSERT INTO turns (who) VALUES (1)`
            })
          )
        )
        yield* Deferred.await(opened)
        const others = yield* Effect.forkChild(
          Effect.all(
            [
              sql.withTransaction(Effect.andThen(sql`INSERT INTO turns (who) VALUES (2)`, Effect.yieldNow)),
              sql`INSERT INTO turns (who) VALUES (3)`,
              Effect.map(Stream.runCollect(sql`SELECT who FROM turns`.stream), (rows) => rows.length)
            ],
            { concurrency: "unbounded" }
          )
        )
        yield* Effect.sleep(30)
        assert.isUndefined(others.pollUnsafe())
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(first)
        const [, , seen] = yield* Fiber.join(others)
        assert.isAtLeast(seen, 2)
        const order = yield* sql<{ who: number }>`SELECT who FROM turns ORDER BY n`
        assert.deepStrictEqual(
          order.slice(0, 2).map(({ who }) => who),
          [1, 1]
        )
        assert.strictEqual(order.length, 4)
      })
    )

    it.effect("rolls back an interrupted transaction, and interrupts at once what waits for one", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE halves (n int)`
        const opened = yield* Deferred.make<void>()
        const transaction = yield* Effect.forkChild(
          sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`INSERT INTO halves VALUES (1)`
              yield* Deferred.succeed(opened, undefined)
              yield* Effect.never
            })
          )
        )
        yield* Deferred.await(opened)
        const waiting = [
          yield* Effect.forkChild(sql`INSERT INTO halves VALUES (2)`),
          yield* Effect.forkChild(Stream.runCollect(sql`SELECT * FROM halves`.stream)),
          yield* Effect.forkChild(sql.withTransaction(sql`INSERT INTO halves VALUES (3)`))
        ]
        yield* Effect.sleep(20)
        // The transaction does not end by itself, so that a fiber which waited for it would not end either.
        yield* Fiber.interruptAll(waiting)
        yield* Fiber.interrupt(transaction)
        assert.deepStrictEqual(yield* sql`SELECT * FROM halves`, [])
      })
    )

    it.effect("streams while the reader makes queries of its own, and stops when it stops", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const numbers = sql<{ n: number }>`SELECT n FROM generate_series(1, 5000) n`
        const doubled = numbers.stream.pipe(
          Stream.take(1500),
          Stream.mapEffect(({ n }) => sql<{ m: number }>`SELECT ${n}::int * 2 AS m`),
          Stream.runFold(
            () => 0,
            (sum, [row]) => sum + (row?.m ?? 0)
          )
        )
        assert.strictEqual(yield* doubled, 1500 * 1501)
        const inside = yield* sql.withTransaction(
          Effect.andThen(
            sql`CREATE TABLE streamed AS SELECT 1 AS n`,
            Stream.runCollect(sql`SELECT * FROM streamed`.stream)
          )
        )
        assert.deepStrictEqual(inside, [{ n: 1 }])
        assert.deepInclude(
          yield* sqlError(Stream.runDrain(sql`SELECT n / (n - 3) FROM generate_series(1, 5) n`.stream)),
          {
            code: "22012"
          }
        )
      })
    )

    it.effect("opens a clean session in place of a lost one, and prepares its statements again", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE counted (n int)`
        const insert = sql`INSERT INTO counted VALUES (${1})`
        yield* insert
        yield* insert
        yield* sql`SET work_mem = '7MB'`
        yield* sql`CREATE TEMPORARY TABLE gone (n int)`
        yield* sql`SELECT pg_advisory_lock(7)`
        assert.strictEqual((yield* loseConnection).reason._tag, "ConnectionError")
        yield* insert
        const [state] = yield* sql`SELECT current_setting('work_mem') AS mem, to_regclass('gone')::text AS temporary,
          (SELECT count(*)::int FROM pg_locks WHERE locktype = 'advisory') AS locks,
          (SELECT count(*)::int FROM counted) AS rows, current_setting('application_name') AS application`
        assert.deepStrictEqual(state, {
          mem: "4MB",
          temporary: null,
          locks: 0,
          rows: 3,
          application: "@effect/sql-pg"
        })
        const lost = sql.withTransaction(Effect.andThen(insert, loseConnection))
        assert.isTrue(Exit.isFailure(yield* Effect.exit(lost)))
        assert.deepStrictEqual(yield* sql`SELECT count(*)::int AS rows FROM counted`, [{ rows: 3 }])
      })
    )

    it.effect("survives a COPY FROM STDIN, which would end PGlite", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE copied (n int)`
        assert.strictEqual((yield* sqlError(sql`COPY copied FROM STDIN`)).tag, "ConnectionError")
        const inside = sql.withTransaction(sql`copy copied from stdin`)
        assert.isTrue(Exit.isFailure(yield* Effect.exit(inside)))
        assert.deepStrictEqual(yield* sql`SELECT 'stdin' AS word, count(*)::int AS rows FROM copied`, [
          { word: "stdin", rows: 0 }
        ])
        assert.deepInclude(yield* sqlError(sql`SELECT 1 / 0 -- stdin`), { code: "22012" })
      })
    )
  })
})

describe("Pglite listen and notify", () => {
  it.layer(Pglite.layer(), { excludeTestServices: true })((it) => {
    it.effect("delivers, whatever the name, to every listener, and holds no connection", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        for (const channel of ["plain", "UPPER and space", 'quo"te', "ünï", "x".repeat(63)]) {
          const queues = [yield* sql.listen(channel), yield* sql.listen(channel)]
          yield* sql.notify(channel, "1 'quoted' \\ back")
          yield* sql`SELECT pg_notify(${channel}, ${"žluť"})`
          for (const queue of queues) {
            const first = yield* Queue.take(queue)
            assert.strictEqual(first.channel, channel)
            assert.strictEqual(first.payload, "1 'quoted' \\ back")
            assert.isAbove(first.processId, 0)
            assert.strictEqual((yield* Queue.take(queue)).payload, "žluť")
          }
        }
      })
    )

    it.effect("refuses what a server refuses", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const long = yield* sqlError(sql.listen("x".repeat(64)))
        assert.deepInclude(long, { tag: "UnknownError", code: undefined })
        assert.strictEqual(long.reason.message, "PostgreSQL channel names must not exceed 63 UTF-8 bytes")
        assert.strictEqual((yield* sqlError(sql.notify("ü".repeat(32), ""))).reason.operation, "notify")
        assert.deepInclude(yield* sqlError(sql.listen("")), { tag: "SqlSyntaxError", code: "42601" })
        assert.deepInclude(yield* sqlError(sql.notify("", "")), { tag: "UnknownError", code: "22023" })
        assert.deepInclude(yield* sqlError(sql.notify("a", "x".repeat(8000))), { tag: "UnknownError", code: "22023" })
        yield* sql.notify("a", "x".repeat(7999))
      })
    )

    it.effect("unlistens when the last scope of a channel closes", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const channels = Effect.map(sql<{ c: string }>`SELECT pg_listening_channels() AS c`, (rows) =>
          rows.map(({ c }) => c)
        )
        const scopes = [yield* Scope.make(), yield* Scope.make()] as const
        const queue = yield* Scope.provide(sql.listen("short"), scopes[0])
        const other = yield* Scope.provide(sql.listen("short"), scopes[1])
        assert.include(yield* channels, "short")
        const consumer = yield* Effect.forkChild(Queue.take(queue))
        yield* Effect.yieldNow
        yield* Scope.close(scopes[0], Exit.void)
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(consumer)))
        yield* sql.notify("short", "still")
        assert.strictEqual((yield* Queue.take(other)).payload, "still")
        yield* Scope.close(scopes[1], Exit.void)
        assert.notInclude(yield* channels, "short")
      })
    )

    it.effect("delivers a transaction's notifications when it commits, and never when it does not", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const queue = yield* sql.listen("committed")
        yield* Effect.ignore(
          sql.withTransaction(Effect.andThen(sql`SELECT pg_notify('committed', 'lost')`, Effect.fail("rollback")))
        )
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`SELECT pg_notify('committed', 'kept')`
            yield* sql`SELECT 1`
            yield* Effect.sleep(10)
            assert.strictEqual(yield* Queue.size(queue), 0)
          })
        )
        assert.strictEqual((yield* Queue.take(queue)).payload, "kept")
        assert.strictEqual(yield* Queue.size(queue), 0)
      })
    )

    it.effect("listens and notifies from within a transaction without waiting for it", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const scope = yield* Effect.scope
        const listen = (channel: string) => Scope.provide(sql.listen(channel), scope)
        const early = yield* listen("early")
        const late = yield* sql.withTransaction(
          Effect.gen(function* () {
            const late = yield* listen("late")
            yield* sql.notify("early", "outside")
            yield* Effect.ignore(sql.withTransaction(Effect.fail("back to the savepoint")))
            yield* sql`SELECT pg_notify('late', 'inside')`
            return late
          })
        )
        assert.strictEqual((yield* Queue.take(early)).payload, "outside")
        assert.strictEqual((yield* Queue.take(late)).payload, "inside")
        const kept = yield* Deferred.make<Queue.Dequeue<{ readonly payload: string }, SqlError.SqlError>>()
        const failing = Effect.gen(function* () {
          yield* Effect.ignore(sql`SELECT 1 / 0`)
          yield* Deferred.succeed(kept, yield* listen("after a failure"))
          yield* sql.notify("early", "rolled back, but outside")
          return yield* Effect.fail("rollback")
        })
        yield* Effect.ignore(sql.withTransaction(failing))
        assert.strictEqual((yield* Queue.take(early)).payload, "rolled back, but outside")
        yield* sql.notify("after a failure", "here")
        assert.strictEqual((yield* Queue.take(yield* Deferred.await(kept))).payload, "here")
      })
    )

    it.effect("keeps listening through lost connections and the application's own UNLISTEN", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const queue = yield* sql.listen("durable")
        yield* loseConnection
        yield* sql`SELECT pg_notify('durable', 'after a reconnection')`
        yield* sql`UNLISTEN *`
        yield* sql`SELECT pg_notify('durable', 'after UNLISTEN')`
        yield* sql`DISCARD ALL`
        yield* sql.notify("durable", "after DISCARD")
        const payloads = yield* Effect.forEach([1, 2, 3], () => Queue.take(queue))
        assert.deepStrictEqual(
          payloads.map(({ payload }) => payload),
          ["after a reconnection", "after UNLISTEN", "after DISCARD"]
        )
      })
    )

    it.effect("delivers in order and loses none", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const queue = yield* sql.listen("many")
        yield* Effect.forEach(Array.from({ length: 500 }), (_, n) => sql.notify("many", String(n)), { discard: true })
        const all = yield* Effect.forEach(Array.from({ length: 500 }), () => Queue.take(queue))
        assert.deepStrictEqual(
          all.map(({ payload }) => Number(payload)),
          all.map((_, n) => n)
        )
      })
    )
  })
})

describe("Pglite options", () => {
  it.live("are those of PgClient", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(
        Pglite.layer({
          applicationName: "shop",
          startupParameters: { work_mem: "8MB" },
          transformQueryNames: (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
          transformResultNames: (name) => name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())
        }),
        scope
      )
      yield* Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        yield* sql`CREATE TABLE ${sql("orderLines")} (unit_price int)`
        yield* sql`INSERT INTO order_lines ${sql.insert({ unitPrice: 3 })}`
        assert.deepStrictEqual(yield* sql`SELECT * FROM order_lines`, [{ unitPrice: 3 }])
        assert.deepStrictEqual(yield* Stream.runCollect(sql`SELECT * FROM order_lines`.stream), [{ unitPrice: 3 }])
        assert.deepStrictEqual(yield* sql.withoutTransforms()`SELECT * FROM order_lines`, [{ unit_price: 3 }])
        const [row] = yield* sql`SELECT current_setting('application_name') AS a, current_setting('work_mem') AS m`
        assert.deepStrictEqual(row, { a: "shop", m: "8MB" })
        const queue = yield* Scope.provide(sql.withoutTransforms().listen("closing"), yield* Scope.make())
        const taking = yield* Effect.forkChild(Queue.take(queue))
        yield* Scope.close(scope, Exit.void)
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(taking)))
        assert.strictEqual((yield* sqlError(sql.listen("closed"))).tag, "ConnectionError")
        assert.strictEqual((yield* sqlError(sql.notify("closed", ""))).tag, "ConnectionError")
      }).pipe(Effect.provide(context))
    })
  )

  it.live("a setting that does not exist is a typed error", () =>
    Effect.gen(function* () {
      const broken = Pglite.layer({ startupParameters: { no_such_setting: "1" } })
      const failed = yield* Effect.flip(
        Effect.scoped(SqlClient.SqlClient.use((sql) => sql`SELECT 1`).pipe(Effect.provide(broken)))
      )
      assert.strictEqual(failed._tag, "SqlError")
    })
  )
})
