/** Who is told of an event, of all that wait, without a database. */
import { assert, describe, it } from "@effect/vitest"
import { DateTime } from "effect"
import type { EventStore } from "effect-strata"
import { matches } from "../../src/events/EventFilter.ts"
import { type Interested, interestOf, Waiting } from "../../src/events/Waiting.ts"

interface Event {
  readonly version: number
  readonly aggregateId: string
  readonly eventType: string
  readonly tags: ReadonlySet<string>
}

interface Reader extends Interested {
  readonly filter: EventStore.Filter
}

const readerOf = (filter: EventStore.Filter): Reader => ({ filter, interest: interestOf(filter) })

const filterable = ({ aggregateId, eventType }: Event) => ({
  aggregateId,
  eventType,
  createdAt: DateTime.makeUnsafe(0),
  data: {},
  metadata: null
})

const tell = (waiting: Waiting<Reader, Event>, events: ReadonlyArray<Event>, areTagsKnown = true) => {
  const told = new Map<Reader, Array<ReadonlyArray<Event>>>()
  waiting.tell(events, areTagsKnown ? ({ tags }) => tags : undefined, (reader, found) => {
    told.set(reader, [...(told.get(reader) ?? []), found])
  })
  return told
}

/** All choices of at most two of three. */
const choices = (name: string) => {
  const [a, b, c] = [`${name}1`, `${name}2`, `${name}3`]
  return [[], [a], [b], [a, b], [b, c]]
}

const eventsOf = (): ReadonlyArray<Event> => {
  const events: Array<Event> = []
  for (const aggregateId of choices("aggregate").flat()) {
    for (const eventType of ["type1", "type2"]) {
      for (const tags of choices("tag")) {
        events.push({ version: events.length, aggregateId, eventType, tags: new Set(tags) })
      }
    }
  }
  return events
}

const filtersOf = (): ReadonlyArray<EventStore.Filter> => {
  const parts: ReadonlyArray<EventStore.Filter> = [
    {},
    ...choices("aggregate").map((aggregateIds) => ({ aggregateIds })),
    ...choices("type").map((eventTypes) => ({ eventTypes })),
    ...choices("tag").map((tags) => ({ tags })),
    { items: [] },
    { items: [{ tags: ["tag1"] }, { tags: ["tag2"], eventTypes: ["type1"] }] },
    { items: [{ tags: ["tag1", "tag2"] }, { eventTypes: ["type2"] }] },
    { items: [{ tags: ["tag3"] }, {}] },
    { data: { some: "data" } }
  ]
  const filters: Array<EventStore.Filter> = []
  for (const one of parts) for (const other of parts) filters.push({ ...one, ...other })
  return filters
}

describe("a reader that waits", () => {
  it("is told of every event that its filter describes, whatever else it has, in one piece and in order", () => {
    const events = eventsOf()
    const waiting = new Waiting<Reader, Event>()
    const readers = filtersOf().map(readerOf)
    for (const reader of readers) waiting.enter(reader)
    for (const areTagsKnown of [true, false]) {
      const told = tell(waiting, events, areTagsKnown)
      for (const reader of readers) {
        const described = events.filter((event) => matches(reader.filter, filterable(event), event.tags))
        // It takes what is for it of the first piece, and is past all of them then.
        const [first = []] = told.get(reader) ?? []
        assert.includeMembers([...first], described, JSON.stringify(reader.filter))
        assert.isTrue(first.every((event, index) => index === 0 || event.version > (first[index - 1]?.version ?? 0)))
      }
    }
  })

  it("is not told of events of other aggregates, types and tags", () => {
    const waiting = new Waiting<Reader, Event>()
    const filters = [
      { aggregateIds: ["aggregate1"] },
      { eventTypes: ["type1"], data: { some: "data" } },
      { tags: ["tag1", "tag2"] },
      { items: [{ tags: ["tag1"] }, { eventTypes: ["type1"] }] },
      { aggregateIds: [] }
    ]
    for (const filter of filters) waiting.enter(readerOf(filter))
    const event = { version: 1, aggregateId: "aggregate2", eventType: "type2", tags: new Set(["tag2"]) }
    assert.strictEqual(tell(waiting, [event]).size, 0)
  })

  it("is found no more once it has left", () => {
    const waiting = new Waiting<Reader, Event>()
    const readers = filtersOf().map(readerOf)
    for (const reader of readers) waiting.enter(reader)
    for (const reader of readers) waiting.leave(reader)
    assert.strictEqual(tell(waiting, eventsOf()).size, 0)
    assert.strictEqual(waiting.readers.size, 0)
  })

  it("is one of 10,000, each of an aggregate of its own, and alone in being told", () => {
    const waiting = new Waiting<Reader, Event>()
    for (let number = 0; number < 10_000; number++) waiting.enter(readerOf({ aggregateIds: [`own ${number}`] }))
    const event = { version: 1, aggregateId: "own 77", eventType: "type1", tags: new Set<string>() }
    const told = [...tell(waiting, [event])]
    assert.deepStrictEqual(
      told.map(([{ filter }, found]) => [filter.aggregateIds, found]),
      [[["own 77"], [[event]]]]
    )
  })
})
