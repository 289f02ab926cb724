/**
 * Archived events through a standby: whatever it has replayed, and whatever moves meanwhile, a reader gets each event once, in
 * order.
 */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Ref, Stream } from "effect"
import { Projection } from "effect-strata"
import type * as Postgres from "effect-strata/postgres"
import * as PostgresServer from "../support/PostgresServer.ts"
import { standbyOf } from "../support/Replicas.ts"
import { everything, serveArchive, shapes } from "./archive.harness.ts"
import { follow } from "./events.harness.ts"
import { execute } from "./harness.ts"
import { replicaOf, untilReplayed } from "./replica.harness.ts"

const long = { wait: Duration.minutes(5) }

/** A log with partitions, some of which are archived, with a standby and a store that reads from it. */
const served = Effect.fnUntraced(function* (options: Postgres.ReplicaOptions = long) {
  const primary = yield* PostgresServer.make()
  const stores = yield* serveArchive({ url: primary.url, options: { schema: "public" } })
  const standby = yield* standbyOf(primary)
  const replica = yield* replicaOf(stores, standby.url, options)
  return {
    ...stores,
    primary,
    standby,
    replica,
    replayed: untilReplayed(primary, standby),
    pause: execute(["SELECT pg_wal_replay_pause()"], standby.url),
    resume: execute(["SELECT pg_wal_replay_resume()"], standby.url),
    /** Everything that has been appended is in a mark that the standby has. */
    marked: Effect.gen(function* () {
      const version = yield* stores.events.latestVersion
      yield* replica.events.load(version, { atLeast: version, ...long })
    })
  }
})

describe("archived events, by a store with a replica,", () => {
  it.live("are given by every kind of read as they were, and the standby gives what comes after them", () =>
    Effect.gen(function* () {
      const { archive, events, marked, pause, primary, replayed, replica, restore } = yield* served()
      yield* events.append(shapes(170))
      const before = yield* everything({ events })
      for (const move of [archive(60n), archive(150n), restore(100n), restore()]) {
        yield* move
        yield* marked
        yield* replayed
        assert.deepStrictEqual(yield* everything(replica), before)
      }
      yield* archive(100n)
      yield* events.append(
        Array.from({ length: 2000 }, (_, n) => ({ aggregateId: `a${n % 3}`, eventType: "T", data: n }))
      )
      yield* marked
      yield* replayed
      // What the primary would give from now on, the standby does not have.
      yield* pause
      yield* execute([`UPDATE events SET data = '"of the primary"'`], primary.url)
      const all = yield* replica.events.load()
      assert.lengthOf(all, 2170)
      assert.isFalse(all.some(({ data }) => data === "of the primary"))
      assert.deepStrictEqual(replica.logged, [])
    }).pipe(Effect.scoped)
  )

  it.live("are given once by a standby that lags behind what was archived, or restored", () =>
    Effect.gen(function* () {
      const { archive, events, marked, pause, replayed, replica, restore, resume } = yield* served({
        wait: "20 millis"
      })
      yield* events.append(shapes(220))
      const before = yield* everything({ events })
      // It has partitions that are archived by now, then none of those that are restored by now, and some of each.
      const lags = [
        [Effect.void, archive(150n)],
        [archive(150n), restore(100n)],
        [archive(200n), restore()],
        [archive(100n), Effect.andThen(restore(), archive(200n))]
      ] as const
      for (const [known, unknown] of lags) {
        yield* known
        yield* marked
        yield* replayed
        yield* pause
        yield* unknown
        assert.deepStrictEqual(yield* everything(replica), before)
        yield* resume
        yield* marked
        assert.deepStrictEqual(yield* everything(replica), before)
        yield* restore()
      }
    }).pipe(Effect.scoped)
  )

  it.live("are read where the mark is older than what is archived", () =>
    Effect.gen(function* () {
      const { archive, events, marked, pause, replayed, replica, resume } = yield* served({ wait: "20 millis" })
      yield* events.append(shapes(60))
      yield* marked
      yield* events.append(shapes(160))
      const before = yield* events.load()
      yield* archive(150n)
      yield* replayed
      yield* pause
      assert.deepStrictEqual(yield* replica.events.load(), before)
      assert.deepStrictEqual(yield* replica.events.load(149n), before.slice(149))
      assert.deepStrictEqual(yield* replica.events.load(30n), before.slice(30))
      yield* resume
    }).pipe(Effect.scoped)
  )

  it.live(
    "come once where their part is archived, or restored, between two pages, and the standby follows or lags",
    () =>
      Effect.gen(function* () {
        const { archive, events, marked, pause, replayed, replica, restore, resume } = yield* served({
          wait: "20 millis"
        })
        yield* events.append(shapes(220))
        yield* marked
        const all: ReadonlyArray<unknown> = yield* events.load()
        const followed = Effect.andThen(resume, replayed)
        const changes = new Map<bigint, Effect.Effect<unknown, unknown>>([
          [5n, Effect.andThen(archive(50n), followed)],
          [30n, pause],
          [60n, archive(150n)],
          [75n, followed],
          [90n, restore(100n)],
          [110n, Effect.andThen(archive(150n), followed)],
          [120n, Effect.andThen(pause, restore())],
          [160n, Effect.andThen(archive(200n), resume)],
          [170n, Effect.andThen(followed, Effect.andThen(pause, restore(100n)))],
          [180n, resume]
        ])
        for (const direction of ["forward", "backward"] as const) {
          for (const query of [{ batchSize: 10 }, { batchSize: 1 }, { batchSize: 3, tags: ["every fifth"] }]) {
            const seen: Array<unknown> = []
            yield* Stream.runForEach(replica.events.read({ ...query, direction }), (event) => {
              seen.push(event)
              return changes.get(event.version) ?? Effect.void
            })
            const wanted = "tags" in query ? all.filter((_, n) => n % 5 === 0) : all
            assert.deepStrictEqual(seen, direction === "forward" ? wanted : wanted.toReversed())
            yield* resume
            yield* restore()
          }
        }
      }).pipe(Effect.scoped)
  )

  it.live("reach subscriptions and read models that are rebuilt, once each, while parts move and others append", () =>
    Effect.gen(function* () {
      const { archive, events, marked, replica, restore } = yield* served()
      yield* events.append(shapes(300))
      yield* archive(200n)
      yield* marked
      const readers = [
        yield* follow(replica, { after: "start" }),
        yield* follow(replica, { after: "start", batchSize: 7 }),
        yield* follow(replica, { after: 77n }),
        yield* follow(replica, { after: "start", tags: ["every fifth"] })
      ]
      for (let round = 0; round < 4; round++) {
        yield* events.append(shapes(60))
        yield* archive(BigInt(250 + 60 * round))
        if (round === 1) yield* restore(150n)
      }
      const [last = 0n] = (yield* events.load()).slice(-1).map(({ version }) => version)
      const seen = yield* Ref.make<ReadonlyArray<bigint>>([])
      const projection = Projection.make({
        name: "copy",
        handler: ({ version }) => Ref.update(seen, (before) => [...before, version])
      })
      yield* Effect.forkScoped(Effect.provide(Projection.run(projection), replica.context))
      yield* Projection.awaitVersion("copy", last, "5 minutes").pipe(Effect.provide(replica.context))
      const versions = (yield* events.load()).map(({ version }) => version)
      assert.deepStrictEqual(yield* Ref.get(seen), versions)
      for (const mode of ["in place", "beside"] as const) {
        const rebuild = Projection.rebuild(projection, { mode, clear: () => Ref.set(seen, []) })
        yield* Stream.runDrain(rebuild).pipe(Effect.provide(replica.context))
        assert.deepStrictEqual(yield* Ref.get(seen), versions)
      }
      const tagged = (yield* Stream.runCollect(events.read({ tags: ["every fifth"] }))).map(({ version }) => version)
      const [first, second, later, fifth] = readers
      yield* Effect.forEach([first, second, later], (reader) => reader?.until(last) ?? Effect.void)
      yield* fifth?.until(tagged.at(-1) ?? 0n) ?? Effect.void
      assert.deepStrictEqual(first?.seen, versions)
      assert.deepStrictEqual(second?.seen, versions)
      assert.deepStrictEqual(
        later?.seen,
        versions.filter((version) => version > 77n)
      )
      assert.deepStrictEqual(fifth?.seen, tagged)
    }).pipe(Effect.scoped)
  )

  it.live(
    "are what a cursor is compared with, also by the standby alone where the cursor is the last archived event",
    () =>
      Effect.gen(function* () {
        const { archive, events, marked, primary, replayed, replica } = yield* served()
        const stored = yield* events.append(shapes(120))
        yield* archive(100n)
        yield* marked
        yield* replayed
        for (const index of [0, 20, 48, 98]) {
          const { id, version } = stored[index] ?? { id: "", version: 0n }
          assert.deepStrictEqual(yield* replica.events.load({ version, id }), stored.slice(index + 1))
          const other = yield* Effect.flip(replica.events.load({ version, id: "another" }))
          assert.strictEqual(other._tag, "LogReplaced")
        }
        yield* primary.stop("fast")
        const { id = "", version = 0n } = stored[98] ?? {}
        assert.deepStrictEqual(yield* replica.events.load({ version, id }), stored.slice(99))
        assert.deepStrictEqual(yield* replica.events.load(99n), stored.slice(99))
        yield* primary.start
      }).pipe(Effect.scoped)
  )
})
