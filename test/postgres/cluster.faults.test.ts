/** A projection on a cluster of runners: they are killed, join, stand still, and the network between them fails. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Proxy from "../support/Proxy.ts"
import { clustered, start, startBehindProxy, until, untilSome } from "./cluster.harness.ts"

const timeout = 600_000
const anHour = 3_600_000

describe("a projection on three runners of a cluster", () => {
  it.live(
    "adds up exactly, though runners are killed, join, and are cut off from the database",
    () =>
      Effect.gen(function* () {
        const { context, exact, server, status, untilNoted } = yield* clustered
        yield* Effect.gen(function* () {
          const proxy = yield* Proxy.make({ host: "127.0.0.1", port: server.port })
          const cutOff = yield* start({ url: proxy.url(server.url) })
          const [second, third] = [yield* start(server), yield* start(server)]
          yield* until(cutOff, second, third)

          yield* second.kill
          yield* until(cutOff, third)
          yield* untilNoted(cutOff, third)
          const fourth = yield* start(server)
          yield* until(cutOff, third, fourth)

          // It reaches the other runners, and the database no more: nothing tells it that its locks have gone.
          yield* proxy.stall(true)
          yield* until(third, fourth)
          yield* untilNoted(third, fourth)
          yield* proxy.stall(false)
          yield* until(cutOff, third, fourth)
          yield* proxy.cut
          yield* third.kill
          yield* until(cutOff, fourth)
          yield* untilNoted(cutOff, fourth)

          for (const { process, state } of yield* status) {
            assert.strictEqual(state, "running")
            assert.isTrue(process._tag === "Some" && [cutOff.name, fourth.name].includes(process.value.name))
          }
        }).pipe(Effect.provide(context))
        yield* exact
      }),
    { timeout }
  )

  it.live(
    "adds up exactly, and all of them run again, where the network fails between them, to the database, or both",
    () =>
      Effect.gen(function* () {
        const { context, exact, server, untilAllHandled } = yield* clustered
        yield* Effect.gen(function* () {
          const toDatabase = yield* Proxy.make({ host: "127.0.0.1", port: server.port })
          const cutOff = yield* startBehindProxy({ url: toDatabase.url(server.url) })
          const [second, third] = [yield* startBehindProxy(server), yield* startBehindProxy(server)]
          const all = [cutOff, second, third]
          const between = (act: (network: Proxy.Proxy) => Effect.Effect<void, Proxy.ProxyError>) =>
            Effect.forEach(all, ({ network }) => act(network), { discard: true })
          yield* until(...all)

          // No runner hears another one: none is missed, as each reaches the database, and the work goes on.
          yield* between((network) => network.stall(true))
          yield* untilAllHandled
          yield* until(...all)
          // One of them does not reach the database, either.
          yield* toDatabase.stall(true)
          yield* until(second, third)
          yield* toDatabase.stall(false)
          yield* between((network) => network.stall(false))
          yield* until(...all)

          // Connections are refused: one runner, which nobody reaches, either, is left, and does it all.
          yield* between((network) => Effect.andThen(network.refuse(true), network.cut))
          yield* untilSome(1, ...all)
          yield* untilAllHandled
          yield* between((network) => network.refuse(false))
          yield* until(...all)

          // The same, while one of them does not reach the database.
          yield* between((network) => Effect.andThen(network.refuse(true), network.cut))
          yield* Effect.andThen(toDatabase.refuse(true), toDatabase.cut)
          yield* untilSome(1, second, third)
          yield* toDatabase.refuse(false)
          yield* between((network) => network.refuse(false))
          yield* until(...all)
        }).pipe(Effect.provide(context))
        yield* exact
      }),
    { timeout }
  )

  it.live(
    "adds up exactly, though a runner stands still, and another one has its address",
    () =>
      Effect.gen(function* () {
        const { context, exact, server, untilAllHandled } = yield* clustered
        yield* Effect.gen(function* () {
          const first = yield* startBehindProxy(server)
          const [second, third] = [yield* start(server), yield* start(server)]
          yield* until(first, second, third)

          // It is not told that others have taken over, and goes on in the middle of what it did.
          yield* first.stop
          yield* until(second, third)
          yield* untilAllHandled
          yield* first.goOn
          yield* until(first, second, third)

          // By a mistake in the settings. It finds all taken, as long as the other one lives.
          const twin = yield* start({ ...server, advertised: first.network.port })
          yield* untilAllHandled
          yield* first.kill
          yield* first.network.lead(twin.port)
          yield* until(twin, second, third)
          yield* untilAllHandled
        }).pipe(Effect.provide(context))
        yield* exact
      }),
    { timeout }
  )

  it.live(
    "adds up exactly, though the server is restarted, and away for longer than a lock lasts",
    () =>
      Effect.gen(function* () {
        const { context, exact, server, untilAllHandled } = yield* clustered
        yield* Effect.gen(function* () {
          const runners = [yield* start(server), yield* start(server), yield* start(server)]
          yield* until(...runners)
          yield* server.restart("immediate")
          yield* untilAllHandled
          yield* until(...runners)
          yield* server.stop("immediate")
          yield* Effect.sleep("6 seconds")
          yield* server.start
          yield* untilAllHandled
          yield* until(...runners)
        }).pipe(Effect.provide(context))
        yield* exact
      }),
    { timeout }
  )

  it.live(
    "adds up exactly, and takes over, where the clocks and time zones of the runners differ by hours",
    () =>
      Effect.gen(function* () {
        const { context, exact, server, untilAllHandled } = yield* clustered
        yield* Effect.gen(function* () {
          const east = { timeZone: "Asia/Tokyo", clockAhead: anHour }
          const early = yield* start({ ...server, timeZone: "America/Lima", clockAhead: -anHour })
          const [late, exactly] = [yield* start({ ...server, ...east }), yield* start(server)]
          yield* until(early, late, exactly)
          yield* late.kill
          yield* until(early, exactly)
          const another = yield* start({ ...server, ...east })
          yield* until(early, exactly, another)
          yield* early.kill
          yield* until(exactly, another)
          yield* untilAllHandled
        }).pipe(Effect.provide(context))
        yield* exact
      }),
    { timeout }
  )
})
