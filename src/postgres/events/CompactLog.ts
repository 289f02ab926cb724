/**
 * A log that takes less room: `resources/postgres/0049_events_layout_compact.sql` makes it. Its ids are UUIDs, of 16 bytes each, and
 * it stores neither the name of a stream nor metadata where there is none.
 */
import { Effect, Schema } from "effect"
import type { Append } from "../../Event.ts"
import { isUuid } from "../../internal/Ids.ts"
import { InvalidInput } from "../../InvalidInput.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
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

const Row = Schema.Struct({ compact: Schema.Boolean })

/** Whether the log is compact. It is asked once. */
export const isCompact = ({
  names,
  query,
  schema,
  sql
}: PostgresDatabase["Service"]): Effect.Effect<boolean, Reason> => {
  let known: Effect.Effect<boolean> | undefined
  const look = query(sql`
    SELECT EXISTS (
      SELECT FROM pg_catalog.pg_attribute
      WHERE attrelid = pg_catalog.to_regclass(${qualify(schema, names.events)})::oid AND attname = 'id'::name
        AND atttypid = 'pg_catalog.uuid'::regtype::oid
    ) AS compact`).pipe(
    Effect.flatMap(decodeRows(Row, "pg_attribute", [])),
    Effect.map(([row]) => row?.compact === true),
    Effect.tap((compact) => Effect.sync(() => (known = Effect.succeed(compact))))
  )
  return Effect.suspend((): Effect.Effect<boolean, Reason> => known ?? look)
}
