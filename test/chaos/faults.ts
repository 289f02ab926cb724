/** What each fault does. Every one of them is over when its effect ends. */
import { Effect, Schedule, Schema, Semaphore } from "effect"
import { appendFileSync } from "node:fs"
import { join } from "node:path"
import { withConnection } from "../support/connection.ts"
import type { PostgresServer } from "../support/PostgresServer.ts"
import type { Proxy } from "../support/Proxy.ts"
import type { Process } from "./processes.ts"
import type { Fault, Kind } from "./schedule.ts"

interface World {
  readonly server: PostgresServer
  readonly proxy: Proxy
  readonly processes: ReadonlyArray<Process>
  readonly schema: string
  readonly directory: string
}

/** Inflicts a fault, and returns what it has met. */
type Inflict = (fault: Fault) => Effect.Effect<string, unknown>

const minute = 60_000

/** How far clocks are set, in minutes. */
const steps = [-24 * 60, -60, -2, 2, 60, 24 * 60]

const chosen = <A>(all: ReadonlyArray<A>, pick: number) => all[Math.floor(pick * all.length)]

export const make = Effect.fnUntraced(function* ({ directory, processes, proxy, schema, server }: World) {
  const serving = yield* Semaphore.make(1)
  const writers = processes.filter(({ name }) => name.startsWith("writer"))

  const toServer =
    (down: Effect.Effect<void>): Inflict =>
    ({ millis }) =>
      down.pipe(
        Effect.andThen(Effect.sleep(millis)),
        Effect.andThen(server.start),
        Effect.as(`down for ${millis} ms`),
        serving.withPermit
      )

  const toProcess =
    (among: ReadonlyArray<Process>, inflict: (one: Process, millis: number) => Effect.Effect<void>): Inflict =>
    ({ millis, pick }) => {
      const one = chosen(among, pick)
      return one === undefined ? Effect.succeed("nobody") : Effect.as(inflict(one, millis), `${one.name}, ${millis} ms`)
    }

  /** Steps the clock of one process, or of all of them, as on a machine whose clock is set. */
  const stepClock: Inflict = ({ extent, millis, pick }) => {
    const step = chosen(steps, extent) ?? 0
    const whom = pick < 0.3 ? processes : processes.filter((one) => one === chosen(processes, pick))
    const all = Effect.forEach(whom, (one) => one.step(step * minute, millis), { concurrency: "unbounded" })
    const who = whom.length > 1 ? "everybody" : (whom[0]?.name ?? "nobody")
    return Effect.as(all, `of ${who}, ${millis} ms, by ${step} minutes, and back, again and again`)
  }

  const Terminated = Schema.Array(Schema.Struct({ name: Schema.String }))
  const killBackend: Inflict = ({ pick }) =>
    withConnection(
      server.url,
      (sql) =>
        sql`
        WITH victims AS (
          SELECT pid, application_name, row_number() OVER (ORDER BY pid) - 1 AS place, count(*) OVER () AS count
          FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
        )
        SELECT application_name AS name, pg_terminate_backend(pid) FROM victims WHERE place = floor(${pick}::float8 * count)`
    ).pipe(
      Effect.flatMap(Schema.decodeUnknownEffect(Terminated)),
      Effect.map(([victim]) => `of ${victim?.name || "somebody"}`)
    )

  /** Connects until the server has no room for another one. */
  const fillServer: Inflict = ({ millis }) => {
    let count = 0
    const another: Effect.Effect<void, unknown> = withConnection(server.url, () =>
      Effect.suspend(() => (++count > 200 ? Effect.void : another))
    ).pipe(Effect.catch(() => Effect.sleep(millis)))
    return Effect.map(another, () => `${count} connections for ${millis} ms`)
  }

  /**
   * Ends a prepared transaction, however many attempts it takes. Nothing else ends it, so a transaction that is gone has
   * ended in this way.
   */
  const endPrepared = (name: string, end: string) =>
    withConnection(server.url, (sql) =>
      Effect.gen(function* () {
        const left = yield* sql`SELECT FROM pg_prepared_xacts WHERE gid = ${name}`
        if (left.length > 0) yield* sql.unsafe(`${end} PREPARED '${name}'`).unprepared
      })
    ).pipe(Effect.retry(Schedule.spaced("200 millis")))

  /**
   * A transaction of plain SQL that takes its time, and appends in the middle of it: its own number is lower, and the
   * versions of its events are higher, than those of others that are committed long before. A transaction in two phases
   * outlives its connection, and the server.
   */
  const foreign =
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
          withConnection(server.url, (sql) =>
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
        if (phases === 2) yield* Effect.andThen(wait, endPrepared(write, end))
        yield* written
        note({ end: end === "COMMIT" ? "acknowledged" : "rolled back" })
        return `${millis} ms, ${end}`
      })

  const network =
    (begin: Effect.Effect<void, unknown>, end: Effect.Effect<void, unknown>): Inflict =>
    ({ millis }) =>
      begin.pipe(Effect.andThen(Effect.sleep(millis)), Effect.andThen(end), Effect.as(`${millis} ms`))

  const inflict: Readonly<Record<Kind, Inflict>> = {
    "kill a backend": killBackend,
    "kill a process": toProcess(processes, (one, millis) => one.kill(millis)),
    "pause a process": toProcess(processes, (one, millis) => one.pause(millis)),
    "step a clock": stepClock,
    "stop the server fast": toServer(server.stop("fast")),
    "stop the server immediately": toServer(server.stop("immediate")),
    "kill the server": toServer(server.kill),
    "stall the network": network(proxy.stall(true), proxy.stall(false)),
    "cut the network": () => Effect.as(proxy.cut, "once"),
    // Nothing passes on these connections any more, but their ends are told at last, as by keepalives.
    "silence the network": network(proxy.blackhole, proxy.cut),
    "refuse connections": network(proxy.refuse(true), proxy.refuse(false)),
    "fill the server": fillServer,
    "fill a pool": toProcess(writers, (one) => one.tell("SIGUSR2")),
    "hold a transaction": foreign(1),
    "prepare a transaction": foreign(2)
  }

  return {
    /** Inflicts the fault, and says what has come of it. A fault can come too late to meet a process. */
    inflict: (fault: Fault) =>
      Effect.catch(inflict[fault.kind](fault), (error) => Effect.succeed(`in vain: ${String(error).split("\n")[0]}`)),
    heal: Effect.all([proxy.refuse(false), proxy.stall(false), server.start], { discard: true })
  }
})
