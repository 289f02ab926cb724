/** What each fault does. Every one of them is over when its effect ends. */
import { Effect, Schema } from "effect"
import { withConnection } from "../support/connection.ts"
import * as Batches from "./batches.ts"
import * as Foreign from "./foreign.ts"
import * as Locks from "./locks.ts"
import type { Process } from "./processes.ts"
import type { Fault, Kind } from "./schedule.ts"
import * as SetBack from "./setBack.ts"
import { chosen, type Inflict, type World } from "./world.ts"

const minute = 60_000

/** How far clocks are set, in minutes. */
const steps = [-24 * 60, -60, -2, 2, 60, 24 * 60]

/** When the server notices that connections are dead, as by its keepalives. */
const noticing = "15 seconds"

export const make = (world: World) => {
  const { cluster, processes } = world
  const { proxy } = cluster
  const writers = processes.filter(({ name }) => name.startsWith("writer"))
  const foreign = Foreign.make(world)
  const locks = Locks.make(world)
  const batches = Batches.make(world)

  const lasting =
    (during: (millis: number) => Effect.Effect<void, unknown>, what: string): Inflict =>
    ({ millis }) =>
      Effect.as(during(millis), `${what} for ${millis} ms`)

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
      cluster.url(),
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
    const url = cluster.url()
    const another: Effect.Effect<void, unknown> = withConnection(url, () =>
      Effect.suspend(() => (++count > 200 ? Effect.void : another))
    ).pipe(Effect.catch(() => Effect.sleep(millis)))
    return Effect.map(another, () => `${count} connections for ${millis} ms`)
  }

  const network = (begin: Effect.Effect<void, unknown>, end: Effect.Effect<void, unknown>): Inflict =>
    lasting((millis) => begin.pipe(Effect.andThen(Effect.sleep(millis)), Effect.andThen(end)), "so")

  /** Nobody ever tells the clients. The server notices after a while, or it would have no room left. */
  const buryConnections: Inflict = () =>
    Effect.gen(function* () {
      const count = yield* proxy.connections
      const tellServer = yield* proxy.bury
      yield* Effect.ensuring(Effect.sleep(noticing), tellServer)
      return `${count} connections, and the server has noticed after ${noticing}`
    })

  const inflict: Readonly<Record<Kind, Inflict>> = {
    "kill a backend": killBackend,
    "kill a process": toProcess(processes, (one, millis) => one.kill(millis)),
    "pause a process": toProcess(processes, (one, millis) => one.pause(Effect.sleep(millis))),
    "stop a host in a batch": batches.stop,
    "step a clock": stepClock,
    "stop the server fast": lasting((millis) => cluster.outage(({ stop }) => stop("fast"), millis), "down"),
    "stop the server immediately": lasting((millis) => cluster.outage(({ stop }) => stop("immediate"), millis), "down"),
    "kill the server": lasting((millis) => cluster.outage(({ kill }) => kill, millis), "down"),
    "promote a standby early": lasting(cluster.promoteEarly, "nobody answered"),
    "promote a standby late": lasting(cluster.promoteLate, "a standby answered"),
    "set the log back": SetBack.make(world, foreign.endAgain),
    "stall the network": network(proxy.stall(true), proxy.stall(false)),
    "cut the network": () => Effect.as(proxy.cut, "once"),
    // Nothing passes on these connections any more, but their ends are told at last, as by keepalives.
    "silence the network": network(proxy.blackhole, proxy.cut),
    "let connections die": buryConnections,
    "refuse connections": network(proxy.refuse(true), proxy.refuse(false)),
    "fill the server": fillServer,
    "fill a pool": toProcess(writers, (one) => one.tell("SIGUSR2")),
    "lock a table": locks.lock,
    "start a Go service": foreign.startGo,
    "hold a transaction": foreign.hold,
    "prepare a transaction": foreign.prepare
  }

  return {
    /** Inflicts the fault, and says what has come of it. A fault can come too late to meet a process. */
    inflict: (fault: Fault) =>
      Effect.catch(inflict[fault.kind](fault), (error) => Effect.succeed(`in vain: ${String(error).split("\n")[0]}`)),
    heal: Effect.all([proxy.refuse(false), proxy.stall(false), cluster.start], { discard: true }),
    findings: () => [locks.finding(), batches.finding(), foreign.finding()]
  }
}
