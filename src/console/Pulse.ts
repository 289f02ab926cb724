/** The dear and the cheap looks at the database: a pulse tells in one statement whether there is something new to look at. */
import { DateTime, Effect, Schema } from "effect"
import { decodeRows } from "../postgres/database/DecodeRows.ts"
import { qualify } from "../postgres/database/Identifier.ts"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import * as LockHolders from "../postgres/events/LockHolders.ts"

const Row = Schema.Struct({
  latestVersion: Schema.BigInt,
  latestAt: Schema.NullOr(Schema.DateTimeUtcFromDate),
  connections: Schema.Int,
  /** Changes whenever an offset moves. */
  offsets: Schema.String,
  /** Changes whenever a message does, once the server has counted it. */
  messages: Schema.String,
  /** Whether another transaction holds the lock that an append takes. */
  isHeld: Schema.Boolean
})

export interface Pulse {
  readonly at: DateTime.Utc
  readonly latestVersion: bigint
  readonly latestAt: DateTime.Utc | null
  readonly connections: number
  readonly offsets: string
  readonly messages: string
  readonly isHeld: boolean
}

const About = Schema.Struct({ server: Schema.String, database: Schema.String, role: Schema.String })

export const make = Effect.gen(function* () {
  const { names, query, schema, sql, tables } = yield* PostgresDatabase
  const { describe, list } = yield* LockHolders.make
  const decode = decodeRows(Row, names.events, [])
  const decodeAbout = decodeRows(About, "pg_catalog", [])
  const events = qualify(schema, names.events)

  /** How many rows of a table were written since the server counts. */
  const writesOf = (name: string) => {
    const table = sql`${qualify(schema, name)}::regclass::oid`
    return sql`pg_stat_get_tuples_inserted(${table}) + pg_stat_get_tuples_updated(${table}) + pg_stat_get_tuples_deleted(${table})`
  }

  return {
    /** One statement. */
    pulse: Effect.gen(function* () {
      const rows = yield* query(sql`
        SELECT coalesce((SELECT max(version) FROM ${tables.events}), 0) AS "latestVersion",
          (SELECT created_at FROM ${tables.events} ORDER BY version DESC LIMIT 1) AS "latestAt",
          (SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database()) AS connections,
          (SELECT count(*)::text || ' '::text || coalesce(sum(current_offset), 0)::text FROM ${tables.offsets}) AS offsets,
          (${writesOf(names.messages)} + ${writesOf(names.spool)})::text AS messages,
          EXISTS (
            SELECT FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted
              AND relation = ${events}::regclass::oid AND pid IS DISTINCT FROM pg_backend_pid()
          ) AS "isHeld"`)
      const [row] = yield* decode(rows)
      const at = yield* DateTime.now
      const pulse: Pulse = {
        at,
        latestVersion: row?.latestVersion ?? 0n,
        latestAt: row?.latestAt ?? null,
        connections: row?.connections ?? 0,
        offsets: row?.offsets ?? "",
        messages: row?.messages ?? "",
        isHeld: row?.isHeld ?? false
      }
      return pulse
    }),

    /** Who may still append below the last version. */
    holders: Effect.gen(function* () {
      const { holders } = yield* list(query)
      return holders.size === 0 ? null : yield* describe(query, holders)
    }),

    about: Effect.map(
      Effect.flatMap(
        query(sql`
          SELECT split_part(current_setting('server_version'), ' ', 1) AS server, current_database()::text AS database,
            current_user::text AS role`),
        decodeAbout
      ),
      ([row]) => ({
        server: row?.server ?? "",
        database: row?.database ?? "",
        role: row?.role ?? "",
        schema: schema ?? null
      })
    )
  }
})

export type Looks = Effect.Success<typeof make>
