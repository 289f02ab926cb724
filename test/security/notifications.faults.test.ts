/** Any role that may connect can notify: a flood neither stops subscribers nor lets them miss an event. */
import { PgConnection } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Redacted, Stream } from "effect"
import { freshRole, freshSchema, serve } from "../postgres/harness.ts"

it.live("a flood of notifications of another role, all different, on both channels: subscribers go on", () =>
  Effect.gen(function* () {
    const mallory = yield* freshRole()
    const { events } = yield* serve({ options: { schema: yield* freshSchema() } })
    const following = yield* Effect.forkScoped(
      Stream.runCollect(Stream.take(events.subscribe({ after: "start" }), 6)),
      { startImmediately: true }
    )
    const flooder = yield* PgConnection.make({ url: Redacted.make(mallory.url) })
    for (let round = 1; round <= 6; round++) {
      yield* flooder.query(
        `SELECT count(pg_notify(channel, 'flood ${round} ' || n)) FROM generate_series(1, 20000) AS n,
           unnest(ARRAY['strata_wakeups', 'events_global']) AS channel`
      )
      yield* events.append({ aggregateId: "a", eventType: "T", data: round })
    }
    assert.deepStrictEqual(
      (yield* Fiber.join(following)).map(({ data }) => data),
      [1, 2, 3, 4, 5, 6]
    )
  }).pipe(Effect.scoped)
)
