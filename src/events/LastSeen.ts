/**
 * Whether the log is still the one that a reader has seen.
 *
 * After a failover to a server that lagged, after a restored backup, a crash with `synchronous_commit = off` or
 * `TRUNCATE .. RESTART IDENTITY`, the log ends earlier than before and draws versions again. A reader that goes on at its
 * cursor would never get the new events below it, and has got others that exist no more. So a reader keeps the ids of the
 * events that it has seen last, and compares them with what is there now:
 *
 * - *Another event* has one of these versions: the log was replaced.
 * - *Nothing is there*, and the log ends before the cursor: the log was set back, or its last events were deleted.
 * - *Nothing is there*, and the log goes on above the cursor: the event was deleted, or the log was set back and has gone on.
 *   A sequence is logged 32 numbers ahead, so after a failover it often jumps over the versions that were lost.
 *
 * What was deleted on purpose must not end a reader. In the last two cases the server tells: a log is only set back by
 * another start of a server, or by a restart of the sequence, and `server` names both. Where they are the same as when the
 * event was seen, the event was deleted: the reader remembers that, and goes on.
 *
 * A log is not cut at one version: an event that was drawn early and committed late is lost, and a later version that was
 * committed before it is still there. So another server is asked for all that was seen lately, and not only for the last event.
 *
 * This module is plain data and functions. Where they take a time, it is the machine's, in milliseconds that never go back.
 */
import { Option } from "effect"
import { type Cursor, LogReplaced } from "../Event.ts"

/** An event that a reader has seen, or, without an id, a version below its cursor at which nothing is there. */
export interface SeenEvent {
  readonly version: bigint
  readonly id: string | undefined
}

/** Which events were seen lately: those above `after`, for as long as a window lasts, or for two. */
interface Lately {
  readonly after: bigint
  /** When the present window began, and the cursor at that time. */
  readonly since: number
  readonly from: bigint
}

/** What a reader has seen of the log. */
export interface Seen {
  /** Its cursor. */
  readonly version: bigint
  /** In order. The last ones are there one by one, and the further back the fewer. */
  readonly events: ReadonlyArray<SeenEvent>
  readonly lately: Lately
  /** Names the server on which they were seen, and its sequence, from one start to the next. Absent if nobody knows. */
  readonly server: string | undefined
}

/** What is there now. */
export interface Found {
  readonly server: string
  /** The highest version. */
  readonly end: bigint
  /** The id of the event at each version that was asked for. */
  readonly ids: ReadonlyMap<bigint, string>
}

/** How many events are remembered one by one, and how many in all. */
const keptClosely = 128
const keptAtMost = 256

/** What was committed while a standby lagged can be lost, and was seen within about such a time. */
const windowMillis = 30_000

const nothingLately = (version: bigint): Lately => ({ after: version, since: -windowMillis, from: version })

/** The windows of a reader that goes on from its cursor. */
const move = ({ lately, version }: Seen, at: number): Lately => {
  const age = at - lately.since
  if (age < windowMillis) return lately
  return { after: age < 2 * windowMillis ? lately.from : version, since: at, from: version }
}

/** What is known to a reader that begins at a cursor. */
export const of = (cursor: bigint | Cursor): Seen =>
  typeof cursor === "bigint"
    ? { version: cursor, events: [], lately: nothingLately(cursor), server: undefined }
    : {
        version: cursor.version,
        lately: nothingLately(cursor.version),
        events: cursor.id === undefined || cursor.version === 0n ? [] : [{ version: cursor.version, id: cursor.id }],
        server: undefined
      }

/** The event at the cursor: its id, or none if nothing was there. Nothing is known if the result is undefined. */
export const atCursor = ({ events, version }: Seen): SeenEvent | undefined => {
  const last = events.at(-1)
  return last?.version === version ? last : undefined
}

/** The cursor, with the id of the event at it if there is one and it is known. */
export const cursorOf = (seen: Seen): Cursor => {
  const id = atCursor(seen)?.id
  return id === undefined ? { version: seen.version } : { version: seen.version, id }
}

/** What one look has found. */
export interface Look {
  readonly server: string
  /** The id of the event at the cursor, if there is one. */
  readonly cursorId: string | undefined
  /** Whether there are events above the cursor. */
  readonly isAbove: boolean
}

/**
 * Whether one look at the cursor is enough to go on: the event is there that was seen there, and no other server can lack what
 * was seen lately below it. Where there is nothing, as it is known, the log may have been set back all the same, unless the
 * same server has events above it.
 */
export const isCertain = (seen: Seen, { cursorId, isAbove, server }: Look): boolean => {
  if (seen.version === 0n) return true
  const known = atCursor(seen)
  if (cursorId !== undefined) {
    const isAll = seen.server === undefined || seen.server === server || !seen.events.some(isLatelyBelow(seen))
    return known === undefined || (known.id === cursorId && isAll)
  }
  return known !== undefined && known.id === undefined && isAbove && seen.server === server
}

const isLatelyBelow =
  ({ lately, version }: Seen) =>
  (event: SeenEvent): boolean =>
    event.version > lately.after && event.version < version

/** Whether another event than the one that was seen, or any where nothing was, has the version now. */
const isAnother = ({ id, version }: SeenEvent, ids: Found["ids"]): boolean => {
  const found = ids.get(version)
  return found !== undefined && found !== id
}

/** What the reader remembers where one look was enough. */
export const confirm = (seen: Seen, id: string | undefined, server: string): Seen =>
  seen.version === 0n || atCursor(seen) !== undefined
    ? seen.server === server
      ? seen
      : { ...seen, server }
    : { ...seen, events: [...seen.events, { version: seen.version, id }], server }

const isThere = ({ id, version }: SeenEvent, ids: Found["ids"]): boolean => id !== undefined && ids.get(version) === id

/** Whether an event is gone, as far as the reader knew until now. */
const isMissing = (event: SeenEvent, ids: Found["ids"]): boolean => event.id !== undefined && !isThere(event, ids)

const thinned = (events: ReadonlyArray<SeenEvent>): ReadonlyArray<SeenEvent> =>
  events.length <= keptAtMost
    ? events
    : events.filter((_, index) => index % 2 === 0 || index >= events.length - keptClosely)

/** The last ones of events or rows, as far as they are remembered one by one. */
export const lastOf = <A>(items: ReadonlyArray<A>, toSeen: (item: A) => SeenEvent): ReadonlyArray<SeenEvent> =>
  items.slice(-keptClosely).map(toSeen)

/** The reader has seen these events, in order, and is at a version at or above them. */
export const add = (
  seen: Seen,
  events: ReadonlyArray<SeenEvent>,
  version: bigint,
  server: string | undefined,
  at = performance.now()
): Seen => {
  const last = seen.events.at(-1)?.version ?? -1n
  const added = events.filter((event) => event.version > last)
  return { version, events: thinned([...seen.events, ...added]), lately: move(seen, at), server }
}

/** The reader goes back to a version that it has passed. */
export const backTo = (seen: Seen, version: bigint): Seen => ({
  ...seen,
  version,
  events: seen.events.filter((event) => event.version <= version)
})

/** The reader learns which events another reader of this log has found deleted. */
export const learn = (seen: Seen, { events }: Seen): Seen => {
  const deleted = new Set(events.filter(({ id }) => id === undefined).map(({ version }) => version))
  return deleted.size === 0
    ? seen
    : {
        ...seen,
        events: seen.events.map((event) => (deleted.has(event.version) ? { ...event, id: undefined } : event))
      }
}

/** Whether two readers may have seen the same log: as far as both know, on the same server, and the same event at the cursor. */
export const mayBeSame = (one: Seen, other: Seen): boolean => {
  if (one.server !== undefined && other.server !== undefined && one.server !== other.server) return false
  const last = atCursor(one)
  const known = other.events.find(({ version }) => version === last?.version)
  return last?.id === undefined || known?.id === undefined || last.id === known.id
}

/** The versions whose events decide. */
export const versionsOf = ({ events, version }: Seen): ReadonlyArray<bigint> => [
  ...events.map((event) => event.version),
  ...(events.at(-1)?.version === version ? [] : [version])
]

/** The ids of the events that decide. */
export const idsOf = ({ events }: Seen): ReadonlyArray<string> =>
  events.flatMap(({ id }) => (id === undefined ? [] : [id]))

/** The events below a version that were not found. */
export const missingBelow = ({ events }: Seen, end: bigint, ids: Found["ids"]): ReadonlyArray<SeenEvent> =>
  events.filter((event) => event.version < end && isMissing(event, ids))

/**
 * What a reader remembers of a comparison where only the ids that were seen were looked up below a version: what else is there,
 * nobody knows.
 */
export const knownBelow = (now: Seen, end: bigint, before: Seen): Seen =>
  end === 0n
    ? now
    : {
        ...now,
        events: now.events.filter(
          ({ id, version }) =>
            id !== undefined || version >= end || before.events.some((event) => event.version === version)
        )
      }

const replaced = ({ events, version }: Seen, { end, ids }: Found): LogReplaced => {
  // Nobody can tell whether what is missing below another event was lost or deleted: what is read again does no harm.
  const first = events.find((event) => isAnother(event, ids) || isMissing(event, ids))
  const agreed = events.findLast(
    (event) => isThere(event, ids) && (first === undefined || event.version < first.version)
  )
  const last = events.at(-1) ?? { version, id: undefined }
  return new LogReplaced({
    version: last.version,
    id: Option.fromUndefinedOr(last.id),
    foundId: Option.fromUndefinedOr(ids.get(last.version)),
    latest: end,
    lastAgreed: Option.fromUndefinedOr(agreed?.version)
  })
}

/**
 * Compares what was seen with what is there now. Gives what the reader remembers from now on, unless the log was replaced.
 *
 * **Details**
 *
 * Where everything above a version is known to have been deleted, and another server draws versions from there on, the
 * reader goes back to that version: its cursor is lower then.
 */
export const compare = (seen: Seen, found: Found): Seen | LogReplaced => {
  const { events, version } = seen
  const { end, ids, server } = found
  const { lately } = seen
  if (events.some((event) => isAnother(event, ids))) return replaced(seen, found)
  const now = events.map((event) => (ids.has(event.version) ? event : { version: event.version, id: undefined }))
  const isSameServer = seen.server === server
  if (!isSameServer) {
    const last = events.findLast(({ id }) => id !== undefined)
    const isLastThere = last !== undefined && isThere(last, ids)
    if (end < version) {
      // Of a cursor alone, and of an event that is gone, nobody can tell that it was deleted.
      if (events.length === 0 || (last !== undefined && !isLastThere)) return replaced(seen, found)
      return { ...backTo({ ...seen, events: now }, last?.version ?? end), server }
    }
    // What was kept elsewhere, without the server, may have been deleted since.
    if (seen.server !== undefined && last !== undefined && !isLastThere) return replaced(seen, found)
    const isLately = isLatelyBelow(seen)
    if (seen.server !== undefined && events.some((event) => isLately(event) && isMissing(event, ids))) {
      return replaced(seen, found)
    }
  }
  const isCursorKnown = version === 0n || events.at(-1)?.version === version
  return { version, events: isCursorKnown ? now : [...now, { version, id: ids.get(version) }], lately, server }
}
