/** `strata spool requeue`: one message, or all that a filter describes. */
import { Effect, Option, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import * as Orders from "../../spool/Orders.ts"
import { type SpoolMessage, SpoolStore } from "../../SpoolStore.ts"
import * as Parameters from "../arguments/Parameters.ts"
import * as Database from "../connection/Database.ts"
import { WrongUsage } from "../terminal/CommandErrors.ts"
import { confirm, yes } from "../terminal/Confirm.ts"
import * as Output from "../terminal/Output.ts"
import * as Progress from "../terminal/Progress.ts"
import { resumable } from "../terminal/Resuming.ts"

/** The message in the text of an answer. */
export const named = ({ id, queue }: { readonly id: string; readonly queue?: string }) =>
  queue === undefined ? `"${id}"` : `"${id}" of queue "${queue}"`

export const inQueue = (queue: Option.Option<string>) => (Option.isNone(queue) ? {} : { queue: queue.value })

const flags = {
  id: Argument.String("id").pipe(
    Argument.optional,
    Argument.withDescription("The id of the message; without it all messages that the flags describe")
  ),
  queue: Flag.String("queue").pipe(
    Flag.optional,
    Flag.withMetavar("NAME"),
    Flag.withDescription(
      "The queue of the message, or of the messages; without it messages in no queue, or with --state of all queues"
    )
  ),
  state: Flag.Literals("state", Orders.deliverable).pipe(
    Flag.optional,
    Flag.withDescription("All messages in this state, such as bounce, in place of one")
  ),
  error: Flag.String("error").pipe(
    Flag.optional,
    Flag.withMetavar("TEXT"),
    Flag.withDescription("Of these only messages whose last error has this text, in capitals or not")
  ),
  since: Parameters.time("created-after").pipe(
    Flag.optional,
    Flag.withDescription("Of these only messages that are younger than this, such as 2026-01-31T12:00:00Z")
  ),
  yes
}

type Flags = Command.Command.Config.Infer<typeof flags>

const one = Effect.fnUntraced(function* (id: string, queue: Flags["queue"]) {
  const message = { id, ...inQueue(queue) }
  yield* Orders.requeue(message)
  yield* Output.done(`Message ${named(message)} is incoming`, { ...message, state: "incoming" })
})

const isWanted = ({ error, since }: Pick<Flags, "error" | "since">) => {
  const hasError = Option.match(error, { onNone: () => () => true, onSome: Orders.hasError })
  const isYounger = Option.match(since, { onNone: () => () => true, onSome: Orders.isYounger })
  return (message: SpoolMessage): boolean => hasError(message) && isYounger(message)
}

const all = Effect.fnUntraced(function* (
  state: (typeof Orders.deliverable)[number],
  { error, queue, since, yes }: Flags
) {
  const { countByState } = yield* SpoolStore
  const { [state]: total } = yield* countByState(Option.getOrUndefined(queue))
  const place = Option.match(queue, { onNone: () => "all queues", onSome: (name) => `queue "${name}"` })
  const some = Option.isSome(error) || Option.isSome(since) ? "those that match of " : ""
  yield* confirm(`Deliver ${some}${Output.count(total, "message")} in ${state} of ${place} again?`, yes)
  let requeued = 0
  const work = Progress.during({ verb: "looked at", things: "messages", total }, ({ advance }) =>
    Stream.runForEach(
      Orders.requeueAll({ state, ...inQueue(queue), isWanted: isWanted({ error, since }) }),
      (isMoved) => {
        if (isMoved) requeued++
        return advance(1)
      }
    )
  )
  yield* resumable(work, () => Output.count(requeued, "message"))
  yield* Output.done(`${Output.count(requeued, "message")} of ${place} ${requeued === 1 ? "is" : "are"} incoming`, {
    requeued,
    from: state
  })
})

export const requeue = Command.make("requeue", flags).pipe(
  Command.withDescription(
    "Has a message, or all messages in a state, delivered again at once, with all of their attempts"
  ),
  Command.withExamples([
    { command: "strata spool requeue order-1 --queue mails", description: "One message" },
    {
      command: "strata spool requeue --queue mails --state bounce --error timeout --yes",
      description: "All that bounced because of a time-out"
    }
  ]),
  Command.withHandler((input) =>
    Effect.gen(function* () {
      const { error, id, queue, since, state } = input
      const isFiltered = Option.isSome(state) || Option.isSome(error) || Option.isSome(since)
      if (Option.isSome(id) && !isFiltered) return yield* one(id.value, queue)
      if (Option.isNone(id) && Option.isSome(state)) return yield* all(state.value, input)
      return yield* new WrongUsage({ message: "give the id of one message, or --state for all messages in a state" })
    })
  ),
  Command.provide(Database.layer)
)
