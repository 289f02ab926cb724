/** `strata spool`: messages that wait to be delivered. */
import { DateTime, Duration, Effect, Option, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { ofQueues } from "../../doctor/HealthChecks.ts"
import { withDigits } from "../../internal/ExactJson.ts"
import * as Policies from "../../Spool.ts"
import * as Orders from "../../spool/Orders.ts"
import { type SpoolMessage, SpoolStore, State } from "../../SpoolStore.ts"
import * as Parameters from "../arguments/Parameters.ts"
import * as Database from "../connection/Database.ts"
import { judgedBy, limitsOf, queueFlags } from "../limits/Limits.ts"
import { confirm, yes } from "../terminal/Confirm.ts"
import * as Output from "../terminal/Output.ts"
import { inQueue, named, requeue } from "./Requeue.ts"

const toJson = ({ created, nextRetry, payload, updated, ...message }: SpoolMessage) => ({
  ...message,
  ...(payload === undefined ? {} : { payload: withDigits(payload) }),
  created: DateTime.formatIso(created),
  updated: DateTime.formatIso(updated),
  nextRetry: DateTime.formatIso(nextRetry)
})

const listing: Output.Listing<SpoolMessage> = {
  columns: [
    { title: "ID", show: ({ id }) => id },
    { title: "QUEUE", show: ({ queue }) => queue ?? "" },
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

const id = Argument.String("id").pipe(Argument.withDescription("The id of the message"))

const queue = Flag.String("queue").pipe(
  Flag.optional,
  Flag.withMetavar("NAME"),
  Flag.withDescription("Only the messages of this queue")
)

const queueOfMessage = Flag.String("queue").pipe(
  Flag.optional,
  Flag.withMetavar("NAME"),
  Flag.withDescription("The queue of the message; without it a message of RetrySpool's, which is in none")
)

/** A message that a subcommand names. */
const key = { id, queue: queueOfMessage }

const stats = Command.make("stats", { queue, ...queueFlags }).pipe(
  Command.withDescription("Counts the messages in each state. With a limit it fails if a queue is beyond its limits"),
  Command.withExamples([
    { command: "strata spool stats --queue mail", description: "Those of one queue" },
    { command: "strata spool stats --max-bounced 0", description: "For a check: could a message not be delivered?" }
  ]),
  Command.withHandler(({ queue, ...limits }) =>
    Effect.flatMap(
      SpoolStore.use(({ countByState }) => countByState(Option.getOrUndefined(queue))),
      Output.record
    ).pipe(Effect.andThen(judgedBy(limitsOf(limits), ofQueues(Option.getOrUndefined(queue)))))
  ),
  Command.provide(Database.layer)
)

const state = Argument.Literals("state", State.literals).pipe(
  Argument.withDescription("The state of the messages to list")
)

const list = Command.make("list", { state, queue }).pipe(
  Command.withDescription("Lists the messages in a state, the oldest first"),
  Command.withExamples([{ command: "strata spool list bounce", description: "What could not be delivered" }]),
  Command.withHandler(({ queue, state }) =>
    SpoolStore.use(({ iterate }) => Output.list(iterate(state, inQueue(queue)), listing))
  ),
  Command.provide(Database.layer)
)

const show = Command.make("show", key).pipe(
  Command.withDescription("Shows one message, with its payload"),
  Command.withExamples([
    { command: "strata spool show order-1 --queue mails", description: "Everything about one message" }
  ]),
  Command.withHandler(({ id, queue }) =>
    Effect.flatMap(
      SpoolStore.use(({ getMeta }) => getMeta({ id, ...inQueue(queue) })),
      (message) => Output.record(toJson(message))
    )
  ),
  Command.provide(Database.layer)
)

/** A subcommand that moves one message to another state. */
const move = (name: keyof typeof Orders.moves, description: string) =>
  Command.make(name, key).pipe(
    Command.withDescription(description),
    Command.withExamples([{ command: `strata spool ${name} order-1 --queue mails`, description }]),
    Command.withHandler(({ id, queue }) =>
      Effect.gen(function* () {
        const message = { id, ...inQueue(queue) }
        const order = Orders.moves[name]
        yield* Orders.move(message, order)
        yield* Output.done(`Message ${named(message)} is ${order.to}`, { ...message, state: order.to })
      })
    ),
    Command.provide(Database.layer)
  )

const hold = move("hold", "Keeps a message from being delivered until it is released")
const release = move("release", "Lets a message that is on hold be delivered")
const bounce = move("bounce", "Gives up a message")

const remove = Command.make("delete", { ...key, yes }).pipe(
  Command.withDescription("Deletes a message, whatever its state"),
  Command.withExamples([
    { command: "strata spool delete order-1 --queue mails --yes", description: "Without a question" }
  ]),
  Command.withHandler(({ id, queue, yes }) =>
    Effect.gen(function* () {
      const message = { id, ...inQueue(queue) }
      yield* confirm(`Delete the message ${named(message)}?`, yes)
      yield* SpoolStore.use(({ deleteMeta }) => deleteMeta(message))
      yield* Output.done(`Message ${named(message)} is deleted`, message)
    })
  ),
  Command.provide(Database.layer)
)

/** How many messages one statement recovers. */
const recoverPageSize = 1000

const recovered = (queue: Option.Option<string>) =>
  Stream.unwrap(
    SpoolStore.useSync((spool) =>
      Stream.paginate(undefined, () =>
        Effect.map(spool.recover({ ...inQueue(queue), limit: recoverPageSize }), (messages) => [
          messages,
          messages.length < recoverPageSize ? Option.none() : Option.some(undefined)
        ])
      )
    )
  )

const recover = Command.make("recover", { queue }).pipe(
  Command.withDescription("Takes back the messages whose lease has run out, and lists them"),
  Command.withExamples([{ command: "strata spool recover", description: "After workers have died" }]),
  Command.withHandler(({ queue }) => Output.list(recovered(queue), { ...listing, nothing: "no lease has run out" })),
  Command.provide(Database.layer)
)

const previewFlags = {
  policy: Argument.Literals("policy", ["backoff", "fixed"]).pipe(
    Argument.withDescription("backoff doubles the delay each time; fixed keeps it")
  ),
  base: Parameters.duration("base").pipe(
    Flag.withDefault(Duration.minutes(15)),
    Flag.withDescription("The first delay; 15m unless given")
  ),
  cap: Parameters.duration("cap").pipe(
    Flag.withDefault(Duration.hours(24)),
    Flag.withDescription("The longest delay of backoff; 24h unless given")
  ),
  attempts: Parameters.positive("attempts").pipe(
    Flag.withDefault(10),
    Flag.withDescription("How many attempts to show; 10 unless given")
  )
}

const preview = Command.make("preview", previewFlags).pipe(
  Command.withDescription("Shows when a message would be tried again, without jitter. Needs no database"),
  Command.withExamples([{ command: "strata spool preview backoff --base 1m --cap 6h", description: "Ten attempts" }]),
  Command.withHandler(({ attempts, base, cap, policy }) =>
    Effect.gen(function* () {
      const schedule = policy === "backoff" ? Policies.backoff({ base, cap }) : Policies.fixed(base)
      const delays = yield* Policies.preview(schedule, attempts)
      let sinceFirst = Duration.zero
      const steps = delays.map((delay, index) => {
        sinceFirst = Duration.sum(sinceFirst, delay)
        return { attempt: index + 1, delay: Duration.format(delay), after: Duration.format(sinceFirst) }
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
  )
)

export const spool = Command.make("spool").pipe(
  Command.withDescription("Messages that wait to be delivered"),
  Command.withExamples([{ command: "strata spool stats", description: "How many messages are in each state" }]),
  Command.withSubcommands([stats, list, show, hold, release, requeue, bounce, remove, recover, preview])
)
