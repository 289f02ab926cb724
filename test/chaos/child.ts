/** What the processes that `main.ts` runs have in common: their arguments, their stores, their history, and their end. */
import { PgClient } from "@effect/sql-pg"
import { Deferred, Effect, Layer, Redacted, Schema } from "effect"
import { Spool } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { appendFileSync } from "node:fs"
import { flushCompileCache } from "node:module"
import { join } from "node:path"

const [, , ownUrl = "", ownSchema = "", ownName = "", ownDirectory = ""] = process.argv
export const url = ownUrl
export const name = ownName
export const schema = ownSchema
export const directory = ownDirectory

// Killed processes write no cache at their end, and the next one shall start quickly.
flushCompileCache()

/** Adds a line to a history. It is written when this returns: a process that is killed then has said it. */
export const note = (history: string, entry: unknown) =>
  appendFileSync(join(directory, `${history}.jsonl`), `${JSON.stringify(entry)}\n`)

// Archived messages keep their ids, so that a message that is enqueued again is still handled once.
export const jobs = Spool.make({
  name: "jobs",
  payload: Schema.Literals(["fine", "stubborn", "hopeless"]),
  maxAttempts: 1000,
  onSuccess: "archive",
  policies: { default: Spool.fixed("300 millis") }
})

/** Handlers of these take longer than a lease lasts, outside of a transaction: only renewals keep their messages. */
export const errands = Spool.make({
  name: "errands",
  payload: Schema.Literal("slow"),
  maxAttempts: 1000,
  onSuccess: "archive",
  policies: { default: Spool.fixed("300 millis") }
})

/** Says that something has been done: a process that is alive says so again after each fault. */
export const worked = () => process.stdout.write("1\n")

const told = Deferred.makeUnsafe<void>()
process.once("SIGTERM", () => Deferred.doneUnsafe(told, Effect.void))

// The process does not outlive its parent.
process.once("disconnect", () => process.exit(1))

/** Done when this process is to end. */
export const stop = Deferred.await(told)
export const isStopping = () => Deferred.isDoneUnsafe(told)

/** Runs until it ends, with the stores on a pool of this size. */
export const main = (
  program: Effect.Effect<unknown, unknown, Postgres.Stores | PgClient.PgClient>,
  connections: number
) => {
  const Database = PgClient.layer({
    url: Redacted.make(url),
    applicationName: process.env["PGAPPNAME"] ?? name,
    maxConnections: connections,
    connectTimeout: "3 seconds"
  })
  Effect.sync(() => console.log("ready"))
    .pipe(
      Effect.andThen(program),
      Effect.provide(Layer.provideMerge(Postgres.layerStorage({ schema }), Database)),
      Effect.runPromise
    )
    .then(
      () => process.exit(0),
      (error) => {
        console.error(error)
        process.exit(1)
      }
    )
}
