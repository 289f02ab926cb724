/**
 * Pages of the log, as somebody looks at it: from the newest event on, and a part of the log at a time where no index has what
 * the filter describes. So no statement reads more than such a part, however long the log is.
 */
import { Effect, Option, Schema } from "effect"
import { EventStore, Filter, type StoredEvent } from "../EventStore.ts"
import { decodeRows } from "../postgres/database/DecodeRows.ts"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import * as EventPages from "../postgres/events/EventPages.ts"
import { eventDecoder } from "../postgres/events/EventRow.ts"
import { readPage } from "../postgres/events/LongTexts.ts"
import { highestPossible, type Range } from "../postgres/events/PageRange.ts"
import * as TagTable from "../postgres/events/TagTable.ts"

/** How many events a statement looks through, where it has to: it takes some 20 milliseconds. */
const partEvents = 20_000n

/** How many of the events after one are looked at for what it has caused. */
const causedEvents = 2_000

export interface Page {
  readonly events: ReadonlyArray<StoredEvent>
  readonly before: bigint | null
  readonly lookedDownTo: bigint
}

const Tag = Schema.Struct({ tag: Schema.String })
const Neighbours = Schema.Struct({ previous: Schema.NullOr(Schema.BigInt), next: Schema.NullOr(Schema.BigInt) })

/** The event with this id, if there is one. */
export const withId = (id: string) =>
  EventStore.use(({ get }) => get(id)).pipe(
    Effect.map(Option.some),
    Effect.catchTag(["EventNotFound", "InvalidInput"], () => Effect.succeedNone)
  )

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { names, query, sql } = database
  const events = yield* EventStore
  const { page, walks } = yield* EventPages.make
  const decode = eventDecoder(names.events, "bigint")
  const tags = TagTable.tableOf(database)
  const decodeTags = decodeRows(Tag, TagTable.nameOf(database), [])
  const decodeNeighbours = decodeRows(Neighbours, names.events, [])

  const read = Effect.fnUntraced(function* (
    filter: Filter,
    range: Pick<Range, "after" | "isShort" | "limit"> & { readonly last: bigint }
  ) {
    const rows = yield* readPage(query, yield* page(filter, { ...range, direction: "DESC" }))
    const { corrupt, events } = decode(rows)
    // What comes before such a row can be seen; the next page says what is wrong with it.
    return corrupt !== undefined && events.length === 0 ? yield* corrupt : events
  })

  return {
    /** The events below a version that the filter describes, the newest first. */
    before: Effect.fnUntraced(function* (filter: Filter, before: bigint | undefined, latest: bigint, limit: number) {
      const last = before === undefined ? highestPossible : before - 1n
      const isInParts = walks(filter)
      // Above the highest version there is nothing to walk through.
      const from = last < latest ? last : latest
      const after = isInParts && from > partEvents ? from - partEvents : 0n
      const events = yield* read(filter, { after, last, limit, isShort: isInParts })
      const lowest = events.at(-1)?.version
      const isFull = events.length >= limit && lowest !== undefined
      const lookedDownTo = isFull ? lowest : after + 1n
      const found: Page = {
        events,
        lookedDownTo,
        before: lookedDownTo > 1n && (isFull || after > 0n) ? lookedDownTo : null
      }
      return found
    }),

    /** The event with a version. */
    at: (version: bigint) =>
      Effect.map(read(new Filter({}), { after: version - 1n, last: version, limit: 1 }), (events) =>
        Option.fromUndefinedOr(events[0])
      ),

    /** The tags of an event. */
    tagsOf: (version: bigint) =>
      Effect.map(
        Effect.flatMap(query(sql`SELECT tag FROM ${tags} WHERE version + 0 = ${version} ORDER BY tag`), decodeTags),
        (rows) => rows.map(({ tag }) => tag)
      ),

    /** The versions of the events of its aggregate before and after an event. */
    neighboursOf: Effect.fnUntraced(function* ({ aggregateId, version }: StoredEvent) {
      const filter = new Filter({ aggregateIds: [aggregateId] })
      const previous = yield* page(filter, { after: 0n, last: version - 1n, direction: "DESC", limit: 1 })
      const next = yield* page(filter, { after: version, last: highestPossible, direction: "ASC", limit: 1 })
      const rows = yield* query(sql`SELECT
        (SELECT version FROM (${previous("bare")}) AS event) AS previous, (SELECT version FROM (${next("bare")}) AS event) AS next`)
      const [row] = yield* decodeNeighbours(rows)
      return row ?? { previous: null, next: null }
    }),

    /** The events that an event has caused, among those that came soon after it. */
    causedBy: Effect.fnUntraced(function* ({ id, version }: StoredEvent) {
      const filter = new Filter({ metadata: { causationId: id } })
      const last = version + BigInt(causedEvents)
      const events = yield* read(filter, { after: version, last, limit: 100, isShort: true })
      return { events: events.toReversed(), upTo: last }
    }),

    /** The event with this id, if there is one. */
    withId: (id: string) => Effect.provideService(withId(id), EventStore, events)
  }
})

export type LogPages = Effect.Success<typeof make>
