/** What can go wrong with a message of the spool, and with its lease. */
import { DateTime, Schema } from "effect"
import { keyOf, keyText, type Lease, State } from "./SpoolMessage.ts"

const errorKey = { queue: Schema.optionalKey(Schema.String), id: Schema.String }

/** The message in the text of an error. */
const named = ({ id, queue }: { readonly queue?: string; readonly id: string }) =>
  queue === undefined ? `"${id}"` : `"${id}" of queue "${queue}"`

/**
 * No message has this key.
 *
 * **Remedy**
 *
 * Look whether the key is right. A message that was delivered is deleted, unless the queue archives.
 */
export class MessageNotFound extends Schema.TaggedError<MessageNotFound>("effect-strata/SpoolStore/MessageNotFound")(
  "MessageNotFound",
  errorKey
) {
  override get message(): string {
    return this.queue === undefined
      ? `No message without a queue has the id "${this.id}"; if it is in a queue, name the queue, too`
      : `No message of queue "${this.queue}" has the id "${this.id}"`
  }
}

/**
 * The message is stored already, with the same payload, and stays as it is.
 *
 * **Remedy**
 *
 * Nothing: the message was stored before.
 */
export class MessageExists extends Schema.TaggedError<MessageExists>("effect-strata/SpoolStore/MessageExists")(
  "MessageExists",
  errorKey
) {
  override get message(): string {
    return `Message ${named(this)} is stored already`
  }
}

/**
 * The id is taken: by a message of the same queue with another payload, or, in RetrySpool's table, where ids are those of all
 * queues, by a message of another queue. Nothing was changed.
 *
 * **Remedy**
 *
 * Give another id, or do not enqueue again: what was enqueued first counts.
 */
export class IdConflict extends Schema.TaggedError<IdConflict>("effect-strata/SpoolStore/IdConflict")("IdConflict", {
  ...errorKey,
  takenBy: Schema.Literals(["another payload", "another queue"])
}) {
  override get message(): string {
    return this.takenBy === "another payload"
      ? `The id of message ${named(this)} is taken by a message with another payload`
      : `The id of message ${named(this)} is taken by a message of another queue in RetrySpool's table`
  }
}

/**
 * The message is in another state than the caller expected. Nothing was changed.
 *
 * **Remedy**
 *
 * Read the message again, and decide by the state that it has now.
 */
export class StateConflict extends Schema.TaggedError<StateConflict>("effect-strata/SpoolStore/StateConflict")(
  "StateConflict",
  { ...errorKey, expected: Schema.Array(State), actual: State }
) {
  override get message(): string {
    return `Message ${named(this)} is ${this.actual}, not ${this.expected.join(" or ")}`
  }
}

/**
 * The message has changed since the caller read it. Nothing was changed.
 *
 * **Remedy**
 *
 * Read the message again, and change what is there now.
 */
export class UpdateConflict extends Schema.TaggedError<UpdateConflict>("effect-strata/SpoolStore/UpdateConflict")(
  "UpdateConflict",
  { ...errorKey, expected: Schema.DateTimeUtc, actual: Schema.DateTimeUtc }
) {
  override get message(): string {
    const [expected, actual] = [this.expected, this.actual].map(DateTime.formatIso)
    return `Message ${named(this)} was last changed at ${actual}, not at ${expected}`
  }
}

/**
 * The lease is lost: it ran out and the message was recovered, or the message was moved or deleted. Nothing was
 * changed.
 *
 * **Remedy**
 *
 * Nothing: whoever has the message now handles it. Where it happens often, give a longer `lease`, or look for what
 * blocks the event loop.
 */
export class LeaseLost extends Schema.TaggedError<LeaseLost>("effect-strata/SpoolStore/LeaseLost")("LeaseLost", {
  ...errorKey,
  owner: Schema.String,
  attempt: Schema.Int
}) {
  override get message(): string {
    return `Message ${named(this)} is no longer held by "${this.owner}" in attempt ${this.attempt}`
  }
}

/**
 * Another transaction has locked the message: it is changing the message, or keeps others from it. Nothing was changed.
 *
 * **Remedy**
 *
 * Try again, and look for the transaction that stays open: a warning names it.
 */
export class MessageLocked extends Schema.TaggedError<MessageLocked>("effect-strata/SpoolStore/MessageLocked")(
  "MessageLocked",
  errorKey
) {
  override get message(): string {
    return `Message ${named(this)} is locked by another transaction; settle it again once that has ended`
  }
}

/** What `trySettle` could not settle. */
export interface Unsettled {
  /** Each message whose lease is lost. */
  readonly lost: ReadonlyArray<LeaseLost>
  /** Each message whose lease is held, and that another transaction has locked. */
  readonly locked: ReadonlyArray<MessageLocked>
}

/** The errors of the outcomes that are not stored: `settled` and `locked` are the texts of the others' keys. */
export const unsettledAmong = (
  outcomes: ReadonlyArray<Lease>,
  settled: ReadonlySet<string>,
  locked: ReadonlySet<string>
): Unsettled => ({
  lost: lostAmong(
    outcomes.filter((lease) => !locked.has(keyText(lease))),
    settled
  ),
  locked: outcomes.flatMap((lease) => (locked.has(keyText(lease)) ? [new MessageLocked(keyOf(lease))] : []))
})

/** Nothing is left to settle. */
export const allSettled: Unsettled = { lost: [], locked: [] }

/** The errors for the leases that are lost: the texts of their keys are not in `held`. */
export const lostAmong = (leases: ReadonlyArray<Lease>, held: ReadonlySet<string>): ReadonlyArray<LeaseLost> =>
  leases.flatMap((lease) =>
    held.has(keyText(lease)) ? [] : [new LeaseLost({ ...keyOf(lease), owner: lease.owner, attempt: lease.attempt })]
  )

/** The errors in the order in which the caller has given the leases. */
export const inOrderOf = <E extends { readonly queue?: string; readonly id: string }>(
  leases: ReadonlyArray<Lease>,
  errors: ReadonlyArray<E>
): ReadonlyArray<E> => {
  const byKey = new Map(errors.map((error) => [keyText(error), error]))
  return leases.flatMap((lease) => byKey.get(keyText(lease)) ?? [])
}
