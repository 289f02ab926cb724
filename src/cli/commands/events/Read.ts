/** `strata events read`, `tail` and `show`: the log, what is added to it, and one event. */
import { Effect, Option } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { EventStore } from "../../../EventStore.ts"
import * as Parameters from "../../arguments/Parameters.ts"
import * as Database from "../../Database.ts"
import * as Output from "../../terminal/Output.ts"
import { filterFlags, filterOf, listing, toJson } from "./EventView.ts"

const readFlags = {
  ...filterFlags,
  after: Parameters.version("after").pipe(Flag.withDefault(0n), Flag.withDescription("Only versions above this one")),
  limit: Parameters.positive("limit").pipe(Flag.optional, Flag.withDescription("At most so many events")),
  backward: Flag.Boolean("backward").pipe(
    Flag.withDefault(false),
    Flag.withoutNegation,
    Flag.withDescription("From the last event on")
  )
}

export const read = Command.make("read", readFlags, ({ after, backward, limit, ...filters }) =>
  EventStore.use((events) =>
    Output.list(
      events.read({
        ...filterOf(filters),
        after,
        direction: backward ? "backward" : "forward",
        ...(Option.isNone(limit) ? {} : { limit: limit.value })
      }),
      listing
    )
  ).pipe(Effect.provide(Database.layer))
).pipe(
  Command.withDescription("Lists events, in order. Where a transaction may still append, it stops before that place"),
  Command.withExamples([
    { command: "strata events read --aggregate user-123", description: "The history of one aggregate" },
    { command: "strata events read --backward --limit 10", description: "The last ten events" },
    { command: `strata events read --data '{"country":"NZ"}' --json`, description: "By content, for a program" }
  ])
)

const tailFlags = {
  ...filterFlags,
  after: Parameters.version("after", ["start", "end"]).pipe(
    Flag.withDefault<"end">("end"),
    Flag.withDescription("Begin after this version, with the first event, or with the next one to come")
  )
}

export const tail = Command.make("tail", tailFlags, ({ after, ...filters }) =>
  EventStore.use((events) => Output.list(events.subscribe({ ...filterOf(filters), after }), listing)).pipe(
    Effect.provide(Database.layer)
  )
).pipe(
  Command.withDescription("Follows the log: events as they are appended, each exactly once, until Ctrl-C"),
  Command.withExamples([
    { command: "strata events tail --type UserCreated", description: "Events of one type, from now on" },
    { command: "strata events tail --after 41 --json", description: "All after version 41, then what comes" }
  ])
)

const id = Argument.String("id").pipe(Argument.withDescription("The event's id"))

export const show = Command.make("show", { id }, ({ id }) =>
  Effect.gen(function* () {
    const event = yield* EventStore.use(({ get }) => get(id))
    yield* Output.record(toJson(event))
  }).pipe(Effect.provide(Database.layer))
).pipe(
  Command.withDescription("Shows one event, by its id"),
  Command.withExamples([
    { command: "strata events show 019abf5e-7c1d-7000-8000-3f1b2c4d5e6f", description: "All there is of it" }
  ])
)
