/** An append that is ready to be sent: its JSON is text, its events have ids, and its keys say what it touches. */
import { DateTime } from "effect"
import { type Append, expectedOf } from "../../Event.ts"
import { isMetadata, toStoredEvent } from "../../events/StoredEvents.ts"
import { type Condition, type StoredEvent } from "../../EventStore.ts"
import { fromText, toText } from "../../internal/ExactJson.ts"
import type { Job } from "../database/Coalescing.ts"

interface Texts {
  readonly datas: ReadonlyArray<string>
  readonly metadatas: ReadonlyArray<string>
}

export type Content = Pick<StoredEvent, "data" | "metadata">

export interface Request extends Job, Texts {
  /**
   * A `plain` append expects nothing and brings neither ids nor tags, and a `tagged` one expects nothing and brings no ids. A
   * `checked` one needs the function of the database. A `solitary` one has a condition that any event may break, so it goes
   * with no other.
   */
  readonly kind: "plain" | "tagged" | "checked" | "solitary"
  readonly append: Append
  readonly ids: ReadonlyArray<string>
  readonly tags: ReadonlyArray<TagOfEvent>
  /** Parsed when first asked for. */
  readonly content: () => ReadonlyArray<Content>
}

/** One tag of the event that has this id. */
export interface TagOfEvent {
  readonly id: string
  readonly tag: string
}

/** What the database adds to an event. */
export interface Stamp {
  readonly version: bigint
  readonly createdAt: Date
}

/** What most requests have of tags. */
const noTags: ReadonlyArray<never> = []

/**
 * The key of a tag for coalescing. Two NULs tell it from an aggregate and from an id. An item of a condition without tags has the
 * key of no tag.
 */
const keyOfTag = (tag = "") => `\0\0${tag}`

/** The key of the events with a tag that have a type. A NUL stands between the two, as neither can contain one. */
const keyOfType = (key: string, type: string) => `${key}\0${type}`

/** No metadata, as go-sync-kit stores it. In a compact log it is NULL, which takes no room. */
export const noMetadata = "null"

export const requestOf = (append: Append, ids: ReadonlyArray<string>): Request => {
  const datas: Array<string> = []
  const metadatas: Array<string> = []
  const aggregates = new Set<string>()
  // A NUL before an id tells it from an aggregate: neither can contain one.
  const given: Array<string> = []
  let size = 0
  for (const { aggregateId, data, id, metadata } of append.events) {
    const dataText = toText(data)
    const metadataText = metadata === undefined ? noMetadata : toText(metadata)
    datas.push(dataText)
    metadatas.push(metadataText)
    aggregates.add(aggregateId)
    if (id !== undefined) given.push(`\0${id}`)
    size += dataText.length + metadataText.length
  }
  const aggregateIds = [...aggregates]
  const isUnconditional = aggregateIds.every((id) => expectedOf(append, id) === "any")
  // An append to several aggregates waits until all of them are free. No other append may overtake it on those that are
  // free already, so it shares none of them.
  const isSharing = isUnconditional && aggregateIds.length === 1
  const tags = tagsOf(append, ids)
  const decided = decidedBy(append)
  const isSolitary = decided.includes(keyOfTag())
  const shared = isSharing ? aggregateIds : []
  const exclusive = isSharing ? given : [...aggregateIds, ...given]
  const isUnchecked = isUnconditional && given.length === 0 && append.condition === undefined
  let content: ReadonlyArray<Content> | undefined
  return {
    kind: isSolitary ? "solitary" : !isUnchecked ? "checked" : tags.length === 0 ? "plain" : "tagged",
    // Decisions upon the same tag go together unless one overtakes another.
    shared: isSolitary || decided.length === 0 ? shared : [...shared, ...decided],
    exclusive: isSolitary ? [...exclusive, ...decided] : exclusive,
    unordered: tags.length === 0 ? noTags : keysOf(tags).filter((key) => !decided.includes(key)),
    reads: decided.length === 0 ? noTags : readBy(append),
    writes: decided.length === 0 || tags.length === 0 ? noTags : writtenBy(append, decided),
    size,
    append,
    ids,
    tags,
    datas,
    metadatas,
    content: () => (content ??= contentOf({ datas, metadatas }))
  }
}

export const metadataOfText = (text: string): Content["metadata"] => {
  const metadata = text === noMetadata ? null : fromText(text)
  return isMetadata(metadata) ? metadata : null
}

const keysOf = (tags: ReadonlyArray<TagOfEvent>) => [...new Set(tags.map(({ tag }) => keyOfTag(tag)))]

/** The keys of the tags that the append's condition locks: the first one of each item. */
const decidedBy = ({ condition }: Append): ReadonlyArray<string> =>
  condition === undefined ? noTags : [...new Set(condition.decided.items.map(({ tags }) => keyOfTag(tags?.[0])))]

/** What the append's decision has read: all events of a tag, or those of some types. */
const readBy = ({ condition }: Append): ReadonlyArray<string> =>
  condition === undefined
    ? noTags
    : condition.decided.items.flatMap(({ eventTypes, tags }) => {
        const key = keyOfTag(tags?.[0])
        return eventTypes === undefined ? [key] : eventTypes.map((type) => keyOfType(key, type))
      })

/** What the append writes that the decision of another one has read, if that is about the same tags. */
const writtenBy = ({ events }: Append, decided: ReadonlyArray<string>): ReadonlyArray<string> =>
  events.flatMap(({ eventType, tags = [] }) =>
    tags.flatMap((tag) => {
      const key = keyOfTag(tag)
      return decided.includes(key) ? [key, keyOfType(key, eventType)] : []
    })
  )

/** With more versions above the mark than these a condition is looked at closely at once. */
const mostSeen = 64

/** An item of a condition, or one of its types: the place of its append in a call, its first tag, or an empty text, and the mark. */
export interface FirstTag {
  readonly request: number
  readonly tag: string
  /** -1 where one look at the tag above the mark does not decide. */
  readonly mark: bigint
  /** An empty text for all types. */
  readonly type: string
  /** The versions above the mark that the decision has seen, as an array of SQL. */
  readonly seen: string
}

/** The first tags of the conditions of a call, with their types. `log` is the condition that says which log it is. */
export const firstTagsOf = (
  request: number,
  { condition }: Append,
  log: Condition | undefined
): ReadonlyArray<FirstTag> => {
  if (condition === undefined) return noTags
  const { epoch, items, mark, seen, server } = condition.decided
  const isSameLog = server === log?.decided.server && epoch === log.decided.epoch
  const isDecidedByTags = isSameLog && seen.length <= mostSeen && items.every(({ tags = [] }) => tags.length > 0)
  const known = isDecidedByTags ? arrayOf(seen) : arrayOf(noTags)
  const above = isDecidedByTags ? mark : -1n
  return items.flatMap(({ eventTypes = allTypes, tags }) =>
    eventTypes.map((type) => ({ request, tag: tags?.[0] ?? "", mark: above, type, seen: known }))
  )
}

const allTypes = [""]

/** Versions as an array of SQL. */
const arrayOf = (versions: ReadonlyArray<bigint>) => `{${versions.join()}}`

/**
 * The condition of the append at a place of a call, as the functions of the database take it. Versions are texts, as numbers of
 * JSON are rounded.
 */
export const conditionAt = (request: number, { condition }: Append) => {
  if (condition === undefined) return []
  const { epoch, items, mark, markId, matches, seen, server } = condition.decided
  return [
    {
      request,
      server,
      epoch: String(epoch),
      mark: String(mark),
      markId,
      matches,
      seen: arrayOf(seen),
      // Whether an event can match that no tag leads to.
      solitary: items.some(({ tags = [] }) => tags.length === 0),
      items: items.map(({ eventTypes, tags }) => ({ types: eventTypes, tags }))
    }
  ]
}

const tagsOf = ({ events }: Append, ids: ReadonlyArray<string>): ReadonlyArray<TagOfEvent> =>
  events.every(({ tags }) => tags === undefined)
    ? noTags
    : events.flatMap(({ tags = [] }, index) => tags.map((tag) => ({ id: ids[index] ?? "", tag })))

/** The content of events, parsed from the text that is sent: the caller may change its objects without changing the events. */
const contentOf = ({ datas, metadatas }: Texts): ReadonlyArray<Content> =>
  datas.map((text, index) => ({ data: fromText(text), metadata: metadataOfText(metadatas[index] ?? noMetadata) }))

/** The events of a request as they are in the log: those for whose id there is a stamp. */
export const storedEvents = (
  { append, content, ids }: Request,
  stampOf: (id: string) => Stamp | undefined
): ReadonlyArray<StoredEvent> => {
  const stored: Array<StoredEvent> = []
  let createdAt: DateTime.Utc | undefined
  for (const [index, { data, metadata }] of content().entries()) {
    const event = append.events[index]
    const id = ids[index] ?? ""
    const stamp = stampOf(id)
    if (stamp === undefined || event === undefined) continue
    const { aggregateId, eventType } = event
    // All events of a transaction have its time, unless some of them were stored before.
    if (createdAt?.epochMilliseconds !== stamp.createdAt.getTime()) {
      createdAt = DateTime.fromDateUnsafe(stamp.createdAt)
    }
    // Nothing is checked again: the parts have been checked, some as the caller's input, the others as the row.
    stored.push(toStoredEvent({ version: stamp.version, id, aggregateId, eventType, data, metadata, createdAt }))
  }
  return stored
}
