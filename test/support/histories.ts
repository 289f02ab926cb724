/** What histories tell: of readers, of writers, and of the leases of messages. Each check gives what is wrong. */
import { Schema } from "effect"

// Readers

/** What a reader has seen, as one bit for each version, however many there are; then what is stored, each version once. */
export const makeTally = () => {
  let bits = new Uint8Array(1024)
  let last = 0n
  let [seen, duplicated, outOfOrder, lost, real] = [0, 0, 0, 0, 0]

  const placeOf = (version: bigint) => {
    const number = Number(version)
    const [place, bit] = [Math.floor(number / 8), 1 << (number % 8)]
    if (place >= bits.length) {
      const more = new Uint8Array(2 * place)
      more.set(bits)
      bits = more
    }
    return { place, bit, isSeen: ((bits[place] ?? 0) & bit) !== 0 }
  }

  return {
    see: (version: bigint) => {
      const { bit, isSeen, place } = placeOf(version)
      seen++
      if (isSeen) duplicated++
      if (version < last) outOfOrder++
      bits[place] = (bits[place] ?? 0) | bit
      last = version
    },
    store: (version: bigint) => {
      if (placeOf(version).isSeen) real++
      else lost++
    },
    /** Where the reader is, and how much it has seen. */
    last: () => last,
    seen: () => seen,
    /** Nothing but zeros, if the reader is any good. */
    mistakes: () => ({ lost, duplicated, outOfOrder, invented: seen - duplicated - real })
  }
}

/** The mistakes of a reader that has seen these versions, of those that are in the table. */
export const mistakes = (seen: ReadonlyArray<bigint>, stored: ReadonlyArray<bigint>) => {
  const tally = makeTally()
  for (const version of seen) tally.see(version)
  for (const version of stored) tally.store(version)
  return tally.mistakes()
}

/** An event at its place in the log. */
export const Placed = Schema.Struct({ version: Schema.BigIntFromString, id: Schema.String })
type Placed = typeof Placed.Type

/** A reader was told that the log was replaced, and has taken back what it had seen above a version. */
export const Told = Schema.Struct({ told: Schema.BigIntFromString })

/** A reader begins, or begins again, with nothing but the cursor that it has kept: its last event. */
export const Begun = Schema.Struct({ begun: Schema.Boolean })

/** What a reader has noted: what it has seen, page by page, what it was told, and that it has begun. */
export const Noted = Schema.Union([Told, Begun, Schema.Array(Placed)])
type Noted = typeof Noted.Type

const isBegun = (noted: Noted): noted is typeof Begun.Type => "begun" in noted
const isTold = (noted: Noted): noted is typeof Told.Type => "told" in noted

/** What a reader still goes by, after all that it was told. */
export const standing = (history: ReadonlyArray<Noted>): ReadonlyArray<Placed> => {
  let seen: Array<Placed> = []
  for (const noted of history) {
    if (isTold(noted)) seen = seen.filter(({ version }) => version <= noted.told)
    else if (!isBegun(noted)) seen.push(...noted)
  }
  return seen
}

const nameOf = ({ id, version }: Placed) => `${version} ${id}`

/**
 * What is wrong with the history of a reader, of the events that are stored now, and those that the log has lost when it was
 * set back. A reader that was told of it may go by nothing that was lost, and nobody may be told of what was not.
 *
 * **Details**
 *
 * Of a cursor that a reader has kept, only the event is known. While nobody else has its version, nobody can tell whether it
 * was lost or deleted, so what was seen until then is excused, and so are the events that have come below that version since
 * the log was set back, which the reader passes over. `keepsCursor` is a reader that begins again with each page.
 */
export const misread = (
  history: ReadonlyArray<Noted>,
  stored: ReadonlyArray<Placed>,
  setBack: ReadonlyArray<Placed>,
  { keepsCursor }: { readonly keepsCursor: boolean } = { keepsCursor: false }
): ReadonlyArray<string> => {
  const seen = standing(history)
  const [there, gone] = [new Set(stored.map(nameOf)), new Set(setBack.map(nameOf))]
  const ids = new Map(stored.map(({ id, version }) => [version, id]))
  const isUntrue = (event: Placed) => !there.has(nameOf(event))

  const excused = new Set<Placed>()
  let passedOver = 0n
  history.forEach((noted, line) => {
    const next = history[line + 1]
    if (isTold(noted) || isBegun(noted) || !noted.some(isUntrue)) return
    if (!keepsCursor && (next === undefined || !isBegun(next))) return
    const cursor = noted.at(-1)
    if (cursor !== undefined && (ids.get(cursor.version) ?? cursor.id) !== cursor.id) return
    for (const event of standing(history.slice(0, line + 1)).filter(isUntrue)) excused.add(event)
    if (cursor !== undefined && isUntrue(cursor) && cursor.version > passedOver) passedOver = cursor.version
  })

  const untrue = seen.filter(isUntrue)
  const invented = untrue.filter((event) => !gone.has(nameOf(event))).length
  const untold = untrue.filter((event) => gone.has(nameOf(event)) && !excused.has(event)).length
  const right = seen.filter((event) => !isUntrue(event)).map(({ version }) => version)
  const known = new Set(right)
  const found = mistakes(
    right,
    stored.map(({ version }) => version).filter((version) => version > passedOver || known.has(version))
  )
  const counts = { ...found, invented, "set back, and never told of": untold }
  return [
    ...Object.entries(counts).flatMap(([mistake, count]) => (count > 0 ? [`${mistake}: ${count}`] : [])),
    ...history
      .filter(isTold)
      .flatMap(({ told }) =>
        setBack.some(({ version }) => version > told)
          ? []
          : [`was told to go back to ${told}: nothing was lost above it`]
      )
  ]
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

/** How a write has ended. A write whose process was killed has no end, and counts as in doubt. */
export const Ended = Schema.Struct({
  write: Schema.String,
  end: Schema.Literals(["acknowledged", "rolled back", "in doubt"]),
  /** An error that no fault explains. */
  surprise: Schema.optionalKey(Schema.String)
})

/** A write that stores so many events, and has ended. */
export const Counted = Schema.Struct({ ...Ended.fields, events: Schema.Int })
type Counted = typeof Counted.Type

export type Entry = typeof Began.Type | typeof Ended.Type

/**
 * Finds events and messages, by their ids, that are stored and should not be, or should be stored and are not. What was set
 * back with the server may be gone, however it was written.
 */
export const misplaced = (
  history: ReadonlyArray<Entry>,
  stored: { readonly events: ReadonlyArray<string>; readonly messages: ReadonlyArray<string> },
  setBack: ReadonlySet<string> = new Set()
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
    const isGone = found === 0 && ids.every((id) => setBack.has(id))
    if (end === "acknowledged" && found < ids.length && !isGone)
      wrong.push(`${write} was acknowledged: ${found} of ${ids.length}`)
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

/** The same for writes of which only the number of their events is known: by how many events of each are stored. */
export const miscounted = (history: ReadonlyArray<Counted>, stored: ReadonlyMap<string, number>) => {
  const counts = { acknowledged: 0, "rolled back": 0, "in doubt": 0 }
  const known = new Set<string>()
  const wrong: Array<string> = []
  for (const { end, events, surprise, write } of history) {
    counts[end]++
    known.add(write)
    const found = stored.get(write) ?? 0
    const allowed = { acknowledged: [events], "rolled back": [0], "in doubt": [0, events] }[end]
    if (!allowed.includes(found)) wrong.push(`${write} is ${end}: ${found} of ${events}`)
    if (surprise !== undefined) wrong.push(`${write}: ${surprise}`)
  }
  for (const write of stored.keys()) if (!known.has(write)) wrong.push(`nobody has written ${write}`)
  return { counts, wrong }
}

// Leases

/** A change of a message from one state to another, or of its lease, by the server's clock. */
export const Transition = Schema.Struct({
  id: Schema.String,
  from: Schema.Int,
  to: Schema.Int,
  /** Whether a lease ended that had time left, as its owner and the store see it. */
  early: Schema.Boolean,
  attempts: Schema.Int,
  attemptsBefore: Schema.Int,
  /** Whether its lease is the same owner's as before. */
  kept: Schema.Boolean,
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
 * Finds leases that began or were given up while another one was alive, and changes of state that no message makes. The
 * transitions are in the order in which they happened. No lease may end sooner than `lease` milliseconds after it was given
 * or renewed, whatever its end is said to be.
 */
export const overlaps = (transitions: ReadonlyArray<typeof Transition.Type>, lease: number) => {
  const claims = new Map<string, number>()
  const places = new Map<string, number>()
  return transitions.flatMap(({ at, attempts, attemptsBefore, began, early, from, id, kept, to }) => {
    const [claimed = began, place = from] = [claims.get(id), places.get(id)]
    places.set(id, to)
    if (to === active) claims.set(id, began)
    if (from === active && to === active)
      return kept && attempts === attemptsBefore ? [] : [`${id} was claimed while it was active`]
    if (from !== place || !ways.has(String([from, to]))) return [`${id} went from ${from} to ${to} after ${place}`]
    // The owner of a lease takes the attempt back when it releases the message; a recovery does not.
    return from === active && to === incoming && attempts === attemptsBefore && (early || at - claimed < lease)
      ? [`${id} was recovered before its lease had ended`]
      : []
  })
}

// Messages

/** What shall become of a message: its id ends with it. */
export type Fate = "fine" | "stubborn" | "hopeless" | "slow"

/**
 * Messages that are not where they belong, or were not handled as often as they should be. Slow ones are handled outside of
 * transactions, so they may be handled again if their settlement was lost. `setBack` are those of which the server has lost
 * that they were handled: slow ones may have been settled after that.
 */
export const mishandled = (
  messages: ReadonlyArray<{ readonly id: string; readonly state: number }>,
  handled: ReadonlyArray<string>,
  setBack: ReadonlyArray<string> = []
) => {
  const lost = new Set(setBack)
  const times = new Map<string, number>()
  for (const id of handled) times.set(id, (times.get(id) ?? 0) + 1)
  return messages.flatMap(({ id, state }) => {
    const end = id.endsWith(":hopeless") ? bounced : archived
    const count = times.get(id) ?? 0
    const isRight = id.endsWith(":slow") ? count > 0 || lost.has(id) : count === (end === bounced ? 0 : 1)
    return state === end && isRight ? [] : [`${id} is in state ${state}, and was handled ${count} times`]
  })
}
