/**
 * Who waits for new events, found by what an event has: its aggregate, its type or its tags. So an event wakes the readers that
 * it may concern, and where each of 10,000 readers waits for an aggregate of its own, it wakes one of them.
 *
 * This module is plain data and functions. The readers decide themselves whether an event that they are told of is for them.
 */
import type { Filter } from "../Event.ts"

/** By what a reader is found: every event that its filter describes has one of these. */
export interface Interest {
  readonly aggregateIds: ReadonlyArray<string>
  readonly eventTypes: ReadonlyArray<string>
  readonly tags: ReadonlyArray<string>
  /** Whether the reader has to be told of every event. */
  readonly isAll: boolean
}

/** A reader that can be found. */
export interface Interested {
  readonly interest: Interest
}

/** What a reader is found by in an event. The tags are beside it. */
export interface Told {
  readonly aggregateId: string
  readonly eventType: string
}

const nothing: Interest = { aggregateIds: [], eventTypes: [], tags: [], isAll: false }

/** The interest of a reader that has to be told of every event. */
export const everything: Interest = { ...nothing, isAll: true }

/** The interest of a reader of the events that the filter describes: one part of the filter is enough to find the reader by. */
export const interestOf = ({ aggregateIds, eventTypes, items, tags: [tag] = [] }: Filter): Interest => {
  if (aggregateIds !== undefined) return { ...nothing, aggregateIds }
  if (eventTypes !== undefined) return { ...nothing, eventTypes }
  if (tag !== undefined) return { ...nothing, tags: [tag] }
  if (items === undefined) return everything
  const found = items.map((item) => ({ tag: item.tags?.[0], eventTypes: item.eventTypes }))
  if (found.some((item) => item.tag === undefined && item.eventTypes === undefined)) return everything
  return {
    ...nothing,
    eventTypes: found.flatMap((item) => (item.tag === undefined ? (item.eventTypes ?? []) : [])),
    tags: found.flatMap((item) => item.tag ?? [])
  }
}

/** Whether no event concerns the reader by more than one of its keys. Then what it is found by is all that is for it. */
const isFoundByOne = ({ aggregateIds, eventTypes, tags }: Interest): boolean =>
  aggregateIds.length + eventTypes.length + tags.length === 1

type Index<Reader> = Map<string, Set<Reader>>

const enter = <Reader>(index: Index<Reader>, keys: ReadonlyArray<string>, reader: Reader): void => {
  for (const key of keys) {
    const found = index.get(key)
    if (found === undefined) index.set(key, new Set([reader]))
    else found.add(reader)
  }
}

const leave = <Reader>(index: Index<Reader>, keys: ReadonlyArray<string>, reader: Reader): void => {
  for (const key of keys) {
    const found = index.get(key)
    if (found?.delete(reader) === true && found.size === 0) index.delete(key)
  }
}

/** The readers that wait, or will. */
export class Waiting<Reader extends Interested, Event extends Told> {
  /** All of them, also those that no event concerns. */
  readonly readers = new Set<Reader>()
  private readonly ofAll = new Set<Reader>()
  private readonly byAggregate: Index<Reader> = new Map()
  private readonly byType: Index<Reader> = new Map()
  private readonly byTag: Index<Reader> = new Map()

  enter(reader: Reader): void {
    const { aggregateIds, eventTypes, isAll, tags } = reader.interest
    this.readers.add(reader)
    if (isAll) this.ofAll.add(reader)
    enter(this.byAggregate, aggregateIds, reader)
    enter(this.byType, eventTypes, reader)
    enter(this.byTag, tags, reader)
  }

  leave(reader: Reader): void {
    const { aggregateIds, eventTypes, tags } = reader.interest
    this.readers.delete(reader)
    this.ofAll.delete(reader)
    leave(this.byAggregate, aggregateIds, reader)
    leave(this.byType, eventTypes, reader)
    leave(this.byTag, tags, reader)
  }

  /**
   * Tells the readers of events that have come together, in their order: each one of those that may concern it, or of all of
   * them. Where `tagsOf` is absent nobody knows the tags: then readers that are found by tags are told of all events.
   */
  tell(
    events: ReadonlyArray<Event>,
    tagsOf: ((event: Event) => Iterable<string>) | undefined,
    tell: (reader: Reader, events: ReadonlyArray<Event>) => void
  ): void {
    const concerned = this.find(events, tagsOf)
    // A reader goes on while it is told: it may leave meanwhile, and those who come are told of what they have had.
    for (const reader of this.ofAll) tell(reader, events)
    for (const [readers, found] of concerned) {
      for (const reader of readers) tell(reader, isFoundByOne(reader.interest) ? found : events)
    }
  }

  /** The readers that are found by something in these events, with the events of each. */
  private find(events: ReadonlyArray<Event>, tagsOf: ((event: Event) => Iterable<string>) | undefined) {
    const concerned = new Map<ReadonlySet<Reader>, Array<Event>>()
    const add = (readers: ReadonlySet<Reader> | undefined, event: Event) => {
      if (readers === undefined) return
      const found = concerned.get(readers)
      if (found === undefined) concerned.set(readers, [event])
      else found.push(event)
    }
    const { byAggregate, byTag, byType } = this
    for (const event of events) {
      if (byAggregate.size > 0) add(byAggregate.get(event.aggregateId), event)
      if (byType.size > 0) add(byType.get(event.eventType), event)
      if (byTag.size > 0 && tagsOf !== undefined) for (const tag of tagsOf(event)) add(byTag.get(tag), event)
    }
    if (tagsOf === undefined) for (const readers of byTag.values()) concerned.set(readers, [...events])
    return concerned
  }
}
