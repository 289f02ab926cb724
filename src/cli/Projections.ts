/** `strata projections`: read models, and how far they are. */
import { Duration, Effect, Option, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import * as Projection from "../Projection.ts"
import { confirm, yes } from "./Confirm.ts"
import * as Database from "./Database.ts"
import * as Output from "./Output.ts"
import * as Parameters from "./Parameters.ts"
import { watched, watchFlags } from "./Watch.ts"

const name = Argument.String("name").pipe(Argument.withDescription("The projection's name"))

const shards: Output.Listing<Projection.ShardStatus> = {
  columns: [
    { title: "SHARD", show: ({ shardNumber }) => String(shardNumber), right: true },
    { title: "STATE", show: ({ state }) => state },
    { title: "OFFSET", show: ({ offset }) => String(offset), right: true },
    { title: "LAG", show: ({ lag }) => lag.toLocaleString("en-US"), right: true },
    { title: "BEHIND", show: ({ behind }) => Duration.format(behind), right: true },
    { title: "PARKED", show: ({ parked }) => String(parked), right: true },
    { title: "SKIPPED", show: ({ skipped }) => String(skipped), right: true },
    {
      title: "LAST FAILURE",
      show: ({ failure }) => Option.match(failure, { onNone: () => "", onSome: ({ error }) => error })
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
      { title: "ERROR", show: ({ error }) => error }
    ],
    toJson: (failure) => ({ ...failure }),
    nothing: "nothing is parked"
  }).pipe(Effect.provide(Database.layer))
).pipe(
  Command.withDescription(
    "Lists the aggregates whose events wait after a failure; Projection.retryParked retries them"
  ),
  Command.withExamples([{ command: "strata projections parked balances", description: "Each with what failed" }])
)

export const projections = Command.make("projections").pipe(
  Command.withSubcommands([status, pause, resume, reset, parked]),
  Command.withDescription("Read models that follow the log"),
  Command.withExamples([{ command: "strata projections status balances", description: "How far one is" }])
)
