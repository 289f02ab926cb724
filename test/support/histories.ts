/** What histories tell: of readers, of writers, and of the leases of messages. Each check gives what is wrong. */
import { Schema } from "effect"

// Readers

/** What a reader has made of what is in the table: nothing but zeros, if it is any good. */
export const mistakes = (seen: ReadonlyArray<bigint>, stored: ReadonlyArray<bigint>) => {
  const [distinct, real] = [new Set(seen), new Set(stored)]
  return {
    lost: stored.filter((version) => !distinct.has(version)).length,
    duplicated: seen.length - distinct.size,
    outOfOrder: seen.filter((version, index) => version < (seen[index - 1] ?? 0n)).length,
    invented: [...distinct].filter((version) => !real.has(version)).length
  }
}

export const none = { lost: 0, duplicated: 0, outOfOrder: 0, invented: 0 }

// Writers

/** What a write is about to store, all or nothing, and what it is to undo by itself. */
export const Began = Schema.Struct({
  write: Schema.String,
  events: Schema.Array(Schema.String),
  undone: Schema.Array(Schema.String),
  messages: Schema.Array(Schema.String)
})

/** How it has ended. One whose process was killed has no end, which is as good as a doubt. */
export const Ended = Schema.Struct({
  write: Schema.String,
  end: Schema.Literals(["acknowledged", "rolled back", "in doubt"]),
  /** An error that no fault explains. */
  surprise: Schema.optionalKey(Schema.String)
})

export type Entry = typeof Began.Type | typeof Ended.Type

/** What is stored that should not be, and the other way round, by the ids of events and messages. */
export const misplaced = (
  history: ReadonlyArray<Entry>,
  stored: { readonly events: ReadonlyArray<string>; readonly messages: ReadonlyArray<string> }
) => {
  const ends = new Map(history.flatMap((entry) => ("end" in entry ? [[entry.write, entry]] : [])))
  const began = history.flatMap((entry) => ("end" in entry ? [] : [entry]))
  const unexplained = new Set([...stored.events, ...stored.messages])
  const repeated = stored.events.length + stored.messages.length - unexplained.size
  const there = new Set(unexplained)
  const counts = { acknowledged: 0, "rolled back": 0, "in doubt": 0 }
  const wrong: Array<string> = repeated === 0 ? [] : [`${repeated} ids are stored more than once`]
  for (const { events, messages, undone, write } of began) {
    const { end = "in doubt", surprise } = ends.get(write) ?? {}
    counts[end]++
    const ids = [...events, ...messages]
    const found = ids.filter((id) => there.has(id)).length
    if (end === "acknowledged" && found < ids.length) wrong.push(`${write} was acknowledged: ${found} of ${ids.length}`)
    if (end === "rolled back" && found > 0) wrong.push(`${write} was rolled back: ${found} of ${ids.length}`)
    if (end === "in doubt" && found % ids.length !== 0) wrong.push(`${write} is half there: ${found} of ${ids.length}`)
    const back = undone.filter((id) => there.has(id)).length
    if (back > 0) wrong.push(`${write} has undone ${back} that are there`)
    if (surprise !== undefined) wrong.push(`${write}: ${surprise}`)
    for (const id of [...ids, ...undone]) unexplained.delete(id)
  }
  for (const id of unexplained) wrong.push(`nobody has written ${id}`)
  return { counts, wrong }
}

// Leases

/** A change of a message from one state to another, or from one lease to another, by the server's clock. */
export const Transition = Schema.Struct({
  id: Schema.String,
  from: Schema.Int,
  to: Schema.Int,
  /** Whether a lease ended that had time left, as its owner and the store see it. */
  early: Schema.Boolean,
  attempts: Schema.Int,
  attemptsBefore: Schema.Int,
  /** When its statement began, and when it had happened, in milliseconds. */
  began: Schema.Number,
  at: Schema.Number
})

const [incoming, active, deferred, bounced, archived] = [0, 1, 2, 4, 5]

const ways = new Set(
  [
    [incoming, active],
    [deferred, active],
    [active, incoming],
    [active, deferred],
    [active, bounced],
    [active, archived]
  ].map(String)
)

/**
 * Leases that began or were given up while another one was alive, and changes that are none of a message's ways. They are
 * in the order in which they happened. No lease is shorter than `lease`, in milliseconds, whatever its end is said to be.
 */
export const overlaps = (transitions: ReadonlyArray<typeof Transition.Type>, lease: number) => {
  const claims = new Map<string, number>()
  const places = new Map<string, number>()
  return transitions.flatMap(({ at, attempts, attemptsBefore, began, early, from, id, to }) => {
    const [claimed = began, place = from] = [claims.get(id), places.get(id)]
    places.set(id, to)
    if (to === active) claims.set(id, began)
    if (from === active && to === active && attempts !== attemptsBefore)
      return [`${id} was claimed while it was active`]
    if (from !== place || !ways.has(String([from, to]))) return [`${id} went from ${from} to ${to} after ${place}`]
    // Its owner takes the attempt back when it releases a message; whoever recovers one does not.
    return from === active && to === incoming && attempts === attemptsBefore && (early || at - claimed < lease)
      ? [`${id} was recovered before its lease had ended`]
      : []
  })
}

// Messages

/** What shall become of a message is the end of its id. */
export type Fate = "fine" | "stubborn" | "hopeless"

/** Messages that are not where they belong, or were not handled as often as they should be. */
export const mishandled = (
  messages: ReadonlyArray<{ readonly id: string; readonly state: number }>,
  handled: ReadonlyArray<string>
) => {
  const times = new Map<string, number>()
  for (const id of handled) times.set(id, (times.get(id) ?? 0) + 1)
  return messages.flatMap(({ id, state }) => {
    const [wanted, end] = id.endsWith(":hopeless") ? [0, bounced] : [1, archived]
    const count = times.get(id) ?? 0
    return state === end && count === wanted ? [] : [`${id} is in state ${state}, and was handled ${count} times`]
  })
}
