/** What of a projection has failed: what it has parked and skipped, and how parked events are handled again. */
import { Duration, Effect, Option, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import * as Projection from "../../Projection.ts"
import * as Parameters from "../arguments/Parameters.ts"
import * as Database from "../connection/Database.ts"
import { CommandFailed } from "../terminal/CommandErrors.ts"
import * as Output from "../terminal/Output.ts"

export const name = Argument.String("name").pipe(Argument.withDescription("The name of the projection"))

/** The first line of an error, without its stack. */
export const firstLine = (error: string): string => error.split("\n", 1).join()

export const skipped = Command.make("skipped", { name }).pipe(
  Command.withDescription("Lists the events that were skipped, as their handler has failed"),
  Command.withExamples([{ command: "strata projections skipped balances", description: "Each with its error" }]),
  Command.withHandler(({ name }) =>
    Output.list(Projection.skipped(name), {
      columns: [
        { title: "VERSION", show: ({ version }) => String(version), right: true },
        { title: "SHARD", show: ({ shardNumber }) => String(shardNumber), right: true },
        { title: "AGGREGATE", show: ({ aggregateId }) => aggregateId },
        { title: "TYPE", show: ({ eventType }) => eventType },
        { title: "ERROR", show: ({ error }) => firstLine(error) }
      ],
      toJson: (failure) => ({ ...failure }),
      nothing: "nothing was skipped",
      gather: true
    })
  ),
  Command.provide(Database.layer)
)

export const parked = Command.make("parked", { name }).pipe(
  Command.withDescription("Lists the aggregates whose event failed, and whose later events wait until it is retried"),
  Command.withExamples([{ command: "strata projections parked balances", description: "Each with its error" }]),
  Command.withHandler(({ name }) =>
    Output.list(Projection.parked(name), {
      columns: [
        { title: "AGGREGATE", show: ({ aggregateId }) => aggregateId },
        { title: "VERSION", show: ({ version }) => String(version), right: true },
        { title: "TYPE", show: ({ eventType }) => eventType },
        { title: "RETRY", show: ({ retryAskedAt }) => (retryAskedAt === undefined ? "" : "asked for") },
        { title: "ERROR", show: ({ error }) => firstLine(error) }
      ],
      toJson: (failure) => ({ ...failure }),
      nothing: "nothing is parked",
      gather: true
    })
  ),
  Command.provide(Database.layer)
)

/** Why no process has retried everything in time, and what to do. */
const whyWaiting = Effect.fnUntraced(function* (name: string) {
  const states = new Set((yield* Projection.status(name)).map(({ state }) => state))
  if (states.has("paused")) {
    return `"${name}" is paused, and retries what was asked for once it goes on; run: strata projections resume ${name}`
  }
  return states.has("idle")
    ? `no process runs "${name}"; start one, which then retries what was asked for`
    : `"${name}" has not got to all of it yet; to see what comes of it, run: strata projections parked ${name}`
})

/** Fails if an aggregate was not retried, or failed again. */
const judge = Effect.fnUntraced(function* (
  name: string,
  asked: ReadonlyArray<string>,
  results: ReadonlyArray<Projection.Retried>
) {
  const found = new Set(results.map(({ aggregateId }) => aggregateId))
  const absent = asked.filter((aggregate) => !found.has(aggregate))
  if (absent.length > 0) return yield* new CommandFailed({ message: `not parked: ${absent.join(", ")}` })
  if (results.some(({ state }) => state === "waiting")) {
    return yield* new CommandFailed({ message: yield* whyWaiting(name) })
  }
  const failed = results.filter(({ state }) => state === "parked").length
  if (failed > 0) {
    return yield* new CommandFailed({
      message: `${Output.count(failed, "aggregate")} failed again: parked from there on`
    })
  }
})

const retryFlags = {
  name,
  aggregates: Argument.String("aggregate").pipe(
    Argument.variadic(),
    Argument.withDescription("The aggregates to retry; all that are parked unless given")
  ),
  timeout: Parameters.duration("timeout").pipe(
    Flag.withDefault(Duration.seconds(10)),
    Flag.withDescription("How long to wait for the results; 10s unless given")
  )
}

export const retry = Command.make("retry", retryFlags).pipe(
  Command.withDescription(
    "Asks the process that runs the projection to handle parked events again, and shows the results"
  ),
  Command.withExamples([
    { command: "strata projections retry balances", description: "All that is parked, once the handler is mended" },
    { command: "strata projections retry balances user-1 user-2", description: "Only these aggregates" }
  ]),
  Command.withHandler(({ aggregates, name, timeout }) =>
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
      yield* judge(name, aggregates, results)
    })
  ),
  Command.provide(Database.layer)
)
