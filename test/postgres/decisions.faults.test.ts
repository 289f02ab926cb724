/**
 * Decisions whose connection is lost in the middle: before the check, after the locks, before the commit, and after it. What
 * they have decided is stored as a whole or not at all, and the same key gives the same result.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Option, Schema, type Scope } from "effect"
import { Decision, EventStore, StoreError } from "effect-strata"
import { backends, postgresUrl, waitForBackends } from "../support/database.ts"
import * as Proxy from "../support/Proxy.ts"
import { serveEvents, type ServedEvents, session, untilBlocked } from "./events.harness.ts"
import { execute, failsWith, query, unique } from "./harness.ts"

class Reserved extends Schema.TaggedClass<Reserved>()("Reserved", { name: Schema.String }) {}
class Welcomed extends Schema.TaggedClass<Welcomed>()("Welcomed", { name: Schema.String }) {}
class Taken extends Schema.TaggedError<Taken>("Taken")("Taken", { name: Schema.String }) {}

const Names = EventStore.typed({
  events: [Reserved, Welcomed],
  tags: { Reserved: ({ name }) => [`name:${name}`], Welcomed: ({ name }) => [`name:${name}`] }
})

/** A decision of two events, so that a half of it could be stored. */
const reserve = Decision.make({
  name: "reserve",
  events: Names,
  query: (name: string) => [{ tags: [`name:${name}`] }],
  initial: () => false,
  evolve: () => true,
  decide: (isTaken, name) =>
    isTaken ? Effect.fail(new Taken({ name })) : [new Reserved({ name }), new Welcomed({ name })]
})

const tag = "name:anna"

/** A lock that a decision waits for at some stage of its append, until the effect that is returned has run. */
type Hold = (served: ServedEvents) => Effect.Effect<Effect.Effect<unknown, unknown>, unknown, Scope.Scope>

/** Locks something in a transaction of its own, which ends without any trace. */
const holding = Effect.fnUntraced(function* (lock: string) {
  const say = yield* session()
  yield* say("BEGIN")
  yield* say(lock)
  return say("ROLLBACK")
})

const beforeTheCheck: Hold = ({ table }) =>
  holding(`SELECT pg_advisory_xact_lock(hashtextextended('${tag}', -1 - '${table}'::regclass::oid::bigint))`)

const afterTheLocks: Hold = ({ table }) => holding(`LOCK TABLE ${table} IN SHARE MODE`)

/** All is written then, and not committed. */
const beforeTheCommit: Hold = Effect.fnUntraced(function* ({ schema, table }) {
  const key = `hashtext('${schema}')`
  yield* execute([
    `CREATE FUNCTION ${schema}.wait() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN PERFORM pg_advisory_xact_lock(${key}); RETURN NULL; END $$`,
    `CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON ${table} DEFERRABLE INITIALLY DEFERRED
      FOR EACH ROW EXECUTE FUNCTION ${schema}.wait()`
  ])
  return yield* holding(`SELECT pg_advisory_xact_lock(${key})`)
})

const stages: ReadonlyArray<readonly [string, Hold]> = [
  ["before the check", beforeTheCheck],
  ["after the locks", afterTheLocks],
  ["before the commit", beforeTheCommit]
]

/** Stores behind a proxy. */
const proxied = Effect.fnUntraced(function* () {
  const { hostname, port } = new URL(postgresUrl)
  const proxy = yield* Proxy.make({ host: hostname, port: Number(port || 5432) })
  return { ...(yield* serveEvents({ client: { maxConnections: 4 }, url: proxy.url(postgresUrl) })), proxy }
})

type Served = Effect.Success<ReturnType<typeof proxied>>

const losses: ReadonlyArray<readonly [string, (served: Served) => Effect.Effect<unknown, unknown>]> = [
  [
    "terminated",
    ({ applicationName }) =>
      query(
        `SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name = '${applicationName}'`
      )
  ],
  ["cut", ({ proxy }) => proxy.cut]
]

const stored = ({ table }: ServedEvents) =>
  Effect.map(query(`SELECT count(*)::int FROM ${table}`), ([row]) => Number(row?.[0]))

const reserveAs = (served: ServedEvents, key: string) =>
  Effect.provide(reserve.execute("anna", { key }), served.context)

/** The same key gives the same two events, and another key finds that they are there. */
const isDoneOnce = Effect.fnUntraced(function* (served: ServedEvents) {
  const [one, other] = [yield* reserveAs(served, "k"), yield* reserveAs(served, "k")]
  assert.lengthOf(one.events, 2)
  const versions = (events: typeof one.events) => events.map(({ id, version }) => [id, version])
  assert.deepStrictEqual(versions(other.events), versions(one.events))
  assert.instanceOf(yield* Effect.flip(reserveAs(served, "another")), Taken)
  const tags = yield* query(`SELECT tag, count(*)::int FROM ${served.table}_tags GROUP BY tag`)
  assert.deepStrictEqual([yield* stored(served), tags], [2, [[tag, 2]]])
})

/** The execution has failed because of the connection, unless it had been done. */
const isLost = (exit: Exit.Exit<unknown, unknown>) => {
  if (Exit.isSuccess(exit)) return
  const error = Option.getOrUndefined(Exit.findErrorOption(exit))
  assert.instanceOf(error, StoreError.StoreError)
  assert.strictEqual(error.reason._tag, "Unavailable", error.message)
}

describe.each(losses)("a decision whose connection is %s", (_, lose) => {
  it.live.each(stages)("%s is stored as a whole or not at all, and its key gives the same result", ([, hold]) =>
    Effect.gen(function* () {
      const served = yield* proxied()
      const release = yield* hold(served)
      const pids = new Set((yield* backends(served.applicationName)).map(({ pid }) => pid))
      const execution = yield* Effect.forkChild(Effect.exit(reserveAs(served, "k")))
      yield* untilBlocked(1, served.applicationName)
      const before = yield* backends(served.applicationName)
      for (const { pid } of before) pids.add(pid)
      yield* lose(served)
      yield* release
      isLost(yield* Fiber.join(execution))
      // A backend whose client is gone may go on until it has something to say.
      yield* waitForBackends(served.applicationName, (all) => !all.some(({ pid }) => pids.has(pid)))
      assert.include([0, 2], yield* stored(served))
      yield* isDoneOnce(served)
    })
  )

  it.live("in the middle of the caller's transaction leaves nothing of it, and is made again", () =>
    Effect.gen(function* () {
      const served = yield* proxied()
      const own = `${served.schema}.own`
      yield* execute([`CREATE TABLE ${own} (name TEXT)`])
      const transaction = (beforeCommit: Effect.Effect<unknown, unknown>) =>
        served.withTransaction(
          Effect.gen(function* () {
            yield* served.sql.unsafe(`INSERT INTO ${own} VALUES ('anna')`)
            yield* reserveAs(served, "k")
            yield* Effect.orDie(beforeCommit)
          })
        )
      isLost(yield* Effect.exit(transaction(lose(served))))
      assert.strictEqual(yield* stored(served), 0)
      yield* transaction(Effect.void)
      assert.deepStrictEqual(yield* query(`SELECT name FROM ${own}`), [["anna"]])
      yield* isDoneOnce(served)
    })
  )
})

describe("a decision whose answer is lost", () => {
  it.live("is stored, and its key gives what it has stored", () =>
    Effect.gen(function* () {
      const served = yield* proxied()
      const release = yield* beforeTheCommit(served)
      const execution = yield* Effect.forkChild(Effect.exit(reserveAs(served, "k")))
      yield* untilBlocked(1, served.applicationName)
      yield* served.proxy.blackhole
      yield* release
      yield* Effect.repeat(Effect.delay(stored(served), 10), { until: (count) => count === 2 })
      yield* served.proxy.cut
      const exit = yield* Fiber.join(execution)
      assert.isTrue(Exit.isFailure(exit))
      isLost(exit)
      // The other connections of the pool were cut, too.
      yield* waitForBackends(served.applicationName, ({ length }) => length === 0)
      yield* isDoneOnce(served)
    })
  )
})

describe("a decision that waits for a transaction", () => {
  it.live("gives up after a minute by itself, and names the prepared transaction that holds its tag", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const gid = yield* unique
      yield* Effect.addFinalizer(() => Effect.ignore(execute([`ROLLBACK PREPARED '${gid}'`])))
      yield* served.withTransaction(
        Effect.andThen(
          served.events.append({ aggregateId: "a", eventType: "T", data: {}, tags: [tag] }),
          served.sql.unsafe(`PREPARE TRANSACTION '${gid}'`).unprepared
        )
      )
      const says = new RegExp(`waiting for the prepared transaction '${gid}'`)
      yield* failsWith(reserveAs(served, "k"), "Decision.execute", "Contention", says)
      yield* execute([`ROLLBACK PREPARED '${gid}'`])
      yield* isDoneOnce(served)
    })
  )
})
