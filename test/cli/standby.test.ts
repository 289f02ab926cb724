/** The command on a standby: what only reads works there, with or without a mark of the primary. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Queue } from "effect"
import { EventStore, Projection } from "effect-strata"
import { event } from "../postgres/events.harness.ts"
import { pair, untilReplayed } from "../postgres/replica.harness.ts"
import { jsonLines, strata, succeeds } from "./harness.ts"

describe("on a standby", () => {
  it.live("status, projections and events show what it has replayed, with or without a mark", () =>
    Effect.gen(function* () {
      const { primary, replica, served, standby } = yield* pair({ wait: "1 minute" })
      const { context, events } = served
      yield* events.append([event("a", "1"), event("b", "2")])
      const handled = yield* Queue.unbounded<string>()
      const projection = Projection.make({ name: "copy", handler: ({ id }) => Queue.offer(handled, id) })
      const running = yield* Effect.forkScoped(Effect.provide(Projection.run(projection), context))
      yield* Projection.awaitVersion("copy", 2n, "4 minutes").pipe(Effect.provide(context))
      yield* Fiber.interrupt(running)
      yield* events.append(event("a", "3"))
      yield* untilReplayed(primary, standby)
      const options = { url: standby.url }
      const shown = Effect.gen(function* () {
        const [status] = jsonLines(yield* succeeds(["status", "--schema", "public", "--json"], options))
        assert.deepStrictEqual([status?.["standby"], status?.["latestVersion"], status?.["tail"]], [true, "3", null])
        assert.match(yield* succeeds(["status", "--schema", "public"], options), /replayed by a standby/)
        const projections = jsonLines(
          yield* succeeds(["projections", "status", "copy", "--schema", "public", "--json"], options)
        )
        assert.isAbove(projections.length, 0)
        const { stdout } = yield* strata(["doctor", "--schema", "public", "--json"], options)
        const unlooked = jsonLines(stdout).filter(({ says }) => String(says).includes("could not be checked"))
        assert.deepStrictEqual(unlooked, [])
      })
      yield* shown
      yield* replica.events.load(0n, { atLeast: 3n })
      yield* untilReplayed(primary, standby)
      yield* shown
      const read = jsonLines(yield* succeeds(["events", "read", "--schema", "public", "--json"], options))
      assert.deepStrictEqual(
        read.map(({ id }) => id),
        ["1", "2", "3"]
      )
      assert.strictEqual(yield* Context.get(context, EventStore.EventStore).latestVersion, 3n)
    })
  )
})
