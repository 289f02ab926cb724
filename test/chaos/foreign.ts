/** What others do in the same tables, in plain SQL. */
import { Effect, Schedule } from "effect"
import { appendFileSync } from "node:fs"
import { join } from "node:path"
import { execute, withConnection } from "../support/connection.ts"
import { goSyncKitStart } from "../support/goServices.ts"
import type { Finding } from "./verdict.ts"
import type { Inflict, World } from "./world.ts"

/**
 * A transaction that takes its time, and appends in the middle of it: its own number is lower, and the
 * versions of its events are higher, than those of others that are committed long before. A transaction in two phases
 * outlives its connection, and the server.
 */
export const make = ({ cluster, directory, schema }: World) => {
  const wrong: Array<string> = []
  let started = 0
  const decided = new Map<string, string>()

  /**
   * Ends a prepared transaction, however many attempts it takes. Nothing else ends it, so a transaction that is gone has
   * ended in this way.
   */
  const endPrepared = (name: string, end: string) =>
    Effect.suspend(() =>
      withConnection(cluster.url(), (sql) =>
        Effect.gen(function* () {
          // A standby has it, and does not show it.
          yield* sql`SELECT FROM txid_current()`
          const left = yield* sql`SELECT FROM pg_prepared_xacts WHERE gid = ${name}`
          if (left.length > 0) yield* sql.unsafe(`${end} PREPARED '${name}'`).unprepared
        })
      )
    ).pipe(Effect.retry(Schedule.spaced("200 millis")))

  const take =
    (phases: 1 | 2): Inflict =>
    ({ at, extent, millis }) =>
      Effect.gen(function* () {
        const write = `foreign-${at}`
        const note = (entry: unknown) =>
          appendFileSync(join(directory, "foreign.jsonl"), `${JSON.stringify({ write, ...Object(entry) })}\n`)
        const end = extent < 0.5 ? "COMMIT" : "ROLLBACK"
        const wait = Effect.sleep(millis / 2)
        note({ events: [write], undone: [], messages: [] })
        const written = yield* Effect.exit(
          withConnection(cluster.url(), (sql) =>
            Effect.gen(function* () {
              const run = (statement: string) => sql.unsafe(statement).unprepared
              yield* run("BEGIN")
              yield* run(`INSERT INTO ${schema}.unrelated VALUES ('${write}')`)
              yield* wait
              yield* run(`INSERT INTO ${schema}.events (id, aggregate_id, event_type, data)
                VALUES ('${write}', 'foreign', 'Added', '7')`)
              if (phases === 1) yield* wait
              yield* run(phases === 1 ? end : `PREPARE TRANSACTION '${write}'`)
            })
          )
        )
        if (phases === 2) {
          yield* wait
          decided.set(write, end)
          yield* endPrepared(write, end)
        }
        yield* written
        note({ end: end === "COMMIT" ? "acknowledged" : "rolled back" })
        return `${millis} ms, ${end}`
      })

  /** Starts a service of go-sync-kit: DDL, which waits for whoever writes, and for which writers wait. */
  const startGo: Inflict = () =>
    execute(cluster.url(), goSyncKitStart(schema)).pipe(
      Effect.map(() => `${++started}. start`),
      Effect.tapError(({ reason }) =>
        Effect.sync(() => {
          if (reason._tag === "DeadlockError") wrong.push("a deadlock has ended a start")
        })
      )
    )

  return {
    startGo,
    finding: (): Finding => ({ about: "Go services", found: `${started} started`, wrong }),
    hold: take(1),
    prepare: take(2),
    /** Ends once more what had been ended: a log that is set back can have it prepared again. */
    endAgain: Effect.suspend(() => Effect.forEach(decided, ([name, end]) => endPrepared(name, end), { discard: true }))
  }
}
