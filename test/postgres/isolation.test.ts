/** Where sessions have another isolation level than READ COMMITTED by default, the stores do what they always do. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Option, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import { DurableStateStore, EventStore, OffsetStore, Spool, SpoolStore } from "effect-strata/testing"
import { SqlClient, SqlError } from "effect/sql"
import * as Isolation from "../../src/postgres/database/Isolation.ts"
import { layerSchema } from "../support/database.ts"
import { event, follow, plainInsert, serveEvents, session, versionsIn } from "./events.harness.ts"
import { execute, failsWith, freshSchema, query, serve, type Served } from "./harness.ts"

const levels = ["repeatable read", "serializable"] as const

const startingWith = (level: string) => ({ startupParameters: { default_transaction_isolation: level } })

const numbers = (length: number) => Array.from({ length }, (_, index) => index)

/** Waits until so many statements of an application wait for the lock of a table. */
const untilBlocked = (applicationName: string, count: number) =>
  query(
    `SELECT count(*)::int FROM pg_stat_activity
     WHERE wait_event_type = 'Lock' AND wait_event = 'relation' AND application_name = '${applicationName}'`
  ).pipe(Effect.delay(20), Effect.repeat({ until: (rows) => rows[0]?.[0] === count }))

/** Writes every row of a table again, so that a snapshot from before the change sees none of them. */
const rewrite = (table: string) => `ALTER TABLE ${table} ALTER COLUMN data TYPE JSONB USING coalesce(data, 'null')`

describe.each(levels)("with %s by default", (level) => {
  it.live("a read that waits while the table is written again misses no event", () =>
    Effect.gen(function* () {
      const { applicationName, events, table } = yield* serveEvents({ client: startingWith(level) })
      yield* events.append(numbers(1000).map((number) => event(`a${number}`)))
      const t = yield* session()
      const locked = yield* Deferred.make<void>()
      const seen: Array<bigint> = []
      const reading = yield* Effect.forkChild(
        Stream.runForEachArray(events.read({ batchSize: 100 }), (page) =>
          Effect.gen(function* () {
            for (const { version } of page) seen.push(version)
            if (yield* Deferred.isDone(locked)) return
            yield* t("BEGIN")
            yield* t(rewrite(table))
            yield* Deferred.succeed(locked, undefined)
          }).pipe(Effect.orDie)
        )
      )
      yield* Deferred.await(locked)
      yield* untilBlocked(applicationName, 1)
      yield* t("COMMIT")
      yield* Fiber.join(reading)
      assert.deepStrictEqual(seen, yield* versionsIn(table))
    })
  )

  it.live("no event of a child table that is written again is lost at the tail", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents({ client: startingWith(level) })
      const { applicationName, events, schema, table } = served
      const child = `${schema}.child`
      yield* execute([`CREATE TABLE ${child} (own INT DEFAULT 1, PRIMARY KEY (version)) INHERITS (${table})`])
      const [name] = yield* query(`SELECT pg_get_serial_sequence('${table}', 'version')`)
      yield* execute([`ALTER TABLE ${child} ALTER version SET DEFAULT nextval('${String(name?.[0])}')`])
      const follower = yield* follow(served, { after: "start" })
      // At the end of the log, where the tail reads.
      for (const version of [1n, 2n]) {
        yield* events.append(event("a"))
        yield* follower.until(version)
      }
      const [writer, first, second] = [yield* session(), yield* session(), yield* session()]
      yield* writer("BEGIN")
      yield* writer(plainInsert(table, "3"))
      yield* execute([plainInsert(child, "4"), plainInsert(table, "5")])
      // The tail waits at version 3 for the writer, and then with a page for the table.
      yield* first("BEGIN")
      yield* first(`LOCK TABLE ${child} IN ACCESS EXCLUSIVE MODE`)
      yield* untilBlocked(applicationName, 1)
      yield* writer("ROLLBACK")
      yield* second("BEGIN")
      const locking = yield* Effect.forkChild(second(`LOCK TABLE ${child} IN ACCESS EXCLUSIVE MODE`))
      yield* query(
        `SELECT count(*)::int FROM pg_locks WHERE relation = '${child}'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted`
      ).pipe(Effect.delay(20), Effect.repeat({ until: (rows) => rows[0]?.[0] === 1 }))
      yield* first("COMMIT")
      yield* Fiber.join(locking)
      // Now its holders are gone, and the page that passes version 3 waits for the table.
      yield* untilBlocked(applicationName, 1)
      yield* second(`ALTER TABLE ${child} ALTER own TYPE BIGINT`)
      yield* second("COMMIT")
      yield* follower.until(5n)
      assert.deepStrictEqual(follower.seen, [1n, 2n, 4n, 5n])
    })
  )

  it.live("the first statement of a layer does not take a table that is written again for empty", () =>
    Effect.gen(function* () {
      const options = { schema: yield* freshSchema() }
      const { events, offsets, spool, states } = yield* serve({ options })
      const id = { projectionName: "p", shardNumber: 0 }
      const part = { payload: new Uint8Array([1]), manifest: "m", timestamp: 0n, shard: 0 }
      const state = (persistenceId: string, versionNumber: bigint) => ({ persistenceId, versionNumber, ...part })
      yield* events.append(event("a"))
      for (const projectionName of ["p", "reset", "advanced", "deleted"]) {
        yield* offsets.writeOffset({ projectionName, shardNumber: 0, value: 1n })
      }
      for (const name of ["read", "deleted", "written"]) yield* states.writeState(state(name, 1n))
      for (const name of ["read", "moved", "updated", "deleted", "done", "renewed"]) {
        yield* spool.storeMeta({ id: name, maxAttempts: 3, state: "hold" })
      }
      const t = yield* session()
      const table = (name: string) => `${options.schema}.${name}`
      const lease = { owner: "me", attempt: 1 }
      yield* t(
        `UPDATE ${table("retryspool_messages")} SET state = 1, attempts = 1, lease_owner = 'me',
           lease_until = now() + interval '1 hour' WHERE id IN ('done', 'renewed')`
      )
      yield* t("BEGIN")
      yield* t(rewrite(table("events")))
      yield* t(`ALTER TABLE ${table("offsets_store")} ALTER COLUMN timestamp TYPE BIGINT USING timestamp + 0`)
      yield* t(`ALTER TABLE ${table("states_store")} ALTER COLUMN timestamp TYPE BIGINT USING timestamp + 0`)
      yield* t(`ALTER TABLE ${table("retryspool_messages")} ALTER COLUMN size TYPE BIGINT USING size + 0`)
      const operations: ReadonlyArray<readonly [(served: Served) => Effect.Effect<unknown, unknown>, unknown]> = [
        [({ events }) => Effect.map(events.loadByAggregate("a"), (all) => all.length), 1],
        [({ events }) => events.latestVersion, 1n],
        [({ offsets }) => Effect.map(offsets.getCurrentOffset(id), Option.isSome), true],
        [({ offsets }) => offsets.resetOffset("reset", 5n), 1],
        [({ offsets }) => offsets.deleteOffsets("deleted"), 1],
        [
          ({ offsets }) =>
            Effect.map(
              offsets.advanceOffset({ projectionName: "advanced", shardNumber: 0 }, { from: Option.some(1n), to: 2n }),
              ({ value }) => value
            ),
          2n
        ],
        [({ states }) => Effect.map(states.getLatestState("read"), Option.isSome), true],
        [({ states }) => states.deleteState("deleted"), true],
        [({ states }) => states.writeState(state("written", 2n)), undefined],
        [({ spool }) => Effect.map(spool.getMeta("read"), ({ id }) => id), "read"],
        [({ spool }) => spool.moveToState("moved", "hold", "incoming"), undefined],
        [({ spool }) => Effect.map(spool.updateMeta("updated", { priority: 1 }), ({ id }) => id), "updated"],
        [({ spool }) => spool.deleteMeta("deleted"), undefined],
        [({ spool }) => spool.settle([{ id: "done", ...lease, outcome: "done" }]), []],
        [({ spool }) => spool.heartbeat([{ id: "renewed", ...lease }], "1 minute"), []]
      ]
      const running = yield* Effect.forEach(operations, ([operation]) =>
        Effect.forkChild(
          Effect.flatMap(
            serve({ client: { ...startingWith(level), maxConnections: 1 }, layer: Postgres.layerStorage, options }),
            operation
          )
        )
      )
      yield* query(
        `SELECT count(DISTINCT pid)::int FROM pg_locks JOIN pg_class ON pg_class.oid = relation
         WHERE NOT granted AND relnamespace = '${options.schema}'::regnamespace`
      ).pipe(Effect.delay(20), Effect.repeat({ until: (rows) => rows[0]?.[0] === operations.length }))
      yield* t("COMMIT")
      const answers = yield* Effect.forEach(running, (fiber) => Fiber.join(fiber))
      assert.deepStrictEqual(
        answers,
        operations.map(([, answer]) => answer)
      )
    })
  )

  it.live("writers of the same rows do not fail, the session keeps its setting, and the log says what it costs", () =>
    Effect.gen(function* () {
      const { events, logged, sql, watched } = yield* serveEvents({ client: startingWith(level) })
      const results = yield* watched(
        Effect.forEach(
          numbers(40),
          (number) =>
            Effect.result(events.append(event("same", `${number}`), { expected: "any", onDuplicate: "ignore" })),
          { concurrency: "unbounded" }
        )
      )
      assert.deepStrictEqual(
        results.filter(({ _tag }) => _tag === "Failure"),
        []
      )
      yield* events.append(event("same"), { expected: "some" })
      const [row] = yield* sql`SELECT current_setting('default_transaction_isolation') AS level`
      assert.strictEqual(row?.["level"], level)
      // The migrations have said so, and the stores do not say it again.
      const warnings = logged.filter((line) => line.includes("default_transaction_isolation"))
      assert.lengthOf(warnings, 1)
      // A transaction of the caller's has the level that the caller gave it.
      const reading = sql.withTransaction(events.load())
      yield* failsWith(reading, "EventStore.load", "Unexpected", /READ COMMITTED/)
      assert.lengthOf(yield* sql.withTransaction(events.loadByAggregate("same")), 41)
    })
  )
})

// A transaction of the caller's has the level that the caller gives it: here that of the other suites.
const layer = Layer.merge(
  Layer.provide(Postgres.layer(), layerSchema(startingWith("serializable"))),
  Layer.succeed(SqlClient.BeginTransaction)("BEGIN ISOLATION LEVEL READ COMMITTED")
)

DurableStateStore.suite("postgres, serializable by default", layer)
EventStore.suite("postgres, serializable by default", layer)
OffsetStore.suite("postgres, serializable by default", layer)
Spool.suite("postgres, serializable by default", layer)
SpoolStore.suite("postgres, serializable by default", layer)

describe("a statement outside of a transaction", () => {
  const failure = (message: string) =>
    new SqlError.SqlError({ reason: new SqlError.UnknownError({ cause: { message } }) })

  /** A connection that refuses the condition of statements, or takes it. */
  const connection = (level: string) => {
    const said: Array<string> = []
    const execute: Isolation.Executing["execute"] = (text) =>
      Effect.suspend(() => {
        said.push(text)
        return level !== "read committed" && text.includes(Isolation.readCommitted)
          ? Effect.fail(
              failure(`invalid input syntax for type boolean: "effect-strata wants READ COMMITTED, not ${level}"`)
            )
          : Effect.succeed([])
      })
    return { said, execute }
  }

  it.effect("is one round trip where the default is READ COMMITTED, and else three, after the first", () =>
    Effect.gen(function* () {
      const usual = connection("read committed")
      const run = Isolation.make()
      for (let times = 0; times < 2; times++) yield* run(usual, "SELECT 1", [])
      yield* run(usual, "INSERT INTO t VALUES (1)", [])
      assert.lengthOf(usual.said, 3)
      assert.strictEqual(usual.said[2], "INSERT INTO t VALUES (1)")
      const other = connection("serializable")
      const runOther = Isolation.make()
      for (let times = 0; times < 2; times++) yield* runOther(other, "SELECT 1", [])
      const transaction = ["BEGIN ISOLATION LEVEL READ COMMITTED", "SELECT 1", "COMMIT"]
      assert.deepStrictEqual(other.said.slice(1), [...transaction, ...transaction])
    })
  )

  it.effect("is rolled back in its transaction where it fails", () =>
    Effect.gen(function* () {
      const { execute, said } = connection("serializable")
      const failing: Isolation.Executing = {
        execute: (text, ...rest) =>
          text === "SELECT 2"
            ? Effect.andThen(execute(text, ...rest), Effect.fail(failure("broken")))
            : execute(text, ...rest)
      }
      const run = Isolation.make()
      const error = yield* Effect.flip(run(failing, "SELECT 2", []))
      assert.deepStrictEqual(error, failure("broken"))
      assert.deepStrictEqual(said.slice(1), ["BEGIN ISOLATION LEVEL READ COMMITTED", "SELECT 2", "ROLLBACK"])
    })
  )
})
