/** `DurableStateStore` on Postgres. */
import { Effect, Layer, Option, Schema, Stream } from "effect"
import type { Statement } from "effect/sql/Statement"
import {
  ById,
  ByIds,
  DurableState,
  DurableStateStore,
  isSame,
  Selection,
  StaleState,
  Write
} from "../DurableStateStore.ts"
import * as Operation from "../Operation.ts"
import { decodeRows, NumberFromBigInt, PostgresDatabase } from "./PostgresDatabase.ts"

/** How many states `listStates` reads at a time, */
const pageSize = 500
/** and about how many bytes of payload. */
const pageBytes = 4 * 1024 * 1024

/** A row of the table, as `columns` names its parts. */
const Row = Schema.Struct({
  ...DurableState.fields,
  shard: NumberFromBigInt.pipe(Schema.decodeTo(DurableState.fields.shard))
})

export const make = Effect.gen(function* () {
  const { names, query, sql, tables } = yield* PostgresDatabase
  const operation = yield* Operation.make("DurableStateStore", "postgres")
  const table = tables.states
  const decodeStates = decodeRows(Row, names.states, ["persistenceId"])

  // Statements

  const stored = sql.literal("persistence_id, version_number, state_payload, state_manifest, timestamp, shard_number")

  const columns = sql.literal(
    `persistence_id AS "persistenceId", version_number AS "versionNumber", state_payload AS payload,
    state_manifest AS manifest, timestamp, shard_number AS shard`
  )

  const replace = sql.literal(
    `version_number = excluded.version_number, state_payload = excluded.state_payload,
    state_manifest = excluded.state_manifest, timestamp = excluded.timestamp, shard_number = excluded.shard_number`
  )

  // Returns what is stored where nothing was written. A plain SELECT would not see what another transaction committed while
  // this one waited for it. But the row that is in the way is locked by then, so a second INSERT is sure to meet it, and to
  // return it, updated to itself.
  const writeNewer = ({ manifest, payload, persistenceId, shard, timestamp, versionNumber }: DurableState) => sql`
    WITH new (${stored}) AS MATERIALIZED (
      VALUES (${persistenceId}, ${versionNumber}, ${payload}, ${manifest}, ${timestamp}, ${BigInt(shard)})
    ), written AS (
      INSERT INTO ${table} AS states (${stored}) SELECT ${stored} FROM new
      ON CONFLICT (persistence_id) DO UPDATE SET ${replace} WHERE states.version_number < excluded.version_number
      RETURNING persistence_id
    )
    INSERT INTO ${table} AS states (${stored}) SELECT ${stored} FROM new WHERE NOT EXISTS (SELECT FROM written)
    ON CONFLICT (persistence_id) DO UPDATE SET version_number = states.version_number
    RETURNING ${columns}`

  const upsert = ({ manifest, payload, persistenceId, shard, timestamp, versionNumber }: DurableState) => sql`
    INSERT INTO ${table} (${stored})
    VALUES (${persistenceId}, ${versionNumber}, ${payload}, ${manifest}, ${timestamp}, ${BigInt(shard)})
    ON CONFLICT (persistence_id) DO UPDATE SET ${replace}`

  const select = ({ persistenceId }: ById) => sql`
    SELECT ${columns} FROM ${table} WHERE persistence_id = ${persistenceId}`

  const selectAll = ({ persistenceIds }: ByIds) => sql`
    SELECT ${columns} FROM ${table} WHERE persistence_id = ANY(${persistenceIds}::text[])`

  // In the order of the primary key's index, so that all pages together read the table once. The size of a payload is known
  // without reading it.
  const selectPage = ({ manifest, shard }: Selection, after: string | undefined) => {
    const filters = [
      ...(shard === undefined ? [] : [sql`shard_number = ${BigInt(shard)}`]),
      ...(manifest === undefined ? [] : [sql`state_manifest = ${manifest}`]),
      ...(after === undefined ? [] : [sql`persistence_id > ${after}`])
    ]
    return sql`
      SELECT ${columns} FROM (
        SELECT *, sum(octet_length(state_payload)) OVER (ORDER BY persistence_id) - octet_length(state_payload) AS before
        FROM (SELECT * FROM ${table} WHERE ${sql.and(filters)} ORDER BY persistence_id LIMIT ${pageSize}) AS page
      ) AS sized
      WHERE before < ${pageBytes} ORDER BY persistence_id`
  }

  const remove = ({ persistenceId }: ById) => sql`
    DELETE FROM ${table} WHERE persistence_id = ${persistenceId} RETURNING true`

  // Operations

  const statesOf = (statement: Statement<unknown>) =>
    Effect.map(Effect.flatMap(query(statement), decodeStates), (rows) =>
      rows.map((row) => new DurableState(row, { disableChecks: true }))
    )

  const write = operation.fn(
    "writeState",
    Write,
    Effect.fnUntraced(function* (state) {
      const { onDuplicate = "ignore", persistenceId, versionNumber } = state
      const [current] = yield* statesOf(writeNewer(state))
      if (current === undefined || (onDuplicate === "ignore" && isSame(current, state))) return
      return yield* new StaleState({ persistenceId, attempted: versionNumber, current })
    })
  )

  const get = operation.fn("getLatestState", ById, (id) =>
    Effect.map(statesOf(select(id)), (states) => Option.fromUndefinedOr(states[0]))
  )

  const getAll = operation.fn("getStates", ByIds, (ids) =>
    Effect.map(statesOf(selectAll(ids)), (states) => {
      const byId = new Map(states.map((state) => [state.persistenceId, state]))
      return [...new Set(ids.persistenceIds)].flatMap((id) => byId.get(id) ?? [])
    })
  )

  const list = operation.stream("listStates", Selection, (selection) =>
    Stream.paginate(undefined, (after: string | undefined) =>
      Effect.map(statesOf(selectPage(selection, after)), (page) => [
        page,
        Option.map(Option.fromUndefinedOr(page.at(-1)), ({ persistenceId }) => persistenceId)
      ])
    )
  )

  const deleteById = operation.fn("deleteState", ById, (id) => Effect.map(query(remove(id)), (rows) => rows.length > 0))

  return DurableStateStore.of({
    writeState: (state, options) => write({ ...state, ...options }),
    overwriteState: operation.fn("overwriteState", DurableState, (state) => Effect.asVoid(query(upsert(state)))),
    getLatestState: (persistenceId) => get({ persistenceId }),
    getStates: (persistenceIds) => getAll({ persistenceIds }),
    listStates: (selection = {}) => list(selection),
    deleteState: (persistenceId) => deleteById({ persistenceId }),
    ping: operation.effect("ping", Effect.asVoid(query(sql`SELECT FROM ${table} LIMIT 1`)))
  })
})

export const layer: Layer.Layer<DurableStateStore, never, PostgresDatabase> = Layer.effect(DurableStateStore, make)
