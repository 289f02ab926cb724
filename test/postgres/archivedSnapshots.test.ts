/**
 * Archived events where sessions or transactions have another isolation level than READ COMMITTED, also on a standby: none is
 * missed.
 */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Layer, Redacted, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import * as PostgresServer from "../support/PostgresServer.ts"
import { standbyOf } from "../support/Replicas.ts"
import { afterwards, everything, serveArchive, shapes } from "./archive.harness.ts"
import { follow, serveEvents, session } from "./events.harness.ts"
import { execute, failsWith, query, unique } from "./harness.ts"
import { replicaOf, untilReplayed } from "./replica.harness.ts"

const long = { wait: Duration.minutes(5) }

/** A log with partitions on a server of its own, with a standby. */
const served = Effect.gen(function* () {
  const primary = yield* PostgresServer.make()
  const stores = yield* serveArchive({ url: primary.url, options: { schema: "public" } })
  const standby = yield* standbyOf(primary)
  return { ...stores, primary, standby, replayed: untilReplayed(primary, standby) }
})

describe.each(["repeatable read", "serializable"])("a standby whose sessions have %s by default", (level) => {
  /** A store that reads from the standby by such sessions. */
  const replicaBy = Effect.fnUntraced(function* (stores: Effect.Success<typeof served>) {
    const applicationName = yield* unique
    const replica = yield* replicaOf(
      stores,
      {
        url: Redacted.make(stores.standby.url),
        applicationName,
        maxConnections: 8,
        startupParameters: { default_transaction_isolation: level }
      },
      long
    )
    /** All events that are there are below a mark that the standby has. */
    const marked = Effect.gen(function* () {
      const version = yield* stores.events.latestVersion
      yield* replica.watched(replica.events.load(version, { atLeast: version, ...long }))
    })
    return { ...replica, applicationName, marked }
  })

  it.live("gives what every kind of read gives, before and after parts were archived and restored", () =>
    Effect.gen(function* () {
      const stores = yield* served
      const { archive, events, replayed, restore } = stores
      const replica = yield* replicaBy(stores)
      yield* events.append(shapes(170))
      const before = yield* everything(stores)
      for (const move of [Effect.void, archive(60n), archive(150n), restore(100n), restore()]) {
        yield* move
        yield* replica.marked
        yield* replayed
        assert.deepStrictEqual(yield* replica.watched(everything(replica)), before)
        const reader = yield* follow(replica, { after: "start" })
        yield* reader.until(170n)
        assert.lengthOf(reader.seen, 170)
      }
      assert.lengthOf(replica.logged, 1, replica.logged.join("\n"))
      assert.match(replica.logged.join(), /another isolation level than READ COMMITTED/)
    }).pipe(Effect.scoped)
  )

  it.live("misses nothing where statements wait there for the lock with which a part is archived", () =>
    Effect.gen(function* () {
      const stores = yield* served
      const { archive, events, primary, replayed, standby } = stores
      yield* events.append(shapes(170))
      const replica = yield* replicaBy(stores)
      yield* replica.marked
      yield* replayed
      const reads = Effect.all(
        [
          replica.events.load(),
          replica.events.load(30n),
          replica.events.loadByAggregate("aggregate 3"),
          Stream.runCollect(replica.events.read({ direction: "backward" }))
        ],
        { concurrency: "unbounded" }
      )
      const before = yield* reads
      // The archive waits at its end, for as long as it takes, while it has the log alone.
      yield* execute(
        [
          `CREATE FUNCTION hold() RETURNS event_trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$
           BEGIN PERFORM pg_advisory_xact_lock_shared(1); END $$`,
          "CREATE EVENT TRIGGER hold ON ddl_command_end WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION hold()"
        ],
        primary.url
      )
      const holder = yield* session(primary.url)
      yield* holder("SELECT pg_advisory_lock(1)")
      const archiving = yield* Effect.forkScoped(archive(100n))
      // It has had the log before for moments, where something else was in its way.
      const isHeld = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted"
      yield* Effect.repeat(Effect.delay(query(isHeld, primary.url), 20), { until: ({ length }) => length > 0 })
      // The commit sends all that was written before.
      yield* execute(["CREATE TABLE sent ()"], primary.url)
      yield* replayed
      const isLocked = `SELECT FROM pg_locks WHERE relation = 'events'::regclass AND mode = 'AccessExclusiveLock' AND granted`
      assert.lengthOf(yield* query(isLocked, standby.url), 1)
      const reading = yield* Effect.forkScoped(reads)
      const waiting = `SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = '${replica.applicationName}'`
      yield* Effect.repeat(Effect.delay(query(waiting, standby.url), 20), { until: ({ length }) => length === 4 })
      yield* holder("SELECT pg_advisory_unlock(1)")
      assert.lengthOf((yield* Fiber.join(archiving)).parts, 2)
      assert.deepStrictEqual(yield* Fiber.join(reading), before)
    }).pipe(Effect.scoped)
  )
})

const says = /archived since this transaction has begun.*READ COMMITTED$/

describe("a transaction with an older snapshot", () => {
  it.live("on a standby alone has all events, or fails and says why", () =>
    Effect.gen(function* () {
      const stores = yield* served
      const { archive, events, files, layer, primary, replayed, restore, standby } = stores
      // The primary removes no row meanwhile that a snapshot of the standby still sees.
      const old = yield* session(primary.url)
      yield* old("BEGIN ISOLATION LEVEL REPEATABLE READ")
      yield* old("SELECT 1")
      const all = yield* events.append(shapes(120))
      const replica = yield* replicaOf(stores, standby.url, long)
      yield* replica.events.load(120n, { atLeast: 120n, ...long })
      yield* replayed
      const alone = yield* serveEvents({
        url: standby.url,
        options: { schema: "public" },
        layer: (options) => Layer.provide(Postgres.layerStorage(options), files)
      })
      const { id = "", version = 0n } = all[59] ?? {}
      const ofAggregate = all.filter(({ aggregateId }) => aggregateId === "aggregate 1")
      const reads: ReadonlyArray<readonly [operation: string, read: Effect.Effect<unknown, unknown>, wanted: unknown]> =
        [
          ["get", alone.events.get(all[0]?.id ?? ""), all[0]],
          ["loadByAggregate", alone.events.loadByAggregate("aggregate 1"), ofAggregate],
          ["read", Stream.runCollect(alone.events.read({ direction: "backward" })), all.toReversed()],
          ["load", alone.events.load(), all],
          ["load", alone.events.load(60n), all.slice(60)],
          ["load", alone.events.load({ id, version }), all.slice(60)],
          ["read", Stream.runCollect(alone.events.read({ after: { id: "another", version }, limit: 0 })), "LogReplaced"]
        ]
      const followed = <A, E>(move: Effect.Effect<A, E>) => Effect.andThen(move, replayed)
      const keeping = Effect.provide(Postgres.Archive.restore({ from: 0n }), layer)
      for (const [operation, read, wanted] of reads) {
        yield* followed(restore())
        yield* failsWith(
          afterwards(alone, followed(archive(100n)), read),
          `EventStore.${operation}`,
          "Unexpected",
          says
        )
        const both = Effect.andThen(restore(), archive(100n))
        const moves = [keeping, both, restore(), Effect.andThen(archive(100n), restore())]
        for (const move of moves.map((move): Effect.Effect<unknown, unknown> => move)) {
          const given = yield* Effect.result(afterwards(alone, followed(move), read))
          if (given._tag === "Success") assert.deepStrictEqual(given.success, wanted)
          yield* followed(archive(100n))
        }
      }
    }).pipe(Effect.scoped)
  )

  it.live("does not take an archived event for one that was deleted, or for one of a log that was replaced", () =>
    Effect.gen(function* () {
      const stores = yield* serveArchive()
      const { archive, events, restore } = stores
      const stored = yield* events.append(shapes(120))
      const { id = "", version = 0n } = stored[59] ?? {}
      const cursors = [version, { id, version }, { id: "another", version }]
      for (const after of cursors) {
        for (const read of [events.read({ after, limit: 0 }), events.read({ after })]) {
          const refused = afterwards(stores, archive(100n), Stream.runCollect(read))
          yield* failsWith(refused, "EventStore.read", "Unexpected", /READ COMMITTED/)
          yield* restore()
        }
      }
    }).pipe(Effect.scoped)
  )
})
