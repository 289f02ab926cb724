/** An append that is ready to be sent: its JSON is text, its events have ids, and its keys say what it touches. */
import { DateTime } from "effect"
import { type Append, expectedOf } from "../../Event.ts"
import { type StoredEvent } from "../../EventStore.ts"
import { fromText, toText } from "../../internal/ExactJson.ts"
import type { Job } from "../database/Coalescing.ts"
import { isMetadata, toStoredEvent } from "./EventRow.ts"

interface Texts {
  readonly datas: ReadonlyArray<string>
  readonly metadatas: ReadonlyArray<string>
}

export type Content = Pick<StoredEvent, "data" | "metadata">

export interface Request extends Job, Texts {
  /** A `plain` append expects nothing and brings no ids. A `checked` one needs the function of the database. */
  readonly kind: "plain" | "checked"
  readonly append: Append
  readonly ids: ReadonlyArray<string>
  /** Parsed when first asked for. */
  readonly content: () => ReadonlyArray<Content>
}

/** What the database adds to an event. */
export interface Stamp {
  readonly version: bigint
  readonly createdAt: Date
}

/** No metadata, as go-sync-kit stores it. */
const noMetadata = "null"

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
  let content: ReadonlyArray<Content> | undefined
  return {
    kind: isUnconditional && given.length === 0 ? "plain" : "checked",
    shared: isSharing ? aggregateIds : [],
    exclusive: isSharing ? given : [...aggregateIds, ...given],
    size,
    append,
    ids,
    datas,
    metadatas,
    content: () => (content ??= contentOf({ datas, metadatas }))
  }
}

export const metadataOfText = (text: string): Content["metadata"] => {
  const metadata = text === noMetadata ? null : fromText(text)
  return isMetadata(metadata) ? metadata : null
}

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
    const streamName = `stream_${aggregateId}`
    // Nothing is checked again: the parts have been checked, some as the caller's input, the others as the row.
    stored.push(
      toStoredEvent({ version: stamp.version, id, aggregateId, eventType, data, metadata, createdAt, streamName })
    )
  }
  return stored
}
