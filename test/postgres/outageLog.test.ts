/**
 * What is logged of a server that goes down: by each part that waits for it once in the outage, with the cause and what happens
 * next, and once that it is over. However many attempts fail in between, they are not logged.
 */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Logger, Metric, Schedule, Schema, Stream } from "effect"
import { EventStore, Projection, Spool } from "effect-strata"
import * as PostgresServer from "../support/PostgresServer.ts"
import { serveSpool } from "./spool.harness.ts"

/** What each part says of an outage, and of its end. */
const parts = [
  ["new events and messages are not heard of", "new events and messages are heard of again"],
  ['projection "sums" waits for the database', 'projection "sums" goes on'],
  ['queue "mails" waits for the database', 'queue "mails" goes on']
] as const

const mails = Spool.make({ name: "mails", payload: Schema.String })

/** How often operations of a store have failed because the database could not be used. */
const failuresOf = (store: string) =>
  Effect.map(Metric.snapshot, (all) => {
    let failures = 0
    for (const metric of all) {
      const { attributes = {}, id } = metric
      const counts = id === "strata_operations" && attributes["store"] === store && attributes["outcome"] !== "ok"
      if (counts && metric.type === "Counter") failures += Number(metric.state.count)
    }
    return failures
  })

const until = <A, E, R>(look: Effect.Effect<A, E, R>, isSo: (found: A) => boolean) =>
  Effect.repeat(look, { schedule: Schedule.spaced("20 millis"), until: isSo })

it.live("an outage is logged once by each part that waits, with its cause, and so is its end", () =>
  Effect.gen(function* () {
    const logged: Array<string> = []
    const logger = Logger.make(({ logLevel, message }) => {
      if (logLevel !== "Debug") logged.push(String(message))
    })
    const quietly = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, Logger.layer([logger]))
    const saying = (text: string) => logged.filter((line) => line.startsWith(text))
    const server = yield* PostgresServer.make()

    yield* quietly(
      Effect.gen(function* () {
        const { context } = yield* serveSpool({ url: server.url, options: { schema: "public" } })
        yield* Effect.gen(function* () {
          const events = yield* EventStore.EventStore
          const handled: Array<string> = []
          let mayEnd = yield* Deferred.make<void>()
          let waiting = 0
          /** An event and a message are being handled when the server goes down. */
          const handle = (name: string) =>
            Effect.suspend(() => {
              if (name !== "held") return Effect.sync(() => void handled.push(name))
              waiting++
              return Effect.asVoid(Deferred.await(mayEnd))
            })
          const sums = Projection.make({ name: "sums", handler: ({ aggregateId }) => handle(aggregateId) })
          yield* Effect.forkScoped(Projection.run(sums))
          yield* Effect.forkScoped(mails.run(handle))
          yield* Effect.forkScoped(Stream.runDrain(events.subscribe({ after: "end" })))

          for (const [outage, down] of [server.stop("fast"), server.kill].entries()) {
            waiting = 0
            mayEnd = yield* Deferred.make<void>()
            yield* events.append({ aggregateId: "held", eventType: "Happened", data: {} })
            yield* mails.enqueue("held")
            yield* until(
              Effect.sync(() => waiting),
              (count) => count >= 2
            )
            yield* down
            yield* Deferred.succeed(mayEnd, undefined)
            for (const [waits] of parts)
              yield* until(
                Effect.sync(() => saying(waits).length),
                (count) => count > outage
              )
            // Attempt after attempt fails, of which nothing is said.
            for (const store of ["SpoolStore", "OffsetStore"]) {
              const before = yield* failuresOf(store)
              yield* until(failuresOf(store), (count) => count >= before + 4)
            }
            yield* server.start
            const name = `after outage ${outage}`
            yield* until(
              Effect.exit(events.append({ aggregateId: name, eventType: "Happened", data: {} })),
              ({ _tag }) => _tag === "Success"
            )
            yield* mails.enqueue(name)
            yield* until(
              Effect.sync(() => handled.filter((one) => one === name).length),
              (count) => count >= 2
            )
            for (const [waits, over] of parts) {
              yield* until(
                Effect.sync(() => saying(over).length),
                (count) => count > outage
              )
              assert.deepStrictEqual(
                [saying(waits).length, saying(over).length],
                [outage + 1, outage + 1],
                logged.join("\n")
              )
              assert.match(saying(waits)[outage] ?? "", /: [^:]*(connection|ECONN|terminat|shut).*; \w+ing again/)
              assert.match(saying(over)[outage] ?? "", /, after (\d+\w+ ?)+$/)
            }
          }
        }).pipe(Effect.scoped, Effect.provideContext(context))
      })
    )
  }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()))
)
