/** `SpoolStore` on Postgres. */
import { DateTime, Effect, Layer, Option, Schema, Stream } from "effect"
import type { Fragment, Statement } from "effect/sql/Statement"
import * as Operation from "../internal/Operation.ts"
import {
  ById,
  type Changes,
  Iterate,
  List,
  MessageNotFound,
  Move,
  Selection,
  SpoolStore,
  type State,
  StateConflict,
  Update,
  UpdateConflict
} from "../SpoolStore.ts"
import { decodeRows } from "./database/DecodeRows.ts"
import { PostgresDatabase } from "./database/PostgresDatabase.ts"
import * as Claiming from "./spool/Claiming.ts"
import { codeOf, columns, columnsWithoutPayload, messageDecoder, StateCode } from "./spool/MessageRow.ts"
import * as Storing from "./spool/Storing.ts"
import * as Wakeups from "./wakeups/Wakeups.ts"

const isWaiting = (state: State) => state === "incoming" || state === "deferred"

/** What came of a move: the state before it, and whether it was one of those to move from. */
const MoveOutcome = Schema.Struct({ state: StateCode, moved: Schema.Boolean })

const Count = Schema.Struct({ state: StateCode, count: Schema.BigInt })

const Total = Schema.Struct({ total: Schema.BigInt })

/** A place in the order of `iterate`, in full precision, which the driver's times do not have. */
const Place = Schema.Struct({ id: Schema.String, micros: Schema.BigInt })

export const make = Effect.gen(function* () {
  const { names, query, sql, tables } = yield* PostgresDatabase
  const operation = yield* Operation.make("SpoolStore", "postgres")
  const wakeups = yield* Wakeups.Wakeups
  const table = tables.spool
  const decodeEach = messageDecoder(names.spool)
  const decodeMoves = decodeRows(MoveOutcome, names.spool, [])
  const decodeCounts = decodeRows(Count, names.spool, [])
  const decodeTotal = decodeRows(Total, names.spool, [])
  const decodePlaces = decodeRows(Place, names.spool, ["id"])

  const lows = new Map<string, Claiming.Low>()
  const announceNew = sql.afterCommit(Effect.sync(() => wakeups.announce("spool")))
  const announce = sql.afterCommit(
    Effect.sync(() => {
      lows.clear()
      wakeups.announce("spool")
    })
  )

  // Statements

  const selected = sql.literal(columns)
  const selectedWithoutPayload = sql.literal(columnsWithoutPayload)

  // A change is at least a millisecond after the one before: so `updated`, as it is read, tells them apart.
  const touched = sql`updated = greatest(clock_timestamp(), updated + interval '1 millisecond')`

  const assignments = (changes: Changes): ReadonlyArray<Fragment> => [
    touched,
    ...(changes.attempts === undefined ? [] : [sql`attempts = ${changes.attempts}`]),
    ...(changes.maxAttempts === undefined ? [] : [sql`max_attempts = ${changes.maxAttempts}`]),
    ...(changes.nextRetry === undefined ? [] : [sql`next_retry = ${DateTime.toDateUtc(changes.nextRetry)}`]),
    ...(changes.lastError === undefined ? [] : [sql`last_error = ${changes.lastError}`]),
    ...(changes.size === undefined ? [] : [sql`size = ${changes.size}`]),
    ...(changes.priority === undefined ? [] : [sql`priority = ${changes.priority}`]),
    ...(changes.headers === undefined ? [] : [sql`headers = ${JSON.stringify(changes.headers)}::jsonb`]),
    ...(changes.retryPolicyName === undefined ? [] : [sql`retry_policy_name = ${changes.retryPolicyName}`])
  ]

  const update = ({ changes, id, ifUpdated }: Update) => sql`
    UPDATE ${table} SET ${sql.csv(assignments(changes))}
    WHERE id = ${id} ${
      ifUpdated === undefined
        ? sql.literal("")
        : sql`AND date_trunc('milliseconds', updated) = ${DateTime.toDateUtc(ifUpdated)}`
    }
    RETURNING ${selected}`

  // FOR UPDATE waits for a concurrent transaction and then sees what it committed, in the same statement.
  const move = ({ changes, from, id, to }: Move) => sql`
    WITH held AS MATERIALIZED (
      SELECT id, state, state = ANY(${from.map(codeOf)}::int[]) AS moves FROM ${table} WHERE id = ${id} FOR UPDATE
    ), moved AS (
      UPDATE ${table} AS message SET ${sql.csv([
        ...assignments(changes),
        sql`state = ${codeOf(to)}`,
        sql`lease_owner = NULL`,
        sql`lease_until = NULL`
      ])}
      FROM held WHERE message.id = held.id AND held.moves
    )
    SELECT state, moves AS moved FROM held`

  const isIn = (queue: string | undefined): ReadonlyArray<Fragment> =>
    queue === undefined ? [] : [sql`coalesce(queue, '') = ${queue}`]

  const listed = ({ queue, since, state }: List) =>
    sql.and([
      sql`state = ${codeOf(state)}`,
      ...isIn(queue),
      ...(since === undefined ? [] : [sql`updated >= ${DateTime.toDateUtc(since)}`])
    ])

  const page = (list: List) => {
    const order = sql.literal(list.sortOrder)
    return sql`
      SELECT ${selectedWithoutPayload} FROM ${table} WHERE ${listed(list)}
      ORDER BY ${sql.literal(list.sortBy)} ${order}, id COLLATE "C" ${order} LIMIT ${list.limit + 1} OFFSET ${list.offset}`
  }

  const batch = ({ batchSize, queue, state }: Iterate, after: typeof Place.Type | undefined) => sql`
    SELECT ${selectedWithoutPayload}, (extract(epoch FROM created) * 1000000)::bigint AS micros FROM ${table}
    WHERE ${sql.and([
      // The state is written out: the planner has to know that one value of the index's first column is meant.
      sql`state = ${codeOf(state)}`,
      ...isIn(queue),
      ...(after === undefined
        ? []
        : [
            sql`(created, id COLLATE "C") > ('epoch'::timestamptz + ${after.micros}::bigint * interval '1 microsecond', ${after.id})`
          ])
    ])}
    ORDER BY created, id COLLATE "C" LIMIT ${batchSize}`

  // Operations

  const decodeMessages = (rows: ReadonlyArray<unknown>) =>
    Effect.suspend(() => {
      const { corrupt, messages } = decodeEach(rows)
      return corrupt[0] === undefined ? Effect.succeed(messages) : Effect.fail(corrupt[0])
    })

  const messagesOf = (statement: Statement<unknown>) => Effect.flatMap(query(statement), decodeMessages)

  const find = Effect.fnUntraced(function* (id: string) {
    const [message] = yield* messagesOf(sql`SELECT ${selected} FROM ${table} WHERE id = ${id}`)
    return message ?? (yield* new MessageNotFound({ id }))
  })

  const getMeta = operation.fn("getMeta", ById, ({ id }) => find(id))

  const updateMeta = operation.fn(
    "updateMeta",
    Update,
    Effect.fnUntraced(function* (input) {
      const [message] = yield* messagesOf(update(input))
      if (message === undefined) {
        const { updated } = yield* find(input.id)
        return yield* new UpdateConflict({ id: input.id, expected: input.ifUpdated ?? updated, actual: updated })
      }
      if (isWaiting(message.state)) yield* announce
      return message
    })
  )

  const deleteMeta = operation.fn(
    "deleteMeta",
    ById,
    Effect.fnUntraced(function* ({ id }) {
      const [deleted] = yield* query(sql`DELETE FROM ${table} WHERE id = ${id} RETURNING id`)
      if (deleted === undefined) return yield* new MessageNotFound({ id })
    })
  )

  const moveToState = operation.fn(
    "moveToState",
    Move,
    Effect.fnUntraced(function* (input) {
      const { from, id, to } = input
      const [outcome] = yield* Effect.flatMap(query(move(input)), decodeMoves)
      if (outcome === undefined) return yield* new MessageNotFound({ id })
      if (!outcome.moved) return yield* new StateConflict({ id, expected: from, actual: outcome.state })
      if (isWaiting(to)) yield* announce
    })
  )

  const listMessages = operation.fn(
    "listMessages",
    List,
    Effect.fnUntraced(function* (list) {
      const messages = yield* messagesOf(page(list))
      const counted = list.total
        ? yield* Effect.flatMap(query(sql`SELECT count(*) AS total FROM ${table} WHERE ${listed(list)}`), decodeTotal)
        : []
      return {
        messages: messages.slice(0, list.limit),
        hasMore: messages.length > list.limit,
        total: Option.map(Option.fromUndefinedOr(counted[0]), ({ total }) => Number(total))
      }
    })
  )

  const iterate = operation.stream("iterate", Iterate, (input) =>
    Stream.paginate(undefined, (after: typeof Place.Type | undefined) =>
      Effect.gen(function* () {
        const rows = yield* query(batch(input, after))
        const messages = yield* decodeMessages(rows)
        const [next] = yield* decodePlaces(rows.length < input.batchSize ? [] : rows.slice(-1))
        return [messages, Option.fromUndefinedOr(next)] as const
      })
    )
  )

  const countByState = operation.fn(
    "countByState",
    Selection,
    Effect.fnUntraced(function* ({ queue }) {
      const counts: Record<State, number> = { incoming: 0, active: 0, deferred: 0, hold: 0, bounce: 0, archived: 0 }
      const filter = sql.and([sql`true`, ...isIn(queue)])
      const rows = yield* query(sql`SELECT state, count(*) FROM ${table} WHERE ${filter} GROUP BY state`)
      for (const { count, state } of yield* decodeCounts(rows)) counts[state] = Number(count)
      return counts
    })
  )

  const storing = yield* Storing.make({ announce, announceNew, operation })
  const claiming = yield* Claiming.make({ announce, announceNew, decodeEach, lows, operation, touched })

  const ofName = (queue: string | undefined) => (queue === undefined ? {} : { queue })

  return SpoolStore.of({
    ...storing,
    getMeta: (id) => getMeta({ id }),
    updateMeta: (id, changes, options) => updateMeta({ id, changes, ...options }),
    deleteMeta: (id) => deleteMeta({ id }),
    moveToState: (id, from, to, changes = {}) =>
      moveToState({ id, from: typeof from === "string" ? [from] : from, to, changes }),
    listMessages: (state, options) => listMessages({ ...options, state }),
    iterate: (state, options) => iterate({ ...options, state }),
    countByState: (queue) => countByState(ofName(queue)),
    ...claiming,
    untilReady: (queue) => claiming.untilReady(ofName(queue)),
    oldestReady: (queue) => claiming.oldestReady(ofName(queue)),
    changes: operation.endless("changes", wakeups.changes("spool")),
    ping: operation.effect("ping", Effect.asVoid(query(sql`SELECT FROM ${table} LIMIT 1`)))
  })
})

export const layer: Layer.Layer<SpoolStore, never, PostgresDatabase> = Layer.provide(
  Layer.effect(SpoolStore, make),
  Wakeups.layer
)
