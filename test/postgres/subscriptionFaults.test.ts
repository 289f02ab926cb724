/** How a subscription goes on without its server, and what ends it. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Schedule, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import { event, follow, serveEvents, type ServedEvents } from "./events.harness.ts"
import { execute, failsWith, freshRole } from "./harness.ts"
import { assertComplete, onServer, status } from "./subscriptions.harness.ts"

describe("a server", () => {
  it.live("that is not there when the subscription begins delays it, and does not end it", () =>
    Effect.gen(function* () {
      const { served, server } = yield* onServer()
      yield* server.stop("fast")
      const follower = yield* follow(served, { after: "start" })
      yield* status(served, "reconnecting")
      // Time for more than one attempt.
      yield* Effect.sleep(400)
      assert.strictEqual(yield* served.events.listener.status, "reconnecting")
      yield* server.start
      yield* status(served, "connected")
      yield* assertComplete(served, [follower], server.url)
    })
  )

  it.live("that does not come back within the reconnect schedule fails the stream; the next one tries anew", () =>
    Effect.gen(function* () {
      const reconnect = Schedule.max([Schedule.spaced("20 millis"), Schedule.recurs(3)])
      const { served, server } = yield* onServer({ reconnect })
      const [live, another] = [yield* follow(served, { after: "start" }), yield* follow(served, { after: 0n })]
      const [first] = yield* served.events.append(event("a"))
      for (const { until } of [live, another]) yield* until(first?.version ?? 0n)
      yield* server.stop("immediate")
      for (const { fiber } of [live, another]) {
        yield* failsWith(Fiber.join(fiber), "EventStore.subscribe", "Unavailable", /no connection to the server/)
      }
      yield* status(served, "stopped")
      yield* failsWith(
        Stream.runDrain(served.events.subscribe({ after: "start" })),
        "EventStore.subscribe",
        "Unavailable",
        /no connection to the server/
      )
      yield* server.start
      const next = yield* follow(served, { after: "start" })
      yield* status(served, "connected")
      yield* assertComplete(served, [next], server.url)
    })
  )
})

describe("a reconnect schedule without a second attempt", () => {
  it.live("is not used up by connecting for the first time", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents({ options: { reconnect: Schedule.recurs(0) } })
      yield* served.events.append(Array.from({ length: 500 }, () => event("a")))
      const follower = yield* follow(served, { after: "start", batchSize: 1 })
      yield* assertComplete(served, [follower])
    })
  )
})

describe("what no retry mends", () => {
  const subscribe = ({ events }: ServedEvents) => Stream.runDrain(events.subscribe({ after: "start" }))

  it.live("fails a stream at once: a table that is not there", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const follower = yield* follow(served, { after: "start" })
      const [first] = yield* served.events.append(event("a"))
      yield* follower.until(first?.version ?? 0n)
      yield* execute([`DROP TABLE ${served.table}`])
      yield* failsWith(Fiber.join(follower.fiber), "EventStore.subscribe", "SchemaMissing", /run the migrations/)
      yield* failsWith(subscribe(served), "EventStore.subscribe", "SchemaMissing", /run the migrations/)
      yield* status(served, "stopped")
    })
  )

  it.live("fails a stream at once: a right that is taken away", () =>
    Effect.gen(function* () {
      const { schema, table } = yield* serveEvents()
      const { role, url } = yield* freshRole()
      yield* execute([`GRANT USAGE ON SCHEMA ${schema} TO ${role}`, `GRANT SELECT, INSERT ON ${table} TO ${role}`])
      const served = yield* serveEvents({ url, layer: Postgres.layerStorage, options: { schema } })
      const follower = yield* follow(served, { after: "start" })
      const [first] = yield* served.events.append(event("a"))
      yield* follower.until(first?.version ?? 0n)
      yield* execute([`REVOKE SELECT ON ${table} FROM ${role}`])
      yield* failsWith(Fiber.join(follower.fiber), "EventStore.subscribe", "Denied", /permission denied/)
      yield* failsWith(subscribe(served), "EventStore.subscribe", "Denied", /permission denied/)
    })
  )
})
