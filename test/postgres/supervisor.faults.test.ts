/** A service in a process of its own: it does not outlive its work, and it stops without leaving anything half done. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Queue, Schema } from "effect"
import { Spool, SpoolStore } from "effect-strata"
import { spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { postgresUrl } from "../support/database.ts"
import { freshSchema, serve } from "./harness.ts"

const script = fileURLToPath(new URL("supervisor.process.ts", import.meta.url))

/** Runs the service, and tells what it prints and how it ends. */
const runService = Effect.fnUntraced(function* (schema: string) {
  const lines = yield* Queue.unbounded<string>()
  const ended = yield* Deferred.make<{ readonly code: number | null; readonly log: string }>()
  const child = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(process.execPath, ["--conditions=@effect-strata/source", script, postgresUrl, schema], {
        stdio: ["ignore", "pipe", "pipe"]
      })
    ),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  let log = ""
  const take = (line: string) => {
    log += `${line}\n`
    Queue.offerUnsafe(lines, line)
  }
  createInterface(child.stdout).on("line", take)
  createInterface(child.stderr).on("line", take)
  child.once("close", (code) => Deferred.doneUnsafe(ended, Effect.succeed({ code, log })))
  const until = (wanted: string): Effect.Effect<void> =>
    Effect.flatMap(Queue.take(lines), (line) => (line === wanted ? Effect.void : until(wanted)))
  return { ended: Deferred.await(ended), stop: Effect.sync(() => child.kill("SIGTERM")), until }
})

it.live("the process ends with the cause when its projection has stopped", () =>
  Effect.gen(function* () {
    const schema = yield* freshSchema()
    const { events } = yield* serve({ options: { schema } })
    const append = (aggregateId: string) => events.append({ aggregateId, eventType: "Printed", data: null })
    const service = yield* runService(schema)
    yield* append("fine")
    yield* service.until("printed fine")
    yield* append("broken")
    const { code, log } = yield* service.ended
    assert.strictEqual(code, 1)
    assert.include(log, "the printer is broken")
  })
)

it.live("SIGTERM lets the handler that has begun end, and gives the other messages back", () =>
  Effect.gen(function* () {
    const schema = yield* freshSchema()
    const { spool } = yield* serve({ options: { schema } })
    const mails = Spool.make({ name: "mails", payload: Schema.String })
    const service = yield* runService(schema)
    yield* Effect.provideService(
      mails.enqueueAll(["one", "two", "three"].map((payload) => ({ payload }))),
      SpoolStore.SpoolStore,
      spool
    )
    yield* service.until("begun one")
    yield* service.stop
    const { log } = yield* service.ended
    assert.include(log, "sent one")
    assert.notInclude(log, "begun two")
    const counts = yield* spool.countByState("mails")
    assert.deepStrictEqual(counts, { incoming: 2, active: 0, deferred: 0, hold: 0, bounce: 0, archived: 0 })
  })
)
