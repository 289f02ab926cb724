/** Processes of every kind on a server of their own, a seeded schedule of faults, and a verdict from the histories. */
import { Clock, Duration, Effect, Schedule } from "effect"
import * as Cluster from "./cluster.ts"
import * as Faults from "./faults.ts"
import * as Processes from "./processes.ts"
import type { Report } from "./report.ts"
import { type Fault, last, schedule } from "./schedule.ts"
import { migrate } from "./tables.ts"
import { type Finding, findings, isBusy, leftovers, sessionsOf } from "./verdict.ts"

const schema = "chaos"
const projection = "sums"

/** How long events and messages may take to arrive after the last fault, on a machine that is very busy. */
const patience = "3 minutes"

const seconds = (millis: number) => (millis / 1000).toFixed(1)

const startProcesses = (url: string, directory: string, look: (application: string) => Effect.Effect<string>) => {
  const own = (role: string, name: string) => ({
    name,
    script: new URL(`${role}.ts`, import.meta.url),
    arguments: [url, schema, name, directory],
    directory,
    look
  })
  const projector = (name: string) => ({
    name,
    script: new URL("../postgres/projection.process.ts", import.meta.url),
    arguments: [url, schema, projection],
    directory,
    look
  })
  return Effect.forEach(
    [
      own("writer", "writer-1"),
      own("writer", "writer-2"),
      own("follower", "follower"),
      projector("projection-1"),
      projector("projection-2"),
      own("worker", "worker-1"),
      own("worker", "worker-2")
    ],
    Processes.supervise
  )
}

/** Waits for all of them, and says who was the last, and after how long. */
const awaiting =
  (say: Report["say"]) =>
  (whom: ReadonlyArray<Processes.Process>, what: (one: Processes.Process) => Effect.Effect<void>, how: string) =>
    Effect.gen(function* () {
      let last = ""
      const waitFor = (one: Processes.Process) =>
        Effect.andThen(
          what(one),
          Effect.sync(() => void (last = one.name))
        )
      const [time] = yield* Effect.timed(Effect.forEach(whom, waitFor, { concurrency: "unbounded" }))
      yield* say(`the last one ${how}: ${last}, after ${seconds(Duration.toMillis(time))} s`)
    })

/** Says who has done nothing for the longest time. */
const sayRest = (say: Report["say"], processes: ReadonlyArray<Processes.Process>) => {
  const rests = processes.map(({ longestRest, name }) => ({ name, ...longestRest() }))
  const [longest] = rests.toSorted((one, other) => other.millis - one.millis)
  return longest === undefined
    ? Effect.void
    : say(`the longest rest: ${longest.name}, for ${seconds(longest.millis)} s until ${seconds(longest.until)}`)
}

export const run = Effect.fnUntraced(function* (
  { conclude, directory, say }: Report,
  { minutes, seed }: { readonly minutes: number; readonly seed: number }
) {
  yield* say(`npm run chaos -- --minutes ${minutes} --seed ${seed}; histories and logs in ${directory}`)
  const cluster = yield* Cluster.make
  yield* migrate(cluster.url(), schema)
  const processes = yield* startProcesses(cluster.proxy.url(cluster.url()), directory, (application) =>
    sessionsOf(cluster.url(), application)
  )
  yield* Effect.all(processes.map(({ ready }) => ready)).pipe(Effect.timeout(patience))
  yield* say(
    `PostgreSQL ${cluster.version}, ${processes.length} processes: ${processes.map(({ name }) => name).join(", ")}`
  )

  const allOf = awaiting(say)
  const faulty = Faults.make({ cluster, processes, schema, projection, directory })
  const start = yield* Clock.currentTimeMillis
  const faults = yield* schedule(seed, minutes * 60_000)
  const meet = Effect.fnUntraced(function* (fault: Fault) {
    yield* Effect.sleep(start + fault.at - (yield* Clock.currentTimeMillis))
    yield* say(fault.kind)
    yield* say(`  ${fault.kind}: ${yield* faulty.inflict(fault)}`)
  })
  yield* Effect.forEach(faults, meet, { concurrency: "unbounded", discard: true })
  yield* faulty.heal
  yield* meet(last(minutes * 60_000))
  yield* say(`${faults.length + 1} faults are over`)
  yield* allOf(processes, ({ works }) => works, "back at work")

  const isWriter = ({ name }: Processes.Process) => name.startsWith("writer")
  const writers = processes.filter(isWriter)
  yield* allOf(writers, ({ end }) => end, "at its end")
  const run = {
    url: cluster.url(),
    schema,
    directory,
    projection,
    writers: [...writers.map(({ name }) => name), "foreign"]
  }
  yield* isBusy(run).pipe(
    Effect.repeat({ while: (busy) => busy, schedule: Schedule.spaced("500 millis") }),
    Effect.timeoutOrElse({ duration: patience, orElse: () => say(`something is still on its way after ${patience}`) })
  )
  yield* allOf(
    processes.filter((one) => !isWriter(one)),
    ({ end }) => end,
    "at its end"
  )

  yield* sayRest(say, processes)
  const starts = processes.reduce((sum, one) => sum + one.starts(), 0)
  const left = yield* leftovers(cluster.url())
  const all: ReadonlyArray<Finding> = [
    ...(yield* findings(run)),
    ...faulty.findings(),
    {
      about: "processes",
      found: `${processes.length} at work after ${starts} starts`,
      wrong: processes.flatMap(({ mistakes }) => mistakes)
    },
    { about: "server", found: `${left.length} left connected, locked or prepared`, wrong: left }
  ]
  yield* conclude(all, "Nothing was lost, repeated, reordered or half done.")
})
