/** What people order about messages, by the command or in the console: hold, release, bounce, and deliver again. */
import { DateTime, Effect, type Schema, Stream } from "effect"
import { type MessageKey, type SpoolMessage, SpoolStore, type State } from "../SpoolStore.ts"
import { Transactor } from "../Transactor.ts"

interface Move {
  readonly from: ReadonlyArray<State>
  readonly to: State
}

/** From which states an order takes a message, and to which one. */
export const moves = {
  hold: { from: ["incoming", "deferred", "active", "bounce"], to: "hold" },
  release: { from: ["hold"], to: "incoming" },
  bounce: { from: ["incoming", "deferred", "active", "hold"], to: "bounce" }
} as const satisfies Readonly<Record<string, Move>>

/** The states from which a message can be delivered again. */
export const deliverable = ["deferred", "hold", "bounce", "archived"] as const

/** How many messages are moved at a time. */
const concurrency = 16

export const move = (message: MessageKey, { from, to }: Move) =>
  SpoolStore.use(({ moveToState }) => moveToState(message, from, to))

/** Has a message delivered again at once, with all of its attempts. */
export const requeue = (message: MessageKey) =>
  SpoolStore.use(({ moveToState }) => moveToState(message, deliverable, "incoming", { attempts: 0 }))

/**
 * Gives a message another payload and has it delivered again at once, with all of its attempts, if it has not changed since it was
 * read.
 */
export const requeueWith = Effect.fnUntraced(function* (
  message: MessageKey,
  payload: Schema.Json,
  ifUpdated: SpoolMessage["updated"]
) {
  const { moveToState, updateMeta } = yield* SpoolStore
  const { withTransaction } = yield* Transactor
  yield* withTransaction(
    Effect.andThen(
      updateMeta(message, {}, { ifUpdated }),
      moveToState(message, deliverable, "incoming", { attempts: 0, payload })
    )
  )
})

interface Wanted {
  readonly state: (typeof deliverable)[number]
  /** The queue of the messages: all queues unless given. */
  readonly queue?: string
  readonly isWanted: (message: SpoolMessage) => boolean
}

/** Has all messages in a state delivered again that are wanted. Emits for each that was looked at whether it was moved. */
export const requeueAll = ({ isWanted, queue, state }: Wanted) =>
  Stream.unwrap(
    SpoolStore.useSync(({ iterate, moveToState }) =>
      iterate(state, queue === undefined ? {} : { queue }).pipe(
        Stream.mapEffect(
          (message) =>
            isWanted(message)
              ? moveToState(message, state, "incoming", { attempts: 0 }).pipe(
                  Effect.as(true),
                  // Somebody else was faster.
                  Effect.catchTags({
                    MessageNotFound: () => Effect.succeed(false),
                    StateConflict: () => Effect.succeed(false)
                  })
                )
              : Effect.succeed(false),
          { concurrency, unordered: true }
        )
      )
    )
  )

/** Whether a message was created after a time. */
export const isYounger =
  (time: DateTime.Utc) =>
  ({ created }: SpoolMessage): boolean =>
    DateTime.isGreaterThan(created, time)

/** Whether the last error of a message has a text, in capitals or not. */
export const hasError = (text: string) => {
  const part = text.toLowerCase()
  return ({ lastError }: SpoolMessage): boolean => lastError.toLowerCase().includes(part)
}
