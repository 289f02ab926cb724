/** `DurableStateStore` on Postgres. */
import { Effect, Layer, Option, Stream } from "effect"
import { type ById, type ByIds, type DurableState, type Selection } from "../DurableState.ts"
import { DurableStateStore, fromDriver } from "../DurableStateStore.ts"
import { readCommitted } from "./database/Isolation.ts"
import { PostgresDatabase, type Runnable } from "./database/PostgresDatabase.ts"
import { columns, stateDecoder } from "./states/StateRow.ts"
import * as Writing from "./states/Writing.ts"

/** How many states `listStates` reads in a page at most. */
const pageSize = 500
/** About how many bytes of payload `listStates` reads in a page at most. */
const pageBytes = 4 * 1024 * 1024

export const make = Effect.gen(function* () {
  const { fixed, names, query, sql, tables } = yield* PostgresDatabase
  const table = tables.states
  const decode = stateDecoder(names.states)
  const writing = yield* Writing.make

  // Statements

  const selected = sql.literal(columns)

  const select = ({ persistenceId }: ById) => fixed`
    SELECT ${selected} FROM ${table} WHERE persistence_id::text = ${persistenceId}`

  const selectAll = ({ persistenceIds }: ByIds) => sql`
    SELECT ${selected} FROM ${table} WHERE persistence_id::text = ANY(${persistenceIds}::text[])`

  // Pages follow the primary key, whatever the filter is: all pages together cost one walk along that index. Postgres knows
  // the size of a payload without reading it.
  const selectPage = ({ manifest, shard }: Selection, after: string | undefined) => {
    const filters = [
      ...(shard === undefined ? [] : [sql`shard_number = ${BigInt(shard)}`]),
      ...(manifest === undefined ? [] : [sql`state_manifest::text = ${manifest}`]),
      ...(after === undefined ? [] : [sql`persistence_id::text > ${after}`])
    ]
    return sql`
      SELECT ${selected} FROM (
        SELECT *, sum(octet_length(state_payload)) OVER (ORDER BY persistence_id) - octet_length(state_payload) AS before
        FROM (SELECT * FROM ${table} WHERE ${sql.and(filters)} ORDER BY persistence_id LIMIT ${pageSize}) AS page
      ) AS sized
      WHERE before < ${pageBytes} ORDER BY persistence_id`
  }

  const deleteOne = ({ persistenceId }: ById) => sql`
    DELETE FROM ${table} WHERE persistence_id::text = ${persistenceId} AND ${sql.literal(readCommitted)} RETURNING true`

  // Operations

  const inOrder = (states: ReadonlyArray<DurableState>, { persistenceIds }: Pick<ByIds, "persistenceIds">) => {
    const byId = new Map(states.map((state) => [state.persistenceId, state]))
    return [...new Set(persistenceIds)].flatMap((id) => byId.get(id) ?? [])
  }

  const statesOf = (statement: Runnable) => Effect.flatMap(query(statement), decode)

  return yield* fromDriver("postgres", {
    ...writing,
    get: (id) => Effect.map(statesOf(select(id)), (states) => Option.fromUndefinedOr(states[0])),
    getAll: (ids) => Effect.map(statesOf(selectAll(ids)), (states) => inOrder(states, ids)),
    overwriteAndGet: (both) => Effect.map(writing.overwriteAndGet(both), (states) => inOrder(states, both)),
    list: (selection) =>
      Stream.paginate(undefined, (after: string | undefined) =>
        Effect.map(statesOf(selectPage(selection, after)), (page) => [
          page,
          Option.map(Option.fromUndefinedOr(page.at(-1)), ({ persistenceId }) => persistenceId)
        ])
      ),
    remove: (id) => Effect.map(query(deleteOne(id)), (rows) => rows.length > 0),
    ping: Effect.asVoid(query(sql`SELECT FROM ${table} LIMIT 1`))
  })
})

export const layer: Layer.Layer<DurableStateStore, never, PostgresDatabase> = Layer.effect(DurableStateStore, make)
