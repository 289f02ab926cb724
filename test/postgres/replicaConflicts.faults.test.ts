/** Statements on a standby that are in the way of the replay. */
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { event, session } from "./events.harness.ts"
import { execute, query } from "./harness.ts"
import { pair } from "./replica.harness.ts"

const idsOf = (events: ReadonlyArray<{ readonly id: string }>) => events.map(({ id }) => id)

/** Asks a server until this is so. */
const until = (url: string, condition: string) =>
  Effect.repeat(query(`SELECT ${condition}, pg_sleep(0.01)::text`, url), { until: ([row]) => row?.[0] === true })

it.live("a read that the replay cancels is tried again, however long it has run", () =>
  Effect.gen(function* () {
    // Whoever sees rows that the primary has removed is cancelled at once.
    const { primary, replica, standby } = yield* pair({}, { max_standby_streaming_delay: "0" })
    const { events } = replica
    const stored = yield* events.append([event("a", "first"), event("b", "second")])
    yield* events.load(0n, { atLeast: stored.at(-1)?.version ?? 0n, wait: "5 minutes" })
    // As long as the first transaction is open, readers see the rows that are deleted meanwhile, and then by the second one.
    const removals: Array<{ readonly end: Effect.Effect<unknown, unknown>; readonly vacuum: string }> = []
    for (const table of ["noted", "noted_later"]) {
      yield* execute(
        [`CREATE TABLE ${table} (n int)`, `INSERT INTO ${table} SELECT * FROM generate_series(1, 1000)`],
        primary.url
      )
      const older = yield* session(primary.url)
      yield* older("BEGIN")
      // It has an id from now on, and no snapshot: that of a SELECT would keep the rows of the first table until its end.
      yield* older(`CREATE TABLE ${table}_meanwhile (n int)`)
      yield* execute([`DELETE FROM ${table}`], primary.url)
      removals.push({ end: older("COMMIT"), vacuum: `VACUUM ${table}` })
    }
    // The standby takes this lock, too, and keeps readers waiting.
    const locking = yield* session(primary.url)
    yield* locking("BEGIN")
    yield* locking("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
    yield* until(
      standby.url,
      "EXISTS (SELECT FROM pg_locks WHERE relation = 'events'::regclass AND mode = 'AccessExclusiveLock' AND granted)"
    )
    const reads = Effect.all(
      [
        events.load(),
        events.loadByAggregate("a"),
        Stream.runCollect(events.read({ direction: "backward" })),
        Stream.runCollect(events.read({ after: { version: 1n, id: "first" }, limit: 0 }))
      ],
      { concurrency: "unbounded" }
    )
    const reading = yield* Effect.forkScoped(replica.watched(reads))
    const waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'relation'"
    yield* until(standby.url, `(SELECT count(*) = 4 ${waiting})`)
    // For longer than a read waits for a standby.
    yield* Effect.sleep("1100 millis")
    // The first time the statement is repeated on its connection.
    for (const { end, vacuum } of removals) {
      const [[last] = []] = yield* query(`SELECT max(query_start)::text ${waiting}`, standby.url)
      yield* end
      yield* execute([vacuum], primary.url)
      yield* until(standby.url, `(SELECT count(*) = 4 ${waiting} AND query_start > '${String(last)}')`)
    }
    yield* locking("COMMIT")
    const [load, aggregate, backward, compared] = yield* Fiber.join(reading)
    assert.deepStrictEqual(idsOf(load), ["first", "second"])
    assert.deepStrictEqual(idsOf(aggregate), ["first"])
    assert.deepStrictEqual(idsOf(backward), ["second", "first"])
    assert.deepStrictEqual(compared, [])
    // Nothing was read from the primary.
    assert.deepStrictEqual(replica.logged, [])
  })
)
