/** Tables that are locked, as DDL locks them, so that everybody waits who uses them. */
import { Effect, Schedule, Schema } from "effect"
import { withConnection } from "../support/connection.ts"
import { messages } from "./agreed.ts"
import { asker, type Finding } from "./verdict.ts"
import { chosen, type Inflict, type World } from "./world.ts"

const Count = Schema.Struct({ count: Schema.Int })

/** A server may be full for a while. */
const again = Effect.retry({ schedule: Schedule.spaced("200 millis"), times: 25 })

/** How many connections these applications have, of those that the condition is true of. */
export const connections = (url: string, applications: ReadonlyArray<string>, condition = "true") =>
  asker(url)(
    Count,
    `SELECT count(*)::int FROM pg_stat_activity
     WHERE application_name IN (${applications.map((name) => `'${name}'`).join()}) AND ${condition}`
  ).pipe(
    again,
    Effect.map(([row]) => row?.count ?? 0)
  )

/** How many of these connections, of which the clients' ends are gone, still wait for a lock: none, before long. */
export const leftWaiting = (
  url: string,
  applications: () => ReadonlyArray<string>,
  abandoned: Effect.Effect<ReadonlyArray<number>>
) =>
  Effect.flatMap(abandoned, (ports) =>
    connections(url, applications(), `wait_event_type = 'Lock' AND client_port IN (${[0, ...ports].join()})`)
  ).pipe(
    // The statement of a client that has just gone may be about to be cancelled.
    Effect.repeat({
      until: (count) => count === 0,
      schedule: Schedule.spaced("200 millis"),
      times: 25
    })
  )

export const make = ({ cluster, processes, schema }: World) => {
  const wrong: Array<string> = []
  let locked = 0
  const applications = () => processes.map(({ application }) => application())

  const lock: Inflict = ({ extent, millis }) =>
    Effect.gen(function* () {
      const table = chosen(["events", "states_store", messages, "offsets_store"], extent)
      const url = cluster.url()
      const before = yield* connections(url, applications())
      const [during, left] = yield* withConnection(url, (sql) =>
        Effect.gen(function* () {
          yield* sql`BEGIN`.unprepared
          yield* sql.unsafe(`LOCK TABLE ${schema}.${table} IN ACCESS EXCLUSIVE MODE`).unprepared
          yield* Effect.sleep(3 * millis)
          const during = yield* connections(url, applications())
          return [during, yield* leftWaiting(url, applications, cluster.proxy.abandoned)] as const
        })
      )
      locked++
      if (left > 0) wrong.push(`${left} connections whose clients had gone waited for ${table}`)
      const after = yield* connections(url, applications())
      return `${table}, ${3 * millis} ms; connections: ${before} before, ${during} at its end, ${after} after`
    }).pipe(cluster.undisturbed)

  return {
    lock,
    finding: (): Finding => ({
      about: "locked tables",
      found: `${locked} locked, ${wrong.length} with leftovers`,
      wrong
    })
  }
}
