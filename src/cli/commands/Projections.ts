/** `strata projections`: projections, how far they are, and what is done with them. */
import { Duration, Effect, Option, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { ofProjections } from "../../doctor/HealthChecks.ts"
import * as Projection from "../../Projection.ts"
import * as Parameters from "../arguments/Parameters.ts"
import * as Database from "../connection/Database.ts"
import { judgedBy, limitsOf, projectionFlags } from "../limits/Limits.ts"
import { CommandFailed } from "../terminal/CommandErrors.ts"
import { confirm, yes } from "../terminal/Confirm.ts"
import * as Output from "../terminal/Output.ts"
import * as Progress from "../terminal/Progress.ts"
import { watched, watchFlags } from "../terminal/Watch.ts"
import { processColumns, processJson, whoIs } from "./Processes.ts"
import { firstLine, name, parked, retry, skipped } from "./ProjectionFailures.ts"

/** The states of a shard, the gravest one first. */
const byGravity = ["failed", "idle", "paused", "running"] as const

/** The process that runs these shards, or how many do. */
const runBy = (shards: ReadonlyArray<Pick<Projection.ShardStatus, "process">>): string => {
  const all = new Map(shards.flatMap(({ process }) => Option.toArray(process)).map((process) => [process.id, process]))
  const [first] = all.values()
  return first === undefined ? "" : all.size === 1 ? whoIs(first) : Output.count(all.size, "process")
}

interface Summary {
  readonly projectionName: string
  readonly shards: number
  /** The gravest state of a shard. */
  readonly state: Projection.ShardStatus["state"]
  /** The version that every shard has passed. */
  readonly offset: bigint
  readonly lag: bigint
  readonly behind: Duration.Duration
  readonly parked: number
  readonly skipped: number
  readonly runBy: string
}

const summaryOf = (projectionName: string, shards: ReadonlyArray<Projection.ShardStatus>): Summary => ({
  projectionName,
  shards: shards.length,
  state: byGravity.find((state) => shards.some((shard) => shard.state === state)) ?? "idle",
  offset: shards.reduce((lowest, { offset }) => (offset < lowest ? offset : lowest), shards[0]?.offset ?? 0n),
  lag: shards.reduce((highest, { lag }) => (lag > highest ? lag : highest), 0n),
  behind: shards.reduce((longest, { behind }) => Duration.max(longest, behind), Duration.zero),
  parked: shards.reduce((sum, { parked }) => sum + parked, 0),
  skipped: shards.reduce((sum, { skipped }) => sum + skipped, 0),
  runBy: runBy(shards)
})

/** The columns that a projection and each of its shards have in common. */
const progressColumns: Output.Listing<
  Pick<Projection.ShardStatus, "behind" | "lag" | "offset" | "parked" | "skipped" | "state">
>["columns"] = [
  { title: "STATE", show: ({ state }) => state },
  { title: "OFFSET", show: ({ offset }) => String(offset), right: true },
  { title: "LAG", show: ({ lag }) => lag.toLocaleString("en-US"), right: true },
  { title: "BEHIND", show: ({ behind }) => Duration.format(behind), right: true },
  { title: "PARKED", show: ({ parked }) => String(parked), right: true },
  { title: "SKIPPED", show: ({ skipped }) => String(skipped), right: true }
]

const summaryListing: Output.Listing<Summary> = {
  columns: [
    { title: "PROJECTION", show: ({ projectionName }) => projectionName },
    { title: "SHARDS", show: ({ shards }) => String(shards), right: true },
    ...progressColumns,
    { title: "RUN BY", show: ({ runBy }) => runBy }
  ],
  toJson: ({ behind, ...summary }) => ({ ...summary, behindMillis: Duration.toMillis(behind) }),
  nothing: "no projection has run on this database yet",
  gather: true
}

const summaries = Stream.fromIterableEffect(
  Effect.map(Projection.statuses, (all) => all.map(({ projectionName, shards }) => summaryOf(projectionName, shards)))
)

const list = Command.make("list", { ...watchFlags, ...projectionFlags }).pipe(
  Command.withDescription(
    "Lists all projections: how far each is, and in which state. With a limit it fails if one is beyond its limits"
  ),
  Command.withExamples([
    { command: "strata projections list", description: "Each with its slowest shard" },
    { command: "strata projections list --max-behind 5m", description: "For a check: is one too far behind?" }
  ]),
  Command.withHandler((flags) =>
    watched(flags, Effect.andThen(Output.list(summaries, summaryListing), judgedBy(limitsOf(flags), ofProjections())))
  ),
  Command.provide(Database.layer)
)

const processListing: Output.Listing<Projection.RunningProcess> = {
  columns: processColumns,
  toJson: processJson,
  nothing: "no process runs a projection",
  gather: true
}

const processes = Command.make("processes", watchFlags).pipe(
  Command.withDescription(
    "Lists the processes that run projections: where, since when, what, and when each was last heard of"
  ),
  Command.withExamples([{ command: "strata projections processes", description: "Who runs what" }]),
  Command.withHandler((flags) =>
    watched(flags, Output.list(Stream.fromIterableEffect(Projection.processes), processListing))
  ),
  Command.provide(Database.layer)
)

const shardListing: Output.Listing<Projection.ShardStatus> = {
  columns: [
    { title: "SHARD", show: ({ shardNumber }) => String(shardNumber), right: true },
    ...progressColumns,
    { title: "RUN BY", show: (shard) => runBy([shard]) },
    {
      title: "LAST FAILURE",
      show: ({ failure }) => Option.match(failure, { onNone: () => "", onSome: ({ error }) => firstLine(error) })
    }
  ],
  toJson: ({ behind, failure, process, ...shard }) => ({
    ...shard,
    process: Option.match(process, { onNone: () => null, onSome: processJson }),
    behindMillis: Duration.toMillis(behind),
    failure: Option.getOrNull(failure)
  }),
  nothing: "no shards"
}

const status = Command.make("status", { name, ...watchFlags, ...projectionFlags }).pipe(
  Command.withDescription(
    "Shows how far each shard is, and whether a process runs it. With a limit it fails if the projection is beyond its limits"
  ),
  Command.withExamples([{ command: "strata projections status balances --watch", description: "Until Ctrl-C" }]),
  Command.withHandler(({ name, ...flags }) =>
    watched(
      flags,
      Effect.flatMap(Projection.status(name), (shards) => Output.list(Stream.fromIterable(shards), shardListing)).pipe(
        Effect.andThen(judgedBy(limitsOf(flags), ofProjections(name)))
      )
    )
  ),
  Command.provide(Database.layer)
)

const pause = Command.make("pause", { name }).pipe(
  Command.withDescription("Stops a projection in every process, until it is resumed"),
  Command.withExamples([{ command: "strata projections pause balances", description: "Handle no more events" }]),
  Command.withHandler(({ name }) =>
    Effect.andThen(Projection.pause(name), Output.done(`"${name}" is paused`, { name, paused: true }))
  ),
  Command.provide(Database.layer)
)

const resume = Command.make("resume", { name }).pipe(
  Command.withDescription("Lets a projection that was paused go on from where it was"),
  Command.withExamples([{ command: "strata projections resume balances", description: "Handle events again" }]),
  Command.withHandler(({ name }) =>
    Effect.andThen(Projection.resume(name), Output.done(`"${name}" goes on`, { name, paused: false }))
  ),
  Command.provide(Database.layer)
)

const to = Parameters.version("to").pipe(
  Flag.withDefault(0n),
  Flag.withDescription("The version after which the projection goes on; 0 unless given")
)

const reset = Command.make("reset", { name, to, yes }).pipe(
  Command.withDescription("Moves every shard to a version: events above it are handled again"),
  Command.withExamples([
    { command: "strata projections reset balances --yes", description: "From the first event on" }
  ]),
  Command.withHandler(({ name, to, yes }) =>
    Effect.gen(function* () {
      yield* confirm(`Have "${name}" handle everything after version ${to} again? Its read model is not emptied.`, yes)
      yield* Projection.reset(name, to)
      yield* Output.done(`"${name}" goes on after version ${to}`, { name, version: to })
    })
  ),
  Command.provide(Database.layer)
)

/** What is different, if the log is not the one that the projection has read. */
const differenceOf = (name: string) =>
  Projection.verify(name).pipe(
    Effect.as(undefined),
    Effect.catchTag("LogReplaced", ({ message }) => Effect.succeed(message))
  )

const accept = Command.make("accept", { name, yes }).pipe(
  Command.withDescription("Takes a log that was set back or replaced for the one that a projection has read"),
  Command.withExamples([
    { command: "strata projections accept balances", description: "Says what is different, and asks" }
  ]),
  Command.withHandler(({ name, yes }) =>
    Effect.gen(function* () {
      const difference = yield* differenceOf(name)
      if (difference === undefined) {
        return yield* Output.done(`"${name}" has read this log: there is nothing to accept`, { name, shards: [] })
      }
      yield* confirm(
        `${difference}. Have "${name}" go on above its offset? Its read model stays as it is, and events that the log has now ` +
          "below the offset are not handled.",
        yes
      )
      const shards = yield* Projection.accept(name)
      const lowest = shards.reduce((low, { after }) => (after < low ? after : low), shards[0]?.after ?? 0n)
      yield* Output.done(`"${name}" goes on after version ${lowest}`, { name, shards })
    })
  ),
  Command.provide(Database.layer)
)

const remove = Command.make("remove", { name, yes }).pipe(
  Command.withDescription(
    "Forgets a projection: its offsets, and what it has parked and skipped. Its run ends in every process"
  ),
  Command.withExamples([
    { command: "strata projections remove balances --yes", description: "It may run again with other shards" }
  ]),
  Command.withHandler(({ name, yes }) =>
    Effect.gen(function* () {
      yield* confirm(
        `Forget how far "${name}" is, and end its run in every process? Its read model is not touched.`,
        yes
      )
      yield* Projection.remove(name)
      yield* Output.done(`"${name}" is removed`, { name })
    })
  ),
  Command.provide(Database.layer)
)

const rebuildFlags = {
  name,
  yes,
  timeout: Parameters.duration("timeout").pipe(
    Flag.withDefault(Duration.seconds(10)),
    Flag.withDescription("How long to wait for a process to begin; 10s unless given")
  ),
  detach: Parameters.toggle("detach", "Do not wait until the read model is complete")
}

/** Shows how far a rebuild has come until the read model has all events that are in the log now. */
const untilRebuilt = (name: string) =>
  Effect.gen(function* () {
    const started = yield* Stream.runHead(Projection.progress(name))
    const { done: from, total } = Option.getOrElse(started, () => ({ done: 0n, total: 0n }))
    let passed = from
    yield* Progress.during({ verb: "passed", things: "versions", total: Number(total) }, ({ advance }) =>
      Stream.runForEach(Projection.progress(name), ({ done }) => {
        const step = Number(done > passed ? done - passed : 0n)
        passed = done
        return advance(step)
      })
    )
  })

const rebuild = Command.make("rebuild", rebuildFlags).pipe(
  Command.withDescription(
    "Has the processes that run a projection empty its read model, and build it anew from the first event"
  ),
  Command.withExamples([
    { command: "strata projections rebuild balances", description: "Asks, and shows how far it is" }
  ]),
  Command.withHandler(({ detach, name, timeout, yes }) =>
    Effect.gen(function* () {
      yield* confirm(`Empty the read model of "${name}", and have it built anew in the processes that run it?`, yes)
      const hasBegun = yield* Projection.askRebuild(name, timeout)
      if (!hasBegun) return yield* new CommandFailed({ message: yield* whyNotBegun(name) })
      if (detach)
        return yield* Output.done(`The read model of "${name}" is being built anew`, { name, complete: false })
      yield* untilRebuilt(name)
      yield* Output.done(`The read model of "${name}" is built anew`, { name, complete: true })
    })
  ),
  Command.provide(Database.layer)
)

/** Why no process has begun to build a read model anew in time. */
const whyNotBegun = Effect.fnUntraced(function* (name: string) {
  const states = new Set((yield* Projection.status(name)).map(({ state }) => state))
  return states.has("idle") || states.has("failed")
    ? `no process runs "${name}"; start one, which then builds the read model anew`
    : `no process has begun to build "${name}" anew; those that run it may be of a version that does not know how`
})

export const projections = Command.make("projections").pipe(
  Command.withDescription("Projections, which handle the events of the log and keep read models"),
  Command.withExamples([{ command: "strata projections status balances", description: "How far one projection is" }]),
  Command.withSubcommands([
    list,
    status,
    processes,
    pause,
    resume,
    reset,
    rebuild,
    remove,
    accept,
    parked,
    skipped,
    retry
  ])
)
