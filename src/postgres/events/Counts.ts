/** What is known of a log's size: counted, or estimated. */
import { DateTime, Option, Schema } from "effect"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"

/** Only events that are younger than this count. */
export type Since = Option.Option<DateTime.Utc>

/** How many events have the same type, or the same aggregate. */
export interface Group {
  readonly name: string
  readonly events: number
  readonly isEstimate: boolean
}

/** How many events have come in a part of the time. */
export interface Span {
  readonly from: DateTime.Utc
  readonly events: number
}

export interface Counts {
  readonly isEstimate: boolean
  readonly events: number
  /** Null where an estimate cannot say it. */
  readonly aggregates: number | null
  readonly types: number
  readonly latestVersion: bigint
  readonly first: DateTime.Utc | null
  readonly last: DateTime.Utc | null
  /** The groups with the most events first. */
  readonly byType: ReadonlyArray<Group>
  readonly byAggregate: ReadonlyArray<Group>
  readonly spans: ReadonlyArray<Span>
}

/** Into how many spans of equal length the time is divided. */
const spanCount = 24

/** The condition that an event of the log meets which is meant. */
export const conditionOf = (since: Since) =>
  PostgresDatabase.useSync(({ sql }) =>
    Option.match(since, {
      onNone: () => sql`true`,
      onSome: (time) => sql`created_at > ${DateTime.toDateUtc(time)}::timestamptz`
    })
  )

/** The first and the last time of some events. */
export const Ends = Schema.Struct({
  first: Schema.NullOr(Schema.DateTimeUtcFromDate),
  last: Schema.NullOr(Schema.DateTimeUtcFromDate)
})
export type Ends = typeof Ends.Type

/** The first and the last time of all these. */
export const endsOf = (all: ReadonlyArray<Ends>): Ends => {
  const inOrder = all
    .flatMap(({ first, last }) => (first === null || last === null ? [] : [first, last]))
    .sort((a, b) => a.epochMilliseconds - b.epochMilliseconds)
  return { first: inOrder.at(0) ?? null, last: inOrder.at(-1) ?? null }
}

/** The number of the span in which an event was created, from 1, as SQL. */
export const spanOf = ({ first, last }: Ends) =>
  PostgresDatabase.useSync(({ sql }) => {
    const second = (time: DateTime.Utc | null, more: number) =>
      ((time === null ? 0 : time.epochMilliseconds) + more) / 1000
    return sql`width_bucket(
      extract(epoch FROM created_at)::float8, ${second(first, 0)}::float8, ${second(last, 1)}::float8, ${spanCount}::int
    )`
  })

/** A span with what has come in it, and 0 for one without events. The times are cut to milliseconds: the last one may be beyond. */
export const spansOf = ({ first, last }: Ends, events: ReadonlyMap<number, number>): ReadonlyArray<Span> => {
  if (first === null || last === null) return []
  const start = first.epochMilliseconds
  const length = (last.epochMilliseconds + 1 - start) / spanCount
  return Array.from({ length: spanCount }, (_, index) => ({
    from: DateTime.makeUnsafe(start + Math.round(index * length)),
    events: events.get(index + 1) ?? 0
  }))
}

/** The largest groups first, and those of the same size by their names. */
export const largest = (groups: ReadonlyArray<Group>, top: number): ReadonlyArray<Group> =>
  groups.toSorted((a, b) => b.events - a.events || (a.name < b.name ? -1 : 1)).slice(0, top)
