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
    yield* execute(
      ["CREATE TABLE noted (n int)", "INSERT INTO noted SELECT * FROM generate_series(1, 1000)"],
      primary.url
    )

    // As long as this transaction is open, readers see the rows that are deleted meanwhile.
    const older = yield* session(primary.url)
    yield* older("BEGIN")
    yield* older("SELECT pg_current_xact_id()::text")
    yield* execute(["DELETE FROM noted"], primary.url)
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
    yield* until(
      standby.url,
      "(SELECT count(*) = 4 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'relation')"
    )
    // For longer than a read waits for a standby.
    yield* Effect.sleep("1100 millis")
    yield* older("COMMIT")
    yield* execute(["VACUUM noted"], primary.url)
    yield* until(
      standby.url,
      "(SELECT confl_snapshot >= 4 FROM pg_stat_database_conflicts WHERE datname = current_database())"
    )
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
