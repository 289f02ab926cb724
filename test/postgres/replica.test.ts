/** Reads from a standby: up to the mark that the primary has published, and from the primary where the standby has not enough. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Redacted, Ref, Stream } from "effect"
import { EventStore, Projection } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { connect } from "node:net"
import { standbyOf } from "../support/Replicas.ts"
import { event, follow, serveEvents, session } from "./events.harness.ts"
import { execute, failsWith, query } from "./harness.ts"
import { pair, replicaOf, untilReplayed } from "./replica.harness.ts"

const long = { wait: Duration.minutes(5) }

const idsOf = (events: ReadonlyArray<{ readonly id: string }>) => events.map(({ id }) => id)

/** How many rows of the table of events were read. */
const readsOf = (url: string) =>
  Effect.map(
    query(
      `SELECT (coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::int FROM pg_stat_user_tables WHERE relname = 'events'`,
      url
    ),
    ([row]) => Number(row?.[0])
  )

describe("a store with a replica", () => {
  it.live("reads from the standby what is settled there, and nothing that is in flight", () =>
    Effect.gen(function* () {
      const { primary, replica, served, standby } = yield* pair(long)
      const { events } = replica
      yield* events.append([event("a", "a1"), event("b", "b1")])
      const open = yield* session(primary.url)
      yield* open("BEGIN")
      yield* open("INSERT INTO events (id, aggregate_id, event_type, data) VALUES ('late', 'a', 'T', '{}')")
      const [last] = yield* events.append(event("a", "a2"))
      const atLeast = last?.version ?? 0n
      // One aggregate waits for the replay of the version only; the log waits for what is in flight below it.
      assert.deepStrictEqual(idsOf(yield* events.loadByAggregate("a", 0n, { atLeast })), ["a1", "a2"])
      assert.deepStrictEqual(idsOf(yield* events.load(0n, { atLeast: 2n })), ["a1", "b1"])
      const whole = yield* Effect.forkScoped(events.load(0n, { atLeast }))
      yield* untilReplayed(primary, standby)
      assert.isUndefined(whole.pollUnsafe())
      yield* open("COMMIT")
      assert.deepStrictEqual(idsOf(yield* Fiber.join(whole)), ["a1", "b1", "late", "a2"])
      const backward = events.read({ direction: "backward", atLeast, batchSize: 1 })
      assert.deepStrictEqual(idsOf(yield* Stream.runCollect(backward)), ["a2", "late", "b1", "a1"])
      const some = events.read({ atLeast, aggregateIds: ["a"], batchSize: 2, limit: 2, after: 1n })
      assert.deepStrictEqual(idsOf(yield* Stream.runCollect(some)), ["late", "a2"])
      assert.deepStrictEqual(replica.logged, [])
      assert.deepStrictEqual(idsOf(yield* served.events.load()), ["a1", "b1", "late", "a2"])
    })
  )

  it.live("waits for the standby, and goes to the primary after that time", () =>
    Effect.gen(function* () {
      const { pause, primary, replica, resume, served, standby } = yield* pair()
      const { events } = replica
      const [first] = yield* events.append(event("a", "first"))
      yield* events.load(0n, { atLeast: first?.version ?? 0n, ...long })
      yield* pause
      const [second] = yield* events.append(event("a", "second"))
      const atLeast = second?.version ?? 0n
      assert.deepStrictEqual(idsOf(yield* events.load()), ["first"])
      assert.deepStrictEqual(idsOf(yield* events.loadByAggregate("a")), ["first"])
      const latest = { atLeast: "latest" } as const
      assert.deepStrictEqual(idsOf(yield* events.loadByAggregate("a", 0n, latest)), ["first", "second"])
      assert.deepStrictEqual(idsOf(yield* events.load(0n, latest)), ["first", "second"])
      const short = { atLeast, wait: "10 millis" } as const
      assert.deepStrictEqual(idsOf(yield* events.loadByAggregate("a", 0n, short)), ["first", "second"])
      assert.deepStrictEqual(idsOf(yield* events.load(0n, short)), ["first", "second"])
      // A cursor is a version that the reader has seen.
      assert.deepStrictEqual(idsOf(yield* Stream.runCollect(events.read({ after: 1n, ...short }))), ["second"])
      const inside = served.withTransaction(Effect.andThen(events.append(event("a", "own")), events.load()))
      assert.deepStrictEqual(idsOf(yield* inside), ["first", "second", "own"])
      const waiting = yield* Effect.forkScoped(
        Effect.all(
          [
            events.load(0n, { atLeast, ...long }),
            events.loadByAggregate("a", 0n, { atLeast, ...long }),
            Stream.runCollect(events.read({ atLeast, ...long, direction: "backward" }))
          ],
          { concurrency: "unbounded" }
        )
      )
      yield* Effect.sleep("200 millis")
      assert.isUndefined(waiting.pollUnsafe())
      yield* resume
      const [load, aggregate, backward] = yield* Fiber.join(waiting)
      for (const found of [load, aggregate, backward.toReversed()]) {
        assert.deepStrictEqual(idsOf(found).slice(0, 2), ["first", "second"])
      }
      yield* untilReplayed(primary, standby)
      assert.deepStrictEqual(replica.logged, [])
    })
  )

  it.live("goes on with the primary while the standby is down, with one warning, and comes back", () =>
    Effect.gen(function* () {
      const { replica, standby } = yield* pair(long)
      const { events, logged } = replica
      const [first] = yield* events.append(event("a", "first"))
      yield* events.load(0n, { atLeast: first?.version ?? 0n })
      yield* standby.stop("fast")
      for (const read of [events.load(), events.loadByAggregate("a"), events.load(1n)]) {
        const found = yield* replica.watched(read)
        assert.isAtMost(found.length, 1)
      }
      assert.lengthOf(logged, 1, logged.join("\n"))
      assert.match(String(logged[0]), /the standby cannot be read: .*; the primary is read instead/)
      yield* standby.start
      const [second] = yield* events.append(event("a", "second"))
      assert.lengthOf(yield* events.load(0n, { atLeast: second?.version ?? 0n }), 2)
    })
  )

  it.live("reads from the standby while the primary is down, and compares cursors with its log", () =>
    Effect.gen(function* () {
      const { primary, replica } = yield* pair(long)
      const { events } = replica
      const [first, second] = yield* events.append([event("a", "first"), event("b", "second")])
      const atLeast = second?.version ?? 0n
      yield* events.load(0n, { atLeast })
      yield* primary.stop("fast")
      assert.deepStrictEqual(idsOf(yield* events.load()), ["first", "second"])
      assert.deepStrictEqual(idsOf(yield* events.loadByAggregate("a")), ["first"])
      const backward = events.read({ direction: "backward", limit: 1 })
      assert.deepStrictEqual(idsOf(yield* Stream.runCollect(backward)), ["second"])
      const compare = (id: string) =>
        Stream.runCollect(events.read({ after: { version: first?.version ?? 0n, id }, limit: 0 }))
      assert.deepStrictEqual(yield* compare("first"), [])
      // Whether the log was replaced, only the primary decides.
      yield* failsWith(compare("another"), "EventStore.read", "Unavailable", /no connection/)
      yield* primary.start
      assert.instanceOf(yield* Effect.flip(compare("another")), EventStore.LogReplaced)
    })
  )

  it.live("warns once of a filter that no index serves", () =>
    Effect.gen(function* () {
      const { primary, replica, served, standby } = yield* pair(long)
      const { events } = replica
      yield* events.append(event("a", "first"))
      yield* execute(["SELECT setval(pg_get_serial_sequence('events', 'version'), 2000000)"], primary.url)
      const [last] = yield* events.append(event("a", "last"))
      const atLeast = last?.version ?? 0n
      yield* replica.watched(events.load(0n, { atLeast }))
      const data = { text: "none" }
      const alone = yield* serveEvents({
        url: standby.url,
        layer: Postgres.layerStorage,
        options: { schema: "public" }
      })
      for (const { events, logged, watched } of [replica, alone]) {
        for (let times = 0; times < 2; times++) {
          assert.deepStrictEqual(yield* watched(Stream.runCollect(events.read({ data }))), [])
        }
        assert.lengthOf(logged, 1, logged.join("\n"))
        assert.match(String(logged[0]), /^a filter by data is looked up in no index: up to 2000001 events/)
      }
      const backward = yield* replicaOf(served, standby.url)
      const read = backward.events.read({ data, atLeast, ...long, direction: "backward" })
      assert.deepStrictEqual(yield* backward.watched(Stream.runCollect(read)), [])
      assert.lengthOf(backward.logged, 1, backward.logged.join("\n"))
    })
  )

  it.live("rebuilds a read model from the standby, in its place or beside it", () =>
    Effect.gen(function* () {
      const { primary, replica, standby } = yield* pair(long)
      const stored = yield* replica.events.append(Array.from({ length: 2000 }, (_, n) => event(`a${n % 7}`, `${n}`)))
      const last = stored.at(-1)?.version ?? 0n
      yield* replica.events.load(0n, { atLeast: last })
      yield* untilReplayed(primary, standby)
      const seen = yield* Ref.make<ReadonlyArray<bigint>>([])
      const projection = Projection.make({
        name: "copy",
        handler: ({ version }) => Ref.update(seen, (before) => [...before, version])
      })
      yield* Effect.forkScoped(Effect.provide(Projection.run(projection), replica.context))
      yield* Projection.awaitVersion("copy", last, "5 minutes").pipe(Effect.provide(replica.context))
      for (const mode of ["in place", "beside"] as const) {
        const [fromStandby, fromPrimary] = [yield* readsOf(standby.url), yield* readsOf(primary.url)]
        const rebuild = Projection.rebuild(projection, { mode, clear: () => Ref.set(seen, []) })
        yield* Stream.runDrain(rebuild).pipe(Effect.provide(replica.context))
        assert.deepStrictEqual(
          yield* Ref.get(seen),
          stored.map(({ version }) => version)
        )
        // A session counts once it has nothing to do for a while.
        yield* Effect.repeat(Effect.andThen(Effect.sleep("100 millis"), readsOf(standby.url)), {
          until: (now) => now - fromStandby >= 2000
        })
        assert.isBelow((yield* readsOf(primary.url)) - fromPrimary, 1000)
      }
    })
  )

  it.live("goes on with the primary where the mark cannot be written, with one warning, and says when it can", () =>
    Effect.gen(function* () {
      const { primary, replica } = yield* pair()
      const { events, logged } = replica
      yield* execute(
        [
          `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$`,
          `CREATE TRIGGER refuse BEFORE INSERT ON events_mark FOR EACH ROW EXECUTE FUNCTION refuse()`
        ],
        primary.url
      )
      yield* events.append(event("a", "first"))
      assert.deepStrictEqual(idsOf(yield* events.load()), ["first"])
      yield* Effect.repeat(Effect.sleep("10 millis"), { until: () => logged.length > 0 })
      // By now the next publication is due, which is refused, too.
      yield* Effect.sleep("1100 millis")
      assert.deepStrictEqual(idsOf(yield* events.load()), ["first"])
      yield* execute(["DROP TRIGGER refuse ON events_mark"], primary.url)
      yield* Effect.repeat(Effect.andThen(events.load(), Effect.sleep("100 millis")), {
        until: () => logged.length > 1
      })
      assert.lengthOf(logged, 2, logged.join("\n"))
      assert.match(String(logged[0]), /the mark .* cannot be written: .*refused.*; they read from the primary/)
      assert.match(String(logged[1]), /the mark is written again, after/)
    })
  )

  it.live("publishes nothing at rest, and overwrites its row in place", () =>
    Effect.gen(function* () {
      const { primary, replica } = yield* pair(long)
      const { events } = replica
      const written = query(
        "SELECT n_tup_ins::int, n_tup_upd::int, n_tup_hot_upd::int FROM pg_stat_user_tables WHERE relname = 'events_mark'",
        primary.url
      )
      assert.deepStrictEqual(yield* written, [[0, 0, 0]])
      for (const n of [1, 2, 3, 4]) {
        const [stored] = yield* events.append(event("a", `${n}`))
        assert.lengthOf(yield* events.load(0n, { atLeast: stored?.version ?? 0n }), n)
      }
      yield* events.load()
      yield* Effect.repeat(Effect.andThen(Effect.sleep("100 millis"), written), {
        until: ([row]) => Number(row?.[0]) + Number(row?.[1]) >= 4
      })
      const [[inserted, updated, hot] = []] = yield* written
      assert.strictEqual(inserted, 1)
      assert.strictEqual(hot, updated)
    })
  )

  it.live("reads the log of a subscription from the standby, and the live end from the primary", () =>
    Effect.gen(function* () {
      const { pause, primary, replica, standby } = yield* pair(long)
      const { events } = replica
      const stored = yield* events.append(Array.from({ length: 3000 }, (_, n) => event("a", `${n}`)))
      const last = stored.at(-1)?.version ?? 0n
      yield* events.load(0n, { atLeast: last })
      yield* untilReplayed(primary, standby)
      const before = yield* readsOf(standby.url)
      const early = yield* follow(replica, { after: "start", batchSize: 100 })
      yield* early.until(last)
      // A session counts once it has nothing to do for a while.
      yield* Effect.repeat(Effect.andThen(Effect.sleep("100 millis"), readsOf(standby.url)), {
        until: (now) => now - before >= 3000
      })
      yield* pause
      const [live] = yield* events.append(event("a", "live"))
      yield* early.until(live?.version ?? 0n)
      const late = yield* follow(replica, { after: "start" })
      yield* late.until(live?.version ?? 0n)
      const all = [...stored, ...(live === undefined ? [] : [live])].map(({ version }) => version)
      assert.deepStrictEqual(early.seen, all)
      assert.deepStrictEqual(late.seen, all)
    })
  )

  it.live("takes a mark and its page from the same standby, of two at different places", () =>
    Effect.gen(function* () {
      const { primary, served, standby } = yield* pair()
      const other = yield* standbyOf(primary)
      let turn = 0
      const replica = yield* replicaOf(served, {
        maxConnections: 4,
        stream: () => connect(turn++ % 2 === 0 ? standby.port : other.port, "127.0.0.1"),
        username: "postgres",
        password: Redacted.make(new URL(primary.url).password),
        database: "postgres"
      })
      const { events } = replica
      const append = events.append(Array.from({ length: 10 }, () => event("a")))
      const lastOf = (stored: ReadonlyArray<EventStore.StoredEvent>) => stored.at(-1)?.version ?? 0n
      yield* events.load(0n, { atLeast: lastOf(yield* append), ...long })
      for (const server of [standby, other]) yield* untilReplayed(primary, server)
      yield* execute(["SELECT pg_wal_replay_pause()"], other.url)
      const last = lastOf(yield* append)
      // One standby has this mark now, and the other one will not have it.
      yield* events.load(0n, { atLeast: last, ...long })
      const all = yield* Effect.all(
        Array.from({ length: 40 }, () =>
          Stream.runCollect(
            Stream.takeUntil(events.follow({ after: "start", batchSize: 3 }), ({ upTo }) => upTo.version >= last)
          )
        ),
        { concurrency: "unbounded" }
      )
      for (const steps of all)
        assert.lengthOf(
          steps.flatMap(({ events }) => events),
          20
        )
    })
  )

  it.live("follows no mark of a sequence or server that is gone", () =>
    Effect.gen(function* () {
      const { primary, replica, served, standby } = yield* pair(long)
      const { events } = replica
      const stored = yield* events.append([event("a", "1"), event("a", "2"), event("a", "3")])
      yield* events.load(0n, { atLeast: stored.at(-1)?.version ?? 0n })
      yield* execute(["TRUNCATE events RESTART IDENTITY"], primary.url)
      yield* untilReplayed(primary, standby)
      const open = yield* session(primary.url)
      yield* open("BEGIN")
      yield* open("INSERT INTO events (id, aggregate_id, event_type, data) VALUES ('late', 'a', 'T', '{}')")
      yield* served.events.append(event("a", "new"))
      yield* untilReplayed(primary, standby)
      // The old mark is 3, and would give the event with version 2 before that with version 1.
      assert.deepStrictEqual(idsOf(yield* events.load(0n, { wait: "1 second" })), [])
      yield* open("COMMIT")
      assert.deepStrictEqual(idsOf(yield* events.load(0n, { atLeast: 2n })), ["late", "new"])
    })
  )
})

describe("a standby by itself", () => {
  it.live("gives one aggregate, and the log up to a mark; without one it says what to do", () =>
    Effect.gen(function* () {
      const { primary, replica, served, standby } = yield* pair(long)
      yield* served.events.append([event("a", "a1"), event("b", "b1")])
      yield* untilReplayed(primary, standby)
      const { events } = yield* serveEvents({
        url: standby.url,
        layer: Postgres.layerStorage,
        options: { schema: "public" }
      })
      assert.deepStrictEqual(idsOf(yield* events.loadByAggregate("a")), ["a1"])
      assert.deepStrictEqual(idsOf(yield* Stream.runCollect(events.read({ direction: "backward" }))), ["b1", "a1"])
      const one = Stream.runCollect(events.read({ aggregateIds: ["a"] }))
      yield* failsWith(one, "EventStore.read", "Denied", /a standby.*loadByAggregate/)
      yield* failsWith(events.load(), "EventStore.load", "Denied", /no mark of the primary/)

      yield* replica.events.load(0n, { atLeast: 2n })
      yield* served.events.append(event("a", "a2"))
      yield* untilReplayed(primary, standby)
      assert.deepStrictEqual(idsOf(yield* events.load()), ["a1", "b1"])
      assert.deepStrictEqual(idsOf(yield* one), ["a1"])
      const wrong = yield* Effect.flip(events.load({ version: 1n, id: "another" }))
      assert.instanceOf(wrong, EventStore.LogReplaced)
      yield* failsWith(events.load(3n), "EventStore.load", "Denied", /a standby/)
      const compare = (after: { readonly version: bigint; readonly id: string }) =>
        Stream.runCollect(events.read({ after, limit: 0 }))
      assert.deepStrictEqual(yield* compare({ version: 1n, id: "a1" }), [])
      assert.instanceOf(yield* Effect.flip(compare({ version: 1n, id: "another" })), EventStore.LogReplaced)
      yield* failsWith(compare({ version: 3n, id: "a2" }), "EventStore.read", "Denied", /a standby/)
    })
  )

  it.live("is not read where it follows another primary", () =>
    Effect.gen(function* () {
      const { replica, served, standby } = yield* pair({ wait: "1 second" })
      const [first] = yield* replica.events.append(event("a", "first"))
      yield* replica.events.load(0n, { atLeast: first?.version ?? 0n, ...long })
      // Promoted by mistake, while the primary goes on: both get events of their own.
      yield* execute(["SELECT pg_promote()"], standby.url)
      const other = yield* serveEvents({ url: standby.url, options: { schema: "public" } })
      const [foreign] = yield* other.events.append(event("a", "foreign"))
      const read = Effect.fnUntraced(function* ({ events }: typeof replica, options: EventStore.ReadOptions = {}) {
        const backward = events.read({ direction: "backward", ...options })
        return [
          idsOf(yield* events.load(0n, options)),
          idsOf(yield* events.loadByAggregate("a", 0n, options)),
          idsOf(yield* Stream.runCollect(backward)).toReversed()
        ]
      })
      // The mark there is still that of the primary.
      assert.deepStrictEqual(yield* read(replica), [["first"], ["first"], ["first"]])
      const wrong = yield* replicaOf(other, standby.url, long)
      yield* wrong.events.load(0n, { atLeast: foreign?.version ?? 0n })
      const [second] = yield* served.events.append(event("a", "second"))
      const both = ["first", "second"]
      const options = { atLeast: second?.version ?? 0n }
      assert.deepStrictEqual(yield* read(replica, options), [both, both, both])
      const third = yield* replicaOf(served, (yield* standbyOf(standby)).url, { wait: "1 second" })
      assert.deepStrictEqual(yield* read(third), [both, both, both])
    })
  )
})
