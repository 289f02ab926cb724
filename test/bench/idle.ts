/** How many statements a process costs its server while nothing happens. The server counts them. */
import { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer, Redacted, Schema, Stream } from "effect"
import { EventStore, Projection, Spool } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import * as PostgresServer from "../support/PostgresServer.ts"
import type { Amount } from "./harness.ts"

const role = "resting"
const mostPerSecond = 2

/** How long to let the process come to rest, and for how long to count: whole minutes, as some happens once a minute. */
const secondsToRest = 40
const secondsCounted = 120
const quickSeconds = 10

/** It has begun once a second brings no more statements than that. */
const mostAtStart = 10

const Counts = Schema.NonEmptyArray(Schema.Struct({ calls: Schema.Number, seconds: Schema.Number }))

const worker = Spool.make({ name: "resting", payload: Schema.Unknown }).run(() => Effect.void)
const projection = Projection.run(Projection.make({ name: "resting", handler: () => Effect.void }))
const subscriber = EventStore.EventStore.use((events) => Stream.runDrain(events.subscribe({ after: "end" })))

const statements = (subscribers: number, quick: boolean): Amount => {
  const seconds = quick ? quickSeconds : secondsCounted
  return {
    name: `idle/statements-${subscribers}`,
    unit: "statements/s",
    otherName: "most that it may cost",
    conditions:
      `a layer, a worker, a projection, gauges, subscribers: ${subscribers.toLocaleString("en")}, ` +
      `counted for ${seconds} s${quick ? ", not at rest yet" : ""}`,
    constant: true,
    amount: Effect.gen(function* () {
      const server = yield* PostgresServer.make({ settings: { shared_preload_libraries: "pg_stat_statements" } })
      const counting = yield* Layer.build(PgClient.layer({ url: Redacted.make(server.url), maxConnections: 1 }))
      const sql = Context.get(counting, PgClient.PgClient)
      yield* sql`CREATE EXTENSION pg_stat_statements`
      yield* sql`CREATE ROLE ${sql(role)} SUPERUSER LOGIN PASSWORD 'secret'`
      const url = new URL(server.url)
      url.username = role
      url.password = "secret"
      const stores = yield* Layer.build(
        Layer.fresh(Layer.provideMerge(Postgres.layer(), PgClient.layer({ url: Redacted.make(url.href) })))
      )
      const all = [worker, projection, ...Array.from({ length: subscribers }, () => subscriber)] as const
      yield* Effect.forkScoped(Effect.provideContext(Effect.all(all, { concurrency: "unbounded" }), stores))
      const counts = sql`
        SELECT coalesce(sum(calls), 0)::float8 AS calls, extract(epoch FROM clock_timestamp())::float8 AS seconds
        FROM pg_stat_statements WHERE userid = ${role}::regrole`.pipe(
        Effect.flatMap(Schema.decodeUnknownEffect(Counts)),
        Effect.map(([found]) => found)
      )
      // Each subscriber reads the log before it waits.
      let last = Number.NEGATIVE_INFINITY
      yield* Effect.repeat(Effect.delay(counts, "1 second"), {
        until: ({ calls }) => {
          const isQuiet = calls > 0 && calls - last <= mostAtStart
          last = calls
          return isQuiet
        }
      })
      if (!quick) yield* Effect.sleep(`${secondsToRest} seconds`)
      const before = yield* counts
      yield* Effect.sleep(`${seconds} seconds`)
      const after = yield* counts
      return { strata: (after.calls - before.calls) / (after.seconds - before.seconds), other: mostPerSecond }
    })
  }
}

export const figures = (quick: boolean): ReadonlyArray<Amount> => [statements(1, quick), statements(1_000, quick)]
