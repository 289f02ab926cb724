/** `strata spool`: messages that wait to be delivered. */
import { DateTime, Duration, Effect, Option, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import * as Policies from "../../Spool.ts"
import { type SpoolMessage, SpoolStore, type State } from "../../SpoolStore.ts"
import * as Parameters from "../arguments/Parameters.ts"
import * as Database from "../Database.ts"
import { confirm, yes } from "../terminal/Confirm.ts"
import * as Output from "../terminal/Output.ts"

const states = ["incoming", "active", "deferred", "hold", "bounce", "archived"] as const

const toJson = ({ created, nextRetry, updated, ...message }: SpoolMessage) => ({
  ...message,
  created: DateTime.formatIso(created),
  updated: DateTime.formatIso(updated),
  nextRetry: DateTime.formatIso(nextRetry)
})

const listing: Output.Listing<SpoolMessage> = {
  columns: [
    { title: "ID", show: ({ id }) => id },
    { title: "STATE", show: ({ state }) => state },
    { title: "ATTEMPTS", show: ({ attempts, maxAttempts }) => `${attempts}/${maxAttempts}`, right: true },
    { title: "CREATED", show: ({ created }) => DateTime.formatIso(created) },
    {
      title: "NEXT RETRY",
      show: ({ nextRetry, state }) => (state === "deferred" ? DateTime.formatIso(nextRetry) : "")
    },
    { title: "LAST ERROR", show: ({ lastError }) => lastError }
  ],
  toJson,
  nothing: "no messages"
}

const queue = Flag.String("queue").pipe(
  Flag.optional,
  Flag.withMetavar("NAME"),
  Flag.withDescription("Only of this queue")
)

const inQueue = (queue: Option.Option<string>) => (Option.isNone(queue) ? {} : { queue: queue.value })

const id = Argument.String("id").pipe(Argument.withDescription("The message's id"))

const stats = Command.make("stats", { queue }, ({ queue }) =>
  Effect.gen(function* () {
    const counts = yield* SpoolStore.use(({ countByState }) => countByState(Option.getOrUndefined(queue)))
    yield* Output.record(counts)
  }).pipe(Effect.provide(Database.layer))
).pipe(
  Command.withDescription("Counts the messages in each state"),
  Command.withExamples([{ command: "strata spool stats --queue mail", description: "Those of one queue" }])
)

const state = Argument.Literals("state", states).pipe(Argument.withDescription("The state they are in"))

const list = Command.make("list", { state, queue }, ({ queue, state }) =>
  SpoolStore.use(({ iterate }) => Output.list(iterate(state, inQueue(queue)), listing)).pipe(
    Effect.provide(Database.layer)
  )
).pipe(
  Command.withDescription("Lists the messages in a state, from the oldest on"),
  Command.withExamples([{ command: "strata spool list bounce", description: "What could not be delivered" }])
)

const show = Command.make("show", { id }, ({ id }) =>
  Effect.gen(function* () {
    yield* Output.record(toJson(yield* SpoolStore.use(({ getMeta }) => getMeta(id))))
  }).pipe(Effect.provide(Database.layer))
).pipe(
  Command.withDescription("Shows one message, with its payload"),
  Command.withExamples([{ command: "strata spool show mail-42", description: "All there is of it" }])
)

interface Move {
  readonly from: ReadonlyArray<State>
  readonly to: State
  readonly description: string
  /** Whether it begins its attempts anew. */
  readonly anew?: boolean
}

/** A subcommand that moves one message to another state. */
const move = <const Name extends string>(name: Name, { anew = false, description, from, to }: Move) =>
  Command.make(name, { id }, ({ id }) =>
    Effect.gen(function* () {
      yield* SpoolStore.use(({ moveToState }) => moveToState(id, from, to, anew ? { attempts: 0 } : {}))
      yield* Output.done(`Message "${id}" is ${to}`, { id, state: to })
    }).pipe(Effect.provide(Database.layer))
  ).pipe(
    Command.withDescription(description),
    Command.withExamples([{ command: `strata spool ${name} mail-42`, description }])
  )

const hold = move("hold", {
  from: ["incoming", "deferred", "active", "bounce"],
  to: "hold",
  description: "Keeps a message from being delivered until it is released"
})

const release = move("release", { from: ["hold"], to: "incoming", description: "Lets a message go on that is on hold" })

const requeue = move("requeue", {
  from: ["deferred", "hold", "bounce", "archived"],
  to: "incoming",
  anew: true,
  description: "Has a message delivered again at once, with all of its attempts"
})

const bounce = move("bounce", {
  from: ["incoming", "deferred", "active", "hold"],
  to: "bounce",
  description: "Gives up a message"
})

const remove = Command.make("delete", { id, yes }, ({ id, yes }) =>
  Effect.gen(function* () {
    yield* confirm(`Delete the message "${id}"?`, yes)
    yield* SpoolStore.use(({ deleteMeta }) => deleteMeta(id))
    yield* Output.done(`Message "${id}" is deleted`, { id })
  }).pipe(Effect.provide(Database.layer))
).pipe(
  Command.withDescription("Deletes a message, whatever its state"),
  Command.withExamples([{ command: "strata spool delete mail-42 --yes", description: "Without a question" }])
)

const recover = Command.make("recover", { queue }, ({ queue }) =>
  SpoolStore.use((spool) =>
    Output.list(
      Stream.paginate(undefined, () =>
        Effect.map(spool.recover({ ...inQueue(queue), limit: 1000 }), (messages) => [
          messages,
          messages.length < 1000 ? Option.none() : Option.some(undefined)
        ])
      ),
      { ...listing, nothing: "no lease has run out" }
    )
  ).pipe(Effect.provide(Database.layer))
).pipe(
  Command.withDescription("Gives up the claims whose lease has run out, and lists those messages"),
  Command.withExamples([{ command: "strata spool recover", description: "After workers have died" }])
)

const previewFlags = {
  policy: Argument.Literals("policy", ["backoff", "fixed"]).pipe(
    Argument.withDescription("Twice the delay each time, or always the same")
  ),
  base: Parameters.duration("base").pipe(
    Flag.withDefault(15 * 60_000),
    Flag.withDescription("The first delay; 15m unless given")
  ),
  cap: Parameters.duration("cap").pipe(
    Flag.withDefault(24 * 3_600_000),
    Flag.withDescription("The longest delay of backoff; 24h unless given")
  ),
  attempts: Parameters.positive("attempts").pipe(Flag.withDefault(10), Flag.withDescription("So many; 10 unless given"))
}

const preview = Command.make("preview", previewFlags, ({ attempts, base, cap, policy }) =>
  Effect.gen(function* () {
    const schedule = policy === "backoff" ? Policies.backoff({ base, cap }) : Policies.fixed(base)
    const delays = yield* Policies.preview(schedule, attempts)
    let after = 0
    const steps = delays.map((delay, index) => {
      after += Duration.toMillis(delay)
      return { attempt: index + 1, delay: Duration.format(delay), after: Duration.format(Duration.millis(after)) }
    })
    yield* Output.list(Stream.fromIterable(steps), {
      columns: [
        { title: "ATTEMPT", show: ({ attempt }) => String(attempt), right: true },
        { title: "DELAY", show: ({ delay }) => delay },
        { title: "SINCE THE FIRST", show: ({ after }) => after }
      ],
      toJson: (step) => step,
      nothing: "no delays"
    })
  })
).pipe(
  Command.withDescription("Shows when a message would be tried again, without jitter. Needs no database"),
  Command.withExamples([{ command: "strata spool preview backoff --base 1m --cap 6h", description: "Ten attempts" }])
)

export const spool = Command.make("spool").pipe(
  Command.withSubcommands([stats, list, show, hold, release, requeue, bounce, remove, recover, preview]),
  Command.withDescription("Messages that wait to be delivered"),
  Command.withExamples([{ command: "strata spool stats", description: "How many there are in each state" }])
)
