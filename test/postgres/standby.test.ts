/** A standby to which the address of the server has moved, and which is promoted only later. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Layer, Queue, Redacted, Schema } from "effect"
import { Projection, Spool } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { connect } from "node:net"
import { transientDelays } from "../../src/internal/Transient.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { standbyOf } from "../support/Replicas.ts"
import { event, follow, serveEvents, type ServedEvents } from "./events.harness.ts"
import { execute, failsWith, query } from "./harness.ts"

/** Runs a projection for ever, and gives the ids of the events that it handles. */
const project = Effect.fnUntraced(function* ({ context, watched }: ServedEvents, name: string) {
  const handled = yield* Queue.unbounded<string>()
  const projection = Projection.make({ name, handler: ({ id }) => Queue.offer(handled, id) })
  const fiber = yield* Projection.run(projection).pipe(Effect.provide(context), watched, Effect.forkScoped)
  return { handled, fiber }
})

/** Runs a worker for ever, and gives what it is sent. */
const work = Effect.fnUntraced(function* ({ context, watched }: ServedEvents, name: string) {
  const handled = yield* Queue.unbounded<string>()
  const spool = Spool.make({ name, payload: Schema.String })
  const fiber = yield* spool
    .run((text) => Queue.offer(handled, text))
    .pipe(Effect.provide(context), watched, Effect.forkScoped)
  return { handled, fiber, send: (text: string) => Effect.provide(spool.enqueue(text), context) }
})

/** Waits until the server has refused this so often. */
const untilRefused = ({ log }: PostgresServer.PostgresServer, what: RegExp, times: number) =>
  Effect.repeat(Effect.andThen(Effect.sleep("20 millis"), log), {
    until: (lines) => lines.split("\n").filter((line) => what.test(line)).length >= times
  })

describe("a standby that is promoted late", () => {
  it.live("is waited for by subscriptions, projections and workers, with one warning, and fails all else at once", () =>
    Effect.gen(function* () {
      const primary = yield* PostgresServer.make()
      const standby = yield* standbyOf(primary)
      let { port } = primary
      const served = yield* serveEvents({
        url: primary.url,
        client: { stream: () => connect(port, "127.0.0.1") },
        options: { schema: "public" }
      })
      const { events, logged, watched } = served
      const early = {
        follower: yield* follow(served, { after: "start" }),
        projection: yield* project(served, "early"),
        worker: yield* work(served, "early")
      }
      const [before] = yield* events.append(event("a", "before"))
      yield* early.follower.until(before?.version ?? 0n)
      assert.strictEqual(yield* Queue.take(early.projection.handled), "before")
      yield* early.worker.send("before")
      assert.strictEqual(yield* Queue.take(early.worker.handled), "before")
      // A worker that has something left to settle would warn of that as well.
      yield* Effect.repeat(
        query("SELECT count(*)::int FROM public.strata_messages, pg_sleep(0.02) WHERE state < 6", primary.url),
        {
          until: ([row]) => row?.[0] === 0
        }
      )

      // The shutdown waits until the standby has everything.
      yield* primary.stop("fast")
      port = standby.port
      yield* untilRefused(standby, /ERROR: .* LISTEN/, 3)

      const late = {
        follower: yield* watched(follow(served, { after: "start" })),
        projection: yield* project(served, "late"),
        worker: yield* work(served, "late")
      }
      yield* untilRefused(standby, /ERROR: .* read-only transaction/, 8)
      yield* failsWith(events.append(event("a")), "EventStore.append", "Denied", /read-only/)
      yield* failsWith(events.load(), "EventStore.load", "Denied", /a standby/)
      const building = Layer.build(
        Layer.provide(Postgres.layer({ schema: "public" }), PgClient.layer({ url: Redacted.make(standby.url) }))
      )
      yield* failsWith(building, "Postgres.migrate", "Denied", /the server is a standby/)

      yield* execute(["SELECT pg_promote()"], standby.url)
      const [after] = yield* events.append(event("a", "after"))
      for (const { follower, projection, worker } of [early, late]) {
        yield* follower.until(after?.version ?? 0n)
        assert.deepStrictEqual(follower.seen, [before?.version, after?.version])
        while ((yield* Queue.take(projection.handled)) !== "after");
        yield* worker.send("after")
        assert.strictEqual(yield* Queue.take(worker.handled), "after")
        for (const { fiber } of [follower, projection, worker]) assert.isUndefined(fiber.pollUnsafe())
      }
      const warnings = logged.filter((message) => /standby|read-only/.test(message))
      // The projection that was there before has nothing to write meanwhile.
      for (const what of [/LISTEN/, /projection "late"/, /queue ".*" waits/]) {
        assert.lengthOf(
          warnings.filter((message) => what.test(message)),
          1,
          warnings.join("\n")
        )
      }
      assert.lengthOf(warnings, 3, warnings.join("\n"))
    })
  )
})

describe("the delays between two attempts", () => {
  it.effect("are a second at most", () =>
    Effect.gen(function* () {
      const delays = yield* Spool.preview(transientDelays, 7)
      assert.deepStrictEqual(delays.map(Duration.toMillis), [100, 200, 400, 800, 1000, 1000, 1000])
    })
  )
})
