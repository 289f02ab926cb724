/**
 * Programs that change a table while it is used: they create an index, which lets readers in, and then a trigger, which lets
 * nobody in. An operation that reads the table first and takes the lock of a writer then would wait for such a program, and
 * the program for the operation.
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber } from "effect"
import { SpoolStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import * as Importing from "../../src/postgres/events/Importing.ts"
import { postgresUrl } from "../support/database.ts"
import { event, serveEvents, type ServedEvents, session } from "./events.harness.ts"
import { query } from "./harness.ts"

/** Waits until somebody waits for a lock of the table. */
const untilAwaited = (table: string) =>
  Effect.gen(function* () {
    while (true) {
      const [row] = yield* query(
        `SELECT count(*)::int FROM pg_locks, pg_sleep(0.02) WHERE relation = '${table}'::regclass AND NOT granted`
      )
      if (row?.[0] !== 0) return
    }
  })

/** Runs an operation while such a program is between its two locks of the table. */
const beside = <A, E, R>(table: string, operation: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const ddl = yield* session(postgresUrl)
    yield* ddl("BEGIN")
    yield* ddl(`LOCK TABLE ${table} IN SHARE MODE`)
    const fiber = yield* Effect.forkChild(operation, { startImmediately: true })
    yield* untilAwaited(table)
    yield* ddl(`LOCK TABLE ${table} IN ACCESS EXCLUSIVE MODE`)
    yield* ddl("COMMIT")
    return yield* Fiber.join(fiber)
  })

const spoolOf = ({ context }: ServedEvents) => Context.get(context, SpoolStore.SpoolStore)

describe("a program that creates an index and then a trigger does not meet in a deadlock", () => {
  const appends: ReadonlyArray<readonly [string, (served: ServedEvents) => Effect.Effect<unknown, unknown>]> = [
    ["an append that expects a version", ({ events }) => events.append(event("a"), { expected: 1n })],
    ["an append with an id", ({ events }) => events.append(event("a", "new"), { onDuplicate: "ignore" })],
    [
      "an append that expects a version, in a transaction",
      ({ events, withTransaction }) => withTransaction(events.append(event("a", "new"), { expected: 1n }))
    ],
    [
      "appends that come at once",
      ({ events }) =>
        Effect.forEach(["x", "y", "z"], (id) => events.append(event(id, id), { expected: "none" }), {
          concurrency: "unbounded"
        })
    ],
    ["a plain append", ({ events }) => events.append(event("a"))]
  ]

  it.live.each(appends)("%s", ([, append]) =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      yield* served.events.append(event("a", "first"))
      yield* beside(served.table, append(served))
    })
  )

  it.live("an import", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { write } = yield* Importing.make.pipe(
        Effect.provide(Postgres.PostgresDatabase.layer({ schema: served.schema })),
        Effect.provide(served.context)
      )
      const entry = { where: "here", from: undefined, id: "old", aggregateId: "a", eventType: "T", createdAt: null }
      const written = yield* beside(served.table, write([{ ...entry, tags: [], json: `{"data": 1}` }]))
      assert.strictEqual(written.length, 1)
    })
  )

  it.live.each([
    { table: "retryspool_messages", queue: {} },
    { table: "strata_messages", queue: { queue: "q" } }
  ])("a claim of $table", ({ queue, table }) =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const spool = spoolOf(served)
      yield* spool.storeMeta({ ...queue, id: "m" })
      const claim = spool.claim({ ...queue, limit: 3, lease: "1 minute", owner: "o" })
      const claimed = yield* beside(`${served.schema}.${table}`, claim)
      assert.deepStrictEqual(
        claimed.map(({ id }) => id),
        ["m"]
      )
    })
  )
})

describe("an append that waits for its turn", () => {
  it.live("does not hold up readers of the log", () =>
    Effect.gen(function* () {
      const { events, table, withTransaction } = yield* serveEvents()
      yield* events.append(event("a"))
      const t = yield* session()
      yield* t("BEGIN")
      yield* t(`SELECT pg_advisory_xact_lock(hashtextextended('a', 2 * '${table}'::regclass::oid::bigint))`)
      const waiting = yield* Effect.forkChild(withTransaction(events.append(event("a"), { expected: 1n })), {
        startImmediately: true
      })
      while (true) {
        const [row] = yield* query(
          `SELECT count(*)::int FROM pg_locks, pg_sleep(0.02) WHERE locktype = 'advisory' AND NOT granted
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`
        )
        if (row?.[0] !== 0) break
      }
      assert.deepStrictEqual(
        yield* query(
          `SELECT count(*)::int FROM pg_locks WHERE relation = '${table}'::regclass AND mode = 'RowExclusiveLock'`
        ),
        [[0]]
      )
      yield* t("COMMIT")
      yield* Fiber.join(waiting)
    })
  )
})
