/** `strata events read`, `tail` and `show`: the log, what is appended to it, and one event. */
import { Effect, Option } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { EventStore } from "../../../EventStore.ts"
import * as Parameters from "../../arguments/Parameters.ts"
import * as Database from "../../connection/Database.ts"
import { whileRead } from "../../terminal/ClosedPipe.ts"
import * as Output from "../../terminal/Output.ts"
import { filterFlags, filterOf, listing, toJson } from "./EventView.ts"

const readFlags = {
  ...filterFlags,
  after: Parameters.version("after").pipe(Flag.withDefault(0n), Flag.withDescription("Only versions above this one")),
  limit: Parameters.positive("limit").pipe(Flag.optional, Flag.withDescription("At most this many events")),
  backward: Parameters.toggle("backward", "Begin with the last event")
}

export const read = Command.make("read", readFlags).pipe(
  Command.withDescription(
    "Lists events in the order of their versions. Stops below a version that a transaction may still append"
  ),
  Command.withExamples([
    { command: "strata events read --aggregate user-123", description: "The history of one aggregate" },
    { command: "strata events read --backward --limit 10", description: "The last ten events" },
    { command: `strata events read --data '{"country":"NZ"}' --json`, description: "By content, for a program" }
  ]),
  Command.withHandler(({ after, backward, limit, ...filters }) =>
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
    ).pipe(whileRead)
  ),
  Command.provide(Database.layer)
)

const tailFlags = {
  ...filterFlags,
  after: Parameters.version("after", ["start", "end"]).pipe(
    Flag.withDefault<"end">("end"),
    Flag.withDescription("Begin after this version, with the first event, or with the next event to be appended")
  )
}

export const tail = Command.make("tail", tailFlags).pipe(
  Command.withDescription("Follows the log: shows each event once, as it is appended, until Ctrl-C"),
  Command.withExamples([
    { command: "strata events tail --type UserCreated", description: "Events of one type, from now on" },
    { command: "strata events tail --after 41 --json", description: "All after version 41, then what is appended" }
  ]),
  Command.withHandler(({ after, ...filters }) =>
    EventStore.use((events) => Output.list(events.subscribe({ ...filterOf(filters), after }), listing)).pipe(whileRead)
  ),
  Command.provide(Database.layer)
)

const id = Argument.String("id").pipe(Argument.withDescription("The id of the event"))

export const show = Command.make("show", { id }).pipe(
  Command.withDescription("Shows one event, by its id"),
  Command.withExamples([
    { command: "strata events show 019abf5e-7c1d-7000-8000-3f1b2c4d5e6f", description: "Everything about one event" }
  ]),
  Command.withHandler(({ id }) =>
    Effect.flatMap(
      EventStore.use(({ get }) => get(id)),
      (event) => Output.record(toJson(event))
    )
  ),
  Command.provide(Database.layer)
)
