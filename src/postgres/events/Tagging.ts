/**
 * Gives events that are in the log tags.
 *
 * **Details**
 *
 * A tagging shares the locks of all tags of an event, those that it had included, as the append of the event does: a decision
 * that has one of them first in an item, and is between its check and its commit, is waited for. It raises the epoch in the
 * statement that writes the tags, so conditions that were read before the commit fail. It locks no event, so no reader waits for it.
 */
import { Duration, Effect, Schema } from "effect"
import type { Statement } from "effect/sql"
import type { TagCounts, Tagging } from "../../Event.ts"
import { type Found, type Plan, planOf } from "../../events/Tagging.ts"
import type { EventNotFound } from "../../EventStore.ts"
import { isUuid } from "../../internal/Ids.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import type { Reason } from "../../StoreError.ts"
import * as AdvisoryLocks from "../database/AdvisoryLocks.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { beginReadCommitted } from "../database/Isolation.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { reasonOf } from "../database/Reasons.ts"
import * as AppendLocks from "./AppendLocks.ts"
import { wrongIsolation } from "./AppendResults.ts"
import * as CompactLog from "./CompactLog.ts"
import * as EventTable from "./EventTable.ts"
import * as Partitions from "./Partitions.ts"
import * as TagTable from "./TagTable.ts"

/** How long a tagging waits for locks where the session has no `lock_timeout`: as long as an append waits. */
const lockLimit = Duration.minutes(1)

/** From so many tags on it locks all of them at once, as an append does: see `resources/postgres/0066_events_append.sql`. */
const mostTags = 250

const Row = Schema.Struct({ version: Schema.BigInt, id: Schema.String, tags: Schema.Array(Schema.String) })
const Level = Schema.Struct({ isolation: Schema.String })

const countsOf = ({ events, tags }: Plan): TagCounts => ({ events, tags })

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { inTransaction, names, query, sql, tables, withTransaction } = database
  const { read: readLog } = yield* Partitions.make
  const isCompact = CompactLog.isCompact(database)
  const table = TagTable.tableOf(database)
  const locks = AppendLocks.make(database)
  const decode = decodeRows(Row, names.events, ["version"])
  const decodeLevel = decodeRows(Level, "pg_settings", [])

  /** The ids at versions. Those of a log with partitions are in a table, also of what is archived. */
  const idsAt = (all: Tagging["events"], partitioned: boolean, compact: boolean) => {
    const events = compact ? all.filter(({ id }) => isUuid(id)) : all
    const ids = sql`${events.map(({ id }) => id)}::${sql.literal(compact ? "uuid" : "text")}[]`
    return partitioned
      ? sql`(
          SELECT version, id FROM ${sql.literal(EventTable.idsNameOf(database))}
          WHERE (id, version) IN (SELECT * FROM unnest(${ids}, ${events.map(({ version }) => version)}::bigint[]))
        ) AS event`
      : sql`pg_catalog.unnest(${[...new Set(events.map(({ version }) => version))]}::bigint[]) AS asked (version)
          CROSS JOIN LATERAL (SELECT version, id FROM ${tables.events} WHERE version = asked.version OFFSET 0) AS event`
  }

  const look = (events: Tagging["events"]): Effect.Effect<Plan, EventNotFound | InvalidInput | Reason> =>
    isCompact.pipe(
      Effect.flatMap((compact) => {
        const lookBy = (partitioned: boolean) =>
          query(sql`
            SELECT event.version, event.id, ARRAY(
              SELECT tag FROM ${table} AS tagged WHERE tagged.version + 0 = event.version AND tagged.tag <> ''::text
            ) AS tags
            FROM ${idsAt(events, partitioned, compact)}`)
        return readLog({ ofPlainTable: () => lookBy(false), ofPartitions: () => lookBy(true) })
      }),
      Effect.flatMap(decode),
      Effect.map((rows) => new Map(rows.map((row): readonly [bigint, Found] => [row.version, row]))),
      Effect.flatMap((found) => planOf(events, found))
    )

  /**
   * The epoch is the highest version beside the empty tag, which no event has. Nobody else raises it meanwhile. It rises by a
   * random number: a condition that was read in a savepoint keeps the epoch of a tagging that was taken back with it, and the
   * next tagging must not have the same one.
   */
  const write = ({ missing }: Plan) =>
    query(sql`
      INSERT INTO ${table} (tag, version, event_type)
      SELECT tag, version, (SELECT event_type FROM ${tables.events} AS event WHERE event.version = missing.version)
      FROM unnest(
        ${missing.map(({ tag }) => tag)}::text[], ${missing.map(({ version }) => version)}::bigint[]
      ) AS missing (tag, version)
      UNION ALL
      SELECT ''::text, coalesce(max(version), 0) + 1 + (pg_catalog.random() * 1000000000::float8)::bigint, NULL
      FROM ${table} WHERE tag = ''::text`)

  const lock = (of: string, keys: Statement.Fragment, shared = false) =>
    AdvisoryLocks.take(database, { of, keys, shared, atMost: lockLimit })

  const attempt = Effect.fnUntraced(function* (events: Tagging["events"]) {
    const [level] = yield* Effect.flatMap(
      query(sql`SELECT pg_catalog.current_setting('transaction_isolation') AS isolation`),
      decodeLevel
    )
    if (level?.isolation.startsWith("read ") !== true) return yield* wrongIsolation
    yield* lock("all taggings", locks.tagging)
    // Nobody else changes the tags of these events from here on.
    const plan = yield* look(events)
    if (plan.tags === 0) return countsOf(plan)
    yield* plan.touched.size > mostTags
      ? lock("all appends", locks.log)
      : lock("the tags of these events", locks.share([...plan.touched]), true)
    yield* write(plan)
    return countsOf(plan)
  })

  return {
    /** What `tag` of the contract does. */
    tag: Effect.fnUntraced(function* ({
      dryRun = false,
      events
    }: Tagging): Effect.fn.Return<TagCounts, EventNotFound | InvalidInput | Reason> {
      if (events.length === 0) return { events: 0, tags: 0 }
      // Tags that are there stay there: where none is missing, no lock is needed.
      const plan = yield* look(events)
      if (dryRun || plan.tags === 0) return countsOf(plan)
      const inside = yield* inTransaction
      const tagging = Effect.catchTag(withTransaction(attempt(events)), "SqlError", (error) =>
        Effect.fail(reasonOf(error))
      )
      return yield* inside ? tagging : beginReadCommitted(tagging)
    })
  }
})
