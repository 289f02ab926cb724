/**
 * How the database answers the question for the holders: which transactions hold the lock of the table of events, and may
 * still append below a version that can be seen. `events/Hole` has the rule, and why the lock tells.
 */
import { Effect, Schema } from "effect"
import type { Holders } from "../../events/Hole.ts"
import { Denied, type Reason, Unexpected } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify, reference } from "../database/Identifier.ts"
import { PostgresDatabase, type Query } from "../database/PostgresDatabase.ts"
import { transactionText } from "../database/TransactionText.ts"
import * as EventTable from "./EventTable.ts"

/**
 * What each answer of the rule's questions says of its server. `server` is the time at which the server was started, which
 * tells one from another, as a number: its text would depend on the settings of the connection. Beside it is the file of the
 * sequence, as that is another one after `TRUNCATE .. RESTART IDENTITY`.
 */
export const serverColumns = ({ names, schema }: Pick<PostgresDatabase["Service"], "names" | "schema">) => {
  const table = reference(qualify(schema, names.events))
  return `pg_is_in_recovery() AS standby, current_setting('transaction_isolation') AS isolation,
    extract(epoch FROM pg_postmaster_start_time())::text || ' '
      || coalesce(pg_relation_filenode(pg_get_serial_sequence(${table}, 'version')::regclass)::text, '') AS server`
}

/** A row that has `serverColumns`. */
export const ServerColumns = Schema.Struct({
  standby: Schema.Boolean,
  isolation: Schema.String,
  server: Schema.String
})

const Found = Schema.Struct({
  ...ServerColumns.fields,
  ...EventTable.SequenceColumns.fields,
  holders: Schema.Array(Schema.String)
})

const Description = Schema.Struct({ description: Schema.NullOr(Schema.String) })

const holderText = (withQuery: boolean) => transactionText("'the transaction ' || held.virtualtransaction", withQuery)

/** Why a standby does not say how far the log is settled. */
export const onStandby = new Denied({
  message:
    "the server is a standby, where nobody can see which events are still on their way, and it has no mark of the primary for this " +
    "read: connect to the primary, with this server for Postgres.layerReplica, or read one aggregate by loadByAggregate",
  mayPass: true
})

const withOldSnapshot = (isolation: string) =>
  new Unexpected({
    message:
      `in a transaction with isolation level ${isolation} nobody can see which events are still on their way; ` +
      "read the log in a transaction with READ COMMITTED, or outside of one"
  })

/** Fails where an answer would decide nothing: the locks of the primary, or what others commit, cannot be seen there. */
export type Check = (run: Query, server: typeof ServerColumns.Type) => Effect.Effect<void, Reason>

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { inTransaction, names, query, schema, sql } = database
  const table = qualify(schema, names.events)
  const decodeFound = decodeRows(Found, "pg_locks", [])
  const decodeDescription = decodeRows(Description, "pg_locks", [])

  // The statement does without pg_stat_activity: a prepared transaction has no process, and is a holder all the same. A
  // transaction that makes a child of the table and inserts into it holds a lock of a table that nobody else can see to be a
  // child: it has locked the parent for that. VACUUM takes such a lock of the parent, too, but beside it it locks indexes only.
  const looking = sql.literal(`
    SELECT ${serverColumns(database)}, ${EventTable.sequenceColumns}, ARRAY(
      WITH held AS MATERIALIZED (
        SELECT virtualtransaction, mode, relation FROM pg_locks
        WHERE locktype = 'relation' AND mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock') AND granted
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND pid IS DISTINCT FROM pg_backend_pid()
      ), family AS MATERIALIZED (${EventTable.familyOf("attrelid")})
      SELECT DISTINCT virtualtransaction FROM held
      WHERE mode = 'RowExclusiveLock' AND (
        relation IN (SELECT relation FROM family)
        OR virtualtransaction IN (
          SELECT virtualtransaction FROM held
          WHERE mode = 'ShareUpdateExclusiveLock' AND relation IN (SELECT relation FROM family)
        ) AND relation >= 16384::oid AND NOT EXISTS (SELECT FROM pg_index WHERE indexrelid = relation)
      )
    )::text[] AS holders
    FROM ${EventTable.fromVersionOf(database)}`)

  const check: Check = Effect.fnUntraced(function* (run, { isolation, standby }) {
    if (standby) return yield* onStandby
    if (run === query && !isolation.startsWith("read ") && (yield* inTransaction)) {
      return yield* withOldSnapshot(isolation)
    }
  })

  const find = Effect.fnUntraced(function* (run: Query) {
    const [found] = yield* Effect.flatMap(run(sql`${looking}`), decodeFound)
    if (found !== undefined) yield* check(run, found)
    return found
  })

  const holdersOf = (found: typeof Found.Type | undefined): Holders => ({
    holders: new Set(found?.holders),
    server: found?.server ?? ""
  })

  /** The transactions that hold the lock now, without the reader's own. `run` says on which connection to ask. */
  const list = (run: Query): Effect.Effect<Holders, Reason> => Effect.map(find(run), holdersOf)

  /** The same for those who rely on it: it fails where the sequence keeps no order any more, since then no lock tells. */
  const look = Effect.fnUntraced(function* (run: Query): Effect.fn.Return<Holders, Reason> {
    const found = yield* find(run)
    const fault = found === undefined ? undefined : EventTable.outOfOrder(table, found)
    return fault === undefined ? holdersOf(found) : yield* fault
  })

  /**
   * Describes holders for people: their process, their state and application, and for how long they are open. With
   * `withQuery` also their last statement, in which there may be secrets.
   */
  const describe = (run: Query, holders: ReadonlySet<string>, { withQuery = false } = {}) =>
    Effect.map(
      Effect.flatMap(
        run(sql`
          SELECT pg_catalog.string_agg(${holderText(withQuery)}, '; ') AS description
          FROM (
            SELECT virtualtransaction, max(pid) AS pid,
              max(transactionid::text) FILTER (WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock') AS xid
            FROM pg_locks WHERE virtualtransaction = ANY(${[...holders]}::text[]) GROUP BY virtualtransaction
          ) AS held
          LEFT JOIN pg_stat_activity AS activity ON activity.pid = held.pid
          LEFT JOIN pg_prepared_xacts AS prepared ON prepared.transaction::text = held.xid`),
        decodeDescription
      ),
      ([row]) => row?.description ?? "a transaction that has just ended"
    )

  /** Writes to the log which transactions hold up readers, and at which version. */
  const report = (run: Query, holders: ReadonlySet<string>, version: bigint) =>
    Effect.flatMap(describe(run, holders), (description) =>
      Effect.logWarning(`${table} is held up at version ${version} by ${description}: readers wait there`)
    )

  return { check, list, look, describe, report }
})
