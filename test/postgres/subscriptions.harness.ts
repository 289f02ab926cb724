/** What the tests of subscriptions that lose their server or their network share. */
import { assert } from "@effect/vitest"
import { Effect, Stream } from "effect"
import type { EventStore } from "effect-strata"
import type * as Postgres from "effect-strata/postgres"
import { postgresUrl } from "../support/database.ts"
import { mistakes, none } from "../support/histories.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { event, type follow, serveEvents, type ServedEvents, versionsIn } from "./events.harness.ts"

type Status = EventStore.ListenerStatus

/** Waits until the listener has this status. */
export const status = ({ events }: Pick<ServedEvents, "events">, wanted: Status) =>
  events.listener.changes.pipe(
    Stream.filter((current) => current === wanted),
    Stream.take(1),
    Stream.runDrain
  )

/** What was written has come, all of it, once and in order; and so does what is written now. */
export const assertComplete = Effect.fnUntraced(function* (
  { events, table }: Pick<ServedEvents, "events" | "table">,
  followers: ReadonlyArray<Effect.Success<ReturnType<typeof follow>>>,
  server: string = postgresUrl
) {
  // The first one may get a connection of which nobody knows yet that it has just been killed.
  const [last] = yield* Effect.retry(events.append(event("last")), {
    while: (error) => error._tag === "StoreError" && error.isRetryable
  })
  for (const { until } of followers) yield* until(last?.version ?? 0n)
  const stored = yield* versionsIn(table, "true", server)
  for (const { seen } of followers) assert.deepStrictEqual(mistakes(seen, stored), none)
  return stored
})

/** A store on a server of its own, whose tables are there. */
export const onServer = Effect.fnUntraced(function* (options: Postgres.Options = {}) {
  const server = yield* PostgresServer.make()
  return { server, served: yield* serveEvents({ url: server.url, options: { ...options, schema: "public" } }) }
})
