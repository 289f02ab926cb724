/** How soon all is live again, once a server that was stopped at once under load answers. */
import { PgClient } from "@effect/sql-pg"
import { Context, Deferred, Effect, Layer, Redacted, References, Stream } from "effect"
import { EventStore } from "effect-strata"
import * as PostgresServer from "../support/PostgresServer.ts"
import { event } from "./events.ts"
import type { Latency } from "./harness.ts"
import * as SixtyLines from "./sixtyLines.ts"
import { schema, storesAt } from "./stress.ts"

const writers = 4

/** One side: its writers note when they begin an event, and its reader which of them come. */
const makeSide = () => {
  const begun = new Map<string, number>()
  let since = Number.POSITIVE_INFINITY
  let live = Deferred.makeUnsafe<number>()
  return {
    /** Writes events for ever, whether the server is there or not. */
    write: <E, R>(append: (id: string) => Effect.Effect<unknown, E, R>) => {
      const one = Effect.suspend(() => {
        const id = crypto.randomUUID()
        begun.set(id, performance.now())
        return Effect.andThen(Effect.ignore(append(id)), Effect.sleep("10 millis"))
      })
      return Effect.forEach(Array.from({ length: writers }), () => Effect.forkScoped(Effect.forever(one)), {
        discard: true
      })
    },
    tell: (id: string) => {
      if ((begun.get(id) ?? 0) >= since) Deferred.doneUnsafe(live, Effect.succeed(performance.now() - since))
    },
    /** The milliseconds from now on until an event has come that was begun after now. */
    untilLive: Effect.suspend(() => {
      live = Deferred.makeUnsafe()
      since = performance.now()
      return Deferred.await(live)
    })
  }
}

export const latencies = (quick: boolean): ReadonlyArray<Latency> => [
  {
    name: "restart/live-again",
    otherName: "reader of sixty lines, and the bare driver",
    conditions:
      `from the first answer of a server that was stopped at once and away for ${quick ? 1 : 3} s, ` +
      `${writers} writers, until an event has come that was appended since`,
    round: Effect.gen(function* () {
      const server = yield* PostgresServer.make()
      const writing = Context.get(yield* storesAt(server.url, "restart-writer"), EventStore.EventStore)
      const following = Context.get(yield* storesAt(server.url, "restart-follower"), EventStore.EventStore)
      const bare = yield* Layer.build(PgClient.layer({ url: Redacted.make(server.url), maxConnections: writers }))
      const sql = Context.get(bare, PgClient.PgClient)
      const [strata, other] = [makeSide(), makeSide()]
      yield* following.subscribe({ after: "start" }).pipe(
        Stream.runForEach(({ id }) => Effect.sync(() => strata.tell(id))),
        Effect.forkScoped
      )
      yield* Effect.forkScoped(SixtyLines.read(server.url, schema, other.tell))
      yield* strata.write((id) => writing.append({ ...event(0), id }))
      const { aggregateId, data, eventType } = event(1)
      yield* other.write(
        (id) => sql`
          INSERT INTO ${sql(schema)}.events (id, aggregate_id, event_type, data, metadata)
          VALUES (${id}, ${aggregateId}, ${eventType}, ${JSON.stringify(data)}, 'null')`
      )
      const all: { readonly strata: Array<number>; readonly other: Array<number> } = { strata: [], other: [] }
      for (let turn = 0; turn < (quick ? 1 : 3); turn++) {
        yield* Effect.sleep("1 second")
        yield* server.stop("immediate")
        yield* Effect.sleep(`${quick ? 1 : 3} seconds`)
        yield* server.start
        const [ours, theirs] = yield* Effect.all([strata.untilLive, other.untilLive], { concurrency: 2 })
        all.strata.push(ours)
        all.other.push(theirs)
      }
      return all
    }).pipe(
      // What goes wrong is meant to.
      Effect.provideService(References.MinimumLogLevel, "None")
    )
  }
]
