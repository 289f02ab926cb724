/**
 * A log that takes less room: `resources/postgres/0049_events_layout_compact.sql` makes it. Its ids are UUIDs, of 16 bytes each,
 * and it stores neither the name of a stream nor metadata where there is none. Its indexes have blocks of versions.
 */
import { Effect, Schema } from "effect"
import type { Append } from "../../Event.ts"
import { isUuid } from "../../internal/Ids.ts"
import { InvalidInput } from "../../InvalidInput.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify, unquoted } from "../database/Identifier.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"

/** What is wrong with an id that a compact log cannot store. */
export const expected = "Expected a UUID in lower case: this log is compact, and keeps ids as UUIDs"

/** Why these events cannot be appended to a compact log, if they cannot. */
export const refusalOf = ({ events }: Append): InvalidInput | undefined => {
  const issues = events.flatMap(({ id }, index) =>
    id === undefined || isUuid(id) ? [] : [{ field: `events.${index}.id`, message: expected }]
  )
  return issues.length === 0 ? undefined : new InvalidInput({ store: "EventStore", operation: "append", issues })
}

/**
 * How many bits of a version an index of a compact log leaves out: it has blocks of 64 versions of an aggregate, and of 256 of a
 * type. `resources/postgres/0050_events_layout_compact_concurrently.sql` makes them.
 */
export const blockBits = { aggregate_id: 6, event_type: 8 } as const

/** What the index of times has of a compact log: minutes, in blocks of 4,096 versions. */
export const timeKey = "(version >> 12), date_trunc('minute'::text, (created_at AT TIME ZONE 'UTC'::text))"

/** Which of these indexes there are. */
export interface Indexes {
  readonly aggregates: boolean
  readonly types: boolean
  readonly times: boolean
}

export const noIndexes: Indexes = { aggregates: false, types: false, times: false }

const Row = Schema.Struct({
  compact: Schema.Boolean,
  aggregates: Schema.Boolean,
  types: Schema.Boolean,
  times: Schema.Boolean
})

const describe = ({ names, query, schema, sql }: PostgresDatabase["Service"]) => {
  // The server puts each expression of an index into brackets of its own.
  const definition = sql.literal(unquoted("pg_catalog.pg_get_indexdef(indexrelid)"))
  const has = (form: string) => sql`EXISTS (
    SELECT FROM pg_catalog.pg_index
    WHERE indrelid = attrelid AND indisvalid AND indpred IS NULL AND ${definition} LIKE ${`% USING btree ${form}`}::text
  )`
  return query(sql`
    SELECT atttypid = 'pg_catalog.uuid'::regtype::oid AS compact,
      ${has(`(aggregate_id, ((version >> ${blockBits.aggregate_id})))`)} AS aggregates,
      ${has(`(event_type, ((version >> ${blockBits.event_type})))`)} AS types,
      ${has(`(${timeKey.replace("(version >> 12)", "((version >> 12))")})`)} AS times
    FROM pg_catalog.pg_attribute
    WHERE attrelid = pg_catalog.to_regclass(${qualify(schema, names.events)})::oid AND attname = 'id'::name`).pipe(
    Effect.flatMap(decodeRows(Row, "pg_attribute", [])),
    Effect.map(([row]) => row ?? { compact: false, ...noIndexes })
  )
}

/** Asks until an answer is there that stays. */
const known = <A>(
  database: PostgresDatabase["Service"],
  answer: (row: typeof Row.Type) => A,
  stays: (row: typeof Row.Type) => boolean
): Effect.Effect<A, Reason> => {
  let found: Effect.Effect<A> | undefined
  const look = Effect.map(describe(database), (row) => {
    const given = answer(row)
    if (stays(row)) found = Effect.succeed(given)
    return given
  })
  return Effect.suspend((): Effect.Effect<A, Reason> => found ?? look)
}

/** Whether the log is compact. It is asked once. */
export const isCompact = (database: PostgresDatabase["Service"]): Effect.Effect<boolean, Reason> =>
  known(
    database,
    ({ compact }) => compact,
    () => true
  )

/**
 * Which indexes of a compact log there are, and none of them for another log. It is asked until they are there: on a large log
 * they are built while others read.
 */
export const indexes = (database: PostgresDatabase["Service"]): Effect.Effect<Indexes, Reason> =>
  known(
    database,
    (row): Indexes => (row.compact ? row : noIndexes),
    ({ aggregates, compact, times, types }) => !compact || (aggregates && types && times)
  )
