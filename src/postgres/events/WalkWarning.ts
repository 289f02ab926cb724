/** Warns of filters that no index serves. */
import { Effect } from "effect"
import { Filter } from "../../EventStore.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import type { EventPages } from "./EventPages.ts"
import type * as MarkedReading from "./MarkedReading.ts"

/** Above this number of events that a read looks through, a warning says that no index finds those of its filter. */
const manyVersions = 1_000_000n

/** What a query has of a filter. */
const fieldsOfFilter = new Set(Object.keys(Filter.fields))

export interface WalkWarning {
  /** Warns once that a filter has all these events read, if no index serves it. The server that is read says whether one does. */
  readonly warnOfWalk: MarkedReading.Marks["warnOfWalk"]
  /** Whether it would have nothing to say of a filter. */
  readonly isSilent: (filter: Filter) => boolean
}

export const make = ({ names }: PostgresDatabase["Service"], { walks }: EventPages): WalkWarning => {
  let hasWarned = false
  const isSilent = (filter: Filter): boolean => hasWarned || !walks(filter)

  return {
    isSilent,
    warnOfWalk: (filter, count, isIndexed) => {
      if (count <= manyVersions || isSilent(filter)) return Effect.void
      return Effect.flatMap(isIndexed(filter), (indexed) => {
        if (hasWarned || indexed) return Effect.void
        hasWarned = true
        const fields = Object.entries(filter).flatMap(([field, value]) =>
          fieldsOfFilter.has(field) && value !== undefined ? [field] : []
        )
        return Effect.logWarning(
          `a filter by ${fields.join(", ")} is looked up in no index: up to ${count} events of ${names.events} are read for it; ` +
            "name types, one aggregate or tags, begin after a later version, or see the option index"
        )
      })
    }
  }
}
