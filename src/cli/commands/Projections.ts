/** `strata projections`: read models, and how far they are. */
import { Duration, Effect, Option, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import * as Projection from "../../Projection.ts"
import * as Parameters from "../arguments/Parameters.ts"
import * as Database from "../Database.ts"
import { confirm, yes } from "../terminal/Confirm.ts"
import { Failed } from "../terminal/Failure.ts"
import * as Output from "../terminal/Output.ts"
import { watched, watchFlags } from "../terminal/Watch.ts"

/** Of an error with its stack, what fits on a line. */
const firstLine = (error: string): string => error.split("\n", 1).join()

/** The graver comes first. */
const gravity = ["failed", "idle", "paused", "running"] as const

interface Summary {
  readonly projectionName: string
  readonly shards: number
  /** The gravest of its shards'. */
  readonly state: Projection.ShardStatus["state"]
  /** What every shard has passed. */
  readonly offset: bigint
  readonly lag: bigint
  readonly behind: Duration.Duration
  readonly parked: number
  readonly skipped: number
}

const summaryOf = (projectionName: string, shards: ReadonlyArray<Projection.ShardStatus>): Summary => ({
  projectionName,
  shards: shards.length,
  state: gravity.find((state) => shards.some((shard) => shard.state === state)) ?? "idle",
  offset: shards.reduce((lowest, { offset }) => (offset < lowest ? offset : lowest), shards[0]?.offset ?? 0n),
  lag: shards.reduce((highest, { lag }) => (lag > highest ? lag : highest), 0n),
  behind: shards.reduce((longest, { behind }) => Duration.max(longest, behind), Duration.zero),
  parked: shards.reduce((sum, { parked }) => sum + parked, 0),
  skipped: shards.reduce((sum, { skipped }) => sum + skipped, 0)
})

/** What a projection and each of its shards have in common. */
const progress: Output.Listing<
  Pick<Projection.ShardStatus, "behind" | "lag" | "offset" | "parked" | "skipped" | "state">
>["columns"] = [
  { title: "STATE", show: ({ state }) => state },
  { title: "OFFSET", show: ({ offset }) => String(offset), right: true },
  { title: "LAG", show: ({ lag }) => lag.toLocaleString("en-US"), right: true },
  { title: "BEHIND", show: ({ behind }) => Duration.format(behind), right: true },
  { title: "PARKED", show: ({ parked }) => String(parked), right: true },
  { title: "SKIPPED", show: ({ skipped }) => String(skipped), right: true }
]

const all: Output.Listing<Summary> = {
  columns: [
    { title: "PROJECTION", show: ({ projectionName }) => projectionName },
    { title: "SHARDS", show: ({ shards }) => String(shards), right: true },
    ...progress
  ],
  toJson: ({ behind, ...summary }) => ({ ...summary, behindMillis: Duration.toMillis(behind) }),
  nothing: "no projection has run on this database yet"
}

const list = Command.make("list", watchFlags, (input) =>
  watched(
    input,
    Output.list(
      Projection.names.pipe(
        Stream.mapEffect((name) =>
          Projection.status(name).pipe(
            Effect.map((shards) => [summaryOf(name, shards)]),
            // One that has just been removed.
            Effect.catchTag("UnknownProjection", () => Effect.succeed([]))
          )
        ),
        Stream.flattenIterable
      ),
      all
    )
  ).pipe(Effect.provide(Database.layer))
).pipe(
  Command.withDescription("Lists all projections: how far each is, and how it is"),
  Command.withExamples([{ command: "strata projections list", description: "Each with its slowest shard" }])
)

const name = Argument.String("name").pipe(Argument.withDescription("The projection's name"))

const shards: Output.Listing<Projection.ShardStatus> = {
  columns: [
    { title: "SHARD", show: ({ shardNumber }) => String(shardNumber), right: true },
    ...progress,
    {
      title: "LAST FAILURE",
      show: ({ failure }) => Option.match(failure, { onNone: () => "", onSome: ({ error }) => firstLine(error) })
    }
  ],
  toJson: ({ behind, failure, ...shard }) => ({
    ...shard,
    behindMillis: Duration.toMillis(behind),
    failure: Option.getOrNull(failure)
  }),
  nothing: "no shards"
}

const status = Command.make("status", { name, ...watchFlags }, ({ name, ...input }) =>
  watched(
    input,
    Effect.flatMap(Projection.status(name), (found) => Output.list(Stream.fromIterable(found), shards))
  ).pipe(Effect.provide(Database.layer))
).pipe(
  Command.withDescription("Shows how far each shard is, and whether anybody runs it"),
  Command.withExamples([{ command: "strata projections status balances --watch", description: "Until Ctrl-C" }])
)

const pause = Command.make("pause", { name }, ({ name }) =>
  Effect.andThen(Projection.pause(name), Output.done(`"${name}" is paused`, { name, paused: true })).pipe(
    Effect.provide(Database.layer)
  )
).pipe(
  Command.withDescription("Stops the handling of events, in every process"),
  Command.withExamples([{ command: "strata projections pause balances", description: "Until it is resumed" }])
)

const resume = Command.make("resume", { name }, ({ name }) =>
  Effect.andThen(Projection.resume(name), Output.done(`"${name}" goes on`, { name, paused: false })).pipe(
    Effect.provide(Database.layer)
  )
).pipe(
  Command.withDescription("Lets a projection go on that was paused"),
  Command.withExamples([{ command: "strata projections resume balances", description: "From where it was" }])
)

const to = Parameters.version("to").pipe(
  Flag.withDefault(0n),
  Flag.withDescription("The version after which it goes on; 0 unless given")
)

const reset = Command.make("reset", { name, to, yes }, ({ name, to, yes }) =>
  Effect.gen(function* () {
    yield* confirm(`Have "${name}" handle everything after version ${to} again? Its read model is not emptied.`, yes)
    yield* Projection.reset(name, to)
    yield* Output.done(`"${name}" goes on after version ${to}`, { name, version: to })
  }).pipe(Effect.provide(Database.layer))
).pipe(
  Command.withDescription("Moves every shard to a version: what comes after it is handled again"),
  Command.withExamples([{ command: "strata projections reset balances --yes", description: "From the first event on" }])
)

const parked = Command.make("parked", { name }, ({ name }) =>
  Output.list(Projection.parked(name), {
    columns: [
      { title: "AGGREGATE", show: ({ aggregateId }) => aggregateId },
      { title: "VERSION", show: ({ version }) => String(version), right: true },
      { title: "TYPE", show: ({ eventType }) => eventType },
      { title: "RETRY", show: ({ retryAskedAt }) => (retryAskedAt === undefined ? "" : "asked for") },
      { title: "ERROR", show: ({ error }) => firstLine(error) }
    ],
    toJson: (failure) => ({ ...failure }),
    nothing: "nothing is parked"
  }).pipe(Effect.provide(Database.layer))
).pipe(
  Command.withDescription("Lists the aggregates whose events wait after a failure, until they are retried"),
  Command.withExamples([{ command: "strata projections parked balances", description: "Each with what failed" }])
)

const aggregates = Argument.String("aggregate").pipe(
  Argument.variadic(),
  Argument.withDescription("The parked aggregates; all unless given")
)

const timeout = Parameters.duration("timeout").pipe(
  Flag.withDefault(10_000),
  Flag.withDescription("How long to wait for what comes of it; 10s unless given")
)

/** Why nobody has got to it, and what to do. */
const whyWaiting = Effect.fnUntraced(function* (name: string) {
  const states = new Set((yield* Projection.status(name)).map(({ state }) => state))
  if (states.has("paused")) {
    return `"${name}" is paused, and retries what was asked for once it goes on; run: strata projections resume ${name}`
  }
  return states.has("idle")
    ? `no process runs "${name}"; start one, which then retries what was asked for`
    : `"${name}" has not got to all of it yet; what comes of it: strata projections parked ${name}`
})

const retry = Command.make("retry", { name, aggregates, timeout }, ({ aggregates, name, timeout }) =>
  Effect.gen(function* () {
    const results = yield* Projection.retryParked(name, timeout, aggregates.length === 0 ? undefined : aggregates)
    yield* Output.list(Stream.fromIterable(results), {
      columns: [
        { title: "AGGREGATE", show: ({ aggregateId }) => aggregateId },
        { title: "STATE", show: ({ state }) => state },
        { title: "ERROR", show: ({ error }) => Option.match(error, { onNone: () => "", onSome: firstLine }) }
      ],
      toJson: ({ error, ...result }) => ({ ...result, error: Option.getOrNull(error) }),
      nothing: "nothing is parked"
    })
    const found = new Set(results.map(({ aggregateId }) => aggregateId))
    const absent = aggregates.filter((aggregate) => !found.has(aggregate))
    if (absent.length > 0) return yield* new Failed({ message: `not parked: ${absent.join(", ")}` })
    if (results.some(({ state }) => state === "waiting")) {
      return yield* new Failed({ message: yield* whyWaiting(name) })
    }
    const failed = results.filter(({ state }) => state === "parked").length
    if (failed > 0) {
      return yield* new Failed({ message: `${Output.count(failed, "aggregate")} failed again: parked from there on` })
    }
  }).pipe(Effect.provide(Database.layer))
).pipe(
  Command.withDescription("Has whoever runs it handle parked events again, and shows what has come of that"),
  Command.withExamples([
    { command: "strata projections retry balances", description: "All that is parked, once the handler is mended" },
    { command: "strata projections retry balances user-1 user-2", description: "Only these aggregates" }
  ])
)

export const projections = Command.make("projections").pipe(
  Command.withSubcommands([list, status, pause, resume, reset, parked, retry]),
  Command.withDescription("Read models that follow the log"),
  Command.withExamples([{ command: "strata projections status balances", description: "How far one is" }])
)
