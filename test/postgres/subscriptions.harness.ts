/** What the tests of subscriptions that lose their server or their network share. */
import { assert } from "@effect/vitest"
import { Effect, Stream } from "effect"
import type { EventStore } from "effect-strata"
import type * as Postgres from "effect-strata/postgres"
import { postgresUrl } from "../support/database.ts"
import { mistakes, none } from "../support/histories.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { event, type follow, serveEvents, type ServedEvents, versionsIn } from "./events.harness.ts"
import { query } from "./harness.ts"

type Status = EventStore.ListenerStatus

/** Waits until the listener has this status. */
export const status = ({ events }: Pick<ServedEvents, "events">, wanted: Status) =>
  events.listener.changes.pipe(
    Stream.filter((current) => current === wanted),
    Stream.take(1),
    Stream.runDrain
  )

/** Checks that each follower gets an event that is appended now, and has got every stored event once and in order. */
export const assertComplete = Effect.fnUntraced(function* (
  { events, table }: Pick<ServedEvents, "events" | "table">,
  followers: ReadonlyArray<Effect.Success<ReturnType<typeof follow>>>,
  server: string = postgresUrl
) {
  // An append may get a connection that was killed a moment ago, before the pool has noticed.
  const [last] = yield* Effect.retry(events.append(event("last")), {
    while: (error) => error._tag === "StoreError" && error.isRetryable
  })
  for (const { until } of followers) yield* until(last?.version ?? 0n)
  const stored = yield* versionsIn(table, "true", server)
  for (const { seen } of followers) assert.deepStrictEqual(mistakes(seen, stored), none)
  return stored
})

/** Waits until a page of the tail was read that began after now. */
export const untilTailIsRead = Effect.fnUntraced(function* (
  { applicationName }: Pick<ServedEvents, "applicationName">,
  server: string = postgresUrl
) {
  const [row] = yield* query("SELECT clock_timestamp()::text", server)
  const read = `SELECT count(*)::int FROM pg_stat_activity, pg_sleep(0.02)
    WHERE application_name = '${applicationName}' AND query LIKE '%version >= $1 %' AND query_start > '${row?.[0]}'`
  yield* Effect.repeat(query(read, server), { until: ([found]) => found?.[0] !== 0 })
})

/** A store on a server of its own, whose tables are there. */
export const onServer = Effect.fnUntraced(function* (options: Postgres.Options = {}) {
  const server = yield* PostgresServer.make()
  return { server, served: yield* serveEvents({ url: server.url, options: { ...options, schema: "public" } }) }
})
