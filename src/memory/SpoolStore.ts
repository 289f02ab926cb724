/** `SpoolStore` in memory. */
import { Clock, Duration, Effect, Layer, Option, type Order, Stream } from "effect"
import * as Operation from "../internal/Operation.ts"
import {
  ById,
  Claim,
  Heartbeat,
  Iterate,
  type Lease,
  LeaseLost,
  List,
  MessageExists,
  MessageNotFound,
  Messages,
  Move,
  NewMessage,
  Purge,
  Recover,
  Selection,
  Settle,
  SpoolStore,
  type State,
  StateConflict,
  Update,
  UpdateConflict
} from "../SpoolStore.ts"
import type { Reason } from "../StoreError.ts"
import { MemoryDatabase } from "./MemoryDatabase.ts"
import {
  byAge,
  byId,
  byPriorityAndAge,
  byPriorityAndDue,
  bySortField,
  changed,
  claimed,
  dueTime,
  leaseEnd,
  moved,
  type Now,
  recovered,
  renewed,
  rowOf,
  settled,
  type SpoolRow,
  toMessage
} from "./SpoolRow.ts"
import type { Transaction } from "./Transaction.ts"

/** How long after its last change `untilReady` counts on an active message without a lease to be given up. */
const { grace } = Recover.make({})

export const make = Effect.gen(function* () {
  const { listener, statement, tables } = yield* MemoryDatabase
  const { spool } = tables
  const operation = yield* Operation.make("SpoolStore", "memory")

  let last = 0
  const current = Effect.map(Clock.currentTimeMillis, (clock): Now => {
    last = Math.max(clock, last + 0.001)
    return { clock, stamp: last }
  })

  const select = (transaction: Transaction, keep: (row: SpoolRow) => boolean, order: Order.Order<SpoolRow>) =>
    transaction
      .entries(spool)
      .flatMap(({ row }) => (keep(row) ? [row] : []))
      .sort(order)

  const put = (transaction: Transaction, row: SpoolRow) => transaction.set(spool, row.id, row)

  /** The row of a message, held: what a statement about one id begins with. */
  const hold = (transaction: Transaction, id: string) =>
    Effect.flatMap(transaction.holdRow(spool, id), (row) =>
      row === undefined ? Effect.fail(new MessageNotFound({ id })) : Effect.succeed(row)
    )

  const store = operation.fn("storeMeta", NewMessage, (message) =>
    statement(
      Effect.fnUntraced(function* (transaction) {
        const now = yield* current
        if (!(yield* transaction.holdFreePlace(spool, message.id))) return yield* new MessageExists({ id: message.id })
        put(transaction, rowOf(message, now))
      })
    )
  )

  const storeMany = operation.fn("storeMany", Messages, ({ messages }) =>
    statement(
      Effect.fnUntraced(function* (transaction) {
        const rows: Array<SpoolRow> = []
        for (const message of messages) rows.push(rowOf(message, yield* current))
        const exist = new Set<string>()
        for (const row of rows.toSorted(byId)) {
          if (yield* transaction.holdFreePlace(spool, row.id)) put(transaction, row)
          else exist.add(row.id)
        }
        return messages.flatMap(({ id }) => (exist.has(id) ? [new MessageExists({ id })] : []))
      })
    )
  )

  const getMeta = operation.fn("getMeta", ById, ({ id }) =>
    statement((transaction) =>
      Effect.suspend(() => {
        const row = transaction.get(spool, id)
        return row === undefined ? Effect.fail(new MessageNotFound({ id })) : Effect.succeed(toMessage(row))
      })
    )
  )

  const updateMeta = operation.fn("updateMeta", Update, ({ changes, id, ifUpdated }) =>
    statement(
      Effect.fnUntraced(function* (transaction) {
        const unchanged = (row: SpoolRow) => {
          const actual = toMessage(row).updated
          return ifUpdated === undefined || ifUpdated.epochMilliseconds === actual.epochMilliseconds
            ? Effect.succeed(row)
            : Effect.fail(new UpdateConflict({ id, expected: ifUpdated, actual }))
        }
        // One that has changed already is not held, nor waited for.
        const seen = transaction.get(spool, id)
        if (seen !== undefined) yield* unchanged(seen)
        const row = yield* Effect.flatMap(hold(transaction, id), unchanged)
        const next = changed(row, changes, yield* current)
        put(transaction, next)
        return toMessage(next)
      })
    )
  )

  const deleteMeta = operation.fn("deleteMeta", ById, ({ id }) =>
    statement((transaction) => Effect.map(hold(transaction, id), (row) => transaction.set(spool, row.id, undefined)))
  )

  const move = operation.fn("moveToState", Move, ({ changes, from, id, to }) =>
    statement(
      Effect.fnUntraced(function* (transaction) {
        const row = yield* hold(transaction, id)
        if (!from.includes(row.state)) return yield* new StateConflict({ id, expected: from, actual: row.state })
        put(transaction, moved(row, to, changes, yield* current))
      })
    )
  )

  const isIn = (queue: string | undefined) => (row: SpoolRow) => queue === undefined || row.queue === queue

  const list = operation.fn("listMessages", List, ({ limit, offset, queue, since, sortBy, sortOrder, state, total }) =>
    statement((transaction) =>
      Effect.sync(() => {
        const from = since?.epochMilliseconds ?? Number.NEGATIVE_INFINITY
        const keep = (row: SpoolRow) => row.state === state && row.updated >= from && isIn(queue)(row)
        const sorted = select(transaction, keep, bySortField[sortBy])
        const all = sortOrder === "asc" ? sorted : sorted.toReversed()
        return {
          messages: all.slice(offset, offset + limit).map((row) => toMessage(row, false)),
          hasMore: all.length > offset + limit,
          total: total ? Option.some(all.length) : Option.none()
        }
      })
    )
  )

  const iterate = operation.stream("iterate", Iterate, ({ batchSize, queue, state }) =>
    Stream.paginate(undefined, (after: SpoolRow | undefined) =>
      statement((transaction) =>
        Effect.sync(() => {
          const keep = (row: SpoolRow) =>
            row.state === state && isIn(queue)(row) && (after === undefined || byAge(row, after) > 0)
          const batch = select(transaction, keep, byAge).slice(0, batchSize)
          const next = batch.length < batchSize ? Option.none() : Option.fromUndefinedOr(batch.at(-1))
          return [batch.map((row) => toMessage(row, false)), next] as const
        })
      )
    )
  )

  const countByState = operation.fn("countByState", Selection, ({ queue }) =>
    statement((transaction) =>
      Effect.sync(() => {
        const counts = { incoming: 0, active: 0, deferred: 0, hold: 0, bounce: 0, archived: 0 }
        for (const row of select(transaction, isIn(queue), byId)) counts[row.state] += 1
        return counts
      })
    )
  )

  // Claims

  /** Up to `limit` of the rows, but for those that other transactions hold. */
  const holdSome = (transaction: Transaction, rows: ReadonlyArray<SpoolRow>, limit: number) => {
    const held: Array<SpoolRow> = []
    for (const { id } of rows) {
      if (held.length === limit) break
      const row = transaction.tryHoldRow(spool, id)
      if (row !== undefined) held.push(row)
    }
    return held
  }

  const ofQueue = (transaction: Transaction, queue: string | undefined, state: State, order: Order.Order<SpoolRow>) =>
    select(transaction, (row) => row.state === state && row.queue === queue, order)

  const dueAt = (transaction: Transaction, queue: string | undefined, { clock }: Now) =>
    ofQueue(transaction, queue, "deferred", byPriorityAndDue).filter((row) => dueTime(row) <= clock)

  const claim = operation.fn("claim", Claim, ({ lease, limit, owner, queue, reserved = Math.floor(limit / 2) }) =>
    statement(
      Effect.fnUntraced(function* (transaction) {
        const now = yield* current
        const incoming = ofQueue(transaction, queue, "incoming", byPriorityAndAge)
        const room = limit - Math.min(reserved, limit, incoming.length)
        const due = holdSome(transaction, dueAt(transaction, queue, now), room)
        const rows = [...due, ...holdSome(transaction, incoming, limit - due.length)].sort(byPriorityAndAge)
        return rows.map((row) => {
          const next = claimed(row, owner, lease, now)
          put(transaction, next)
          return toMessage(next)
        })
      })
    )
  )

  const isHeld = (row: SpoolRow | undefined, lease: typeof Lease.Type): row is SpoolRow =>
    row?.state === "active" && row.owner === lease.owner && row.attempts === lease.attempt

  /** Does something for each lease that is held, and returns the other ones as lost. */
  const withLeases = <L extends typeof Lease.Type>(
    leases: ReadonlyArray<L>,
    use: (transaction: Transaction, lease: L, now: Now) => Effect.Effect<boolean, Reason>
  ) =>
    statement(
      Effect.fnUntraced(function* (transaction) {
        const now = yield* current
        const lost: Array<LeaseLost> = []
        for (const lease of leases) {
          const { attempt, id, owner } = lease
          const kept = isHeld(transaction.get(spool, id), lease) && (yield* use(transaction, lease, now))
          if (!kept) lost.push(new LeaseLost({ id, owner, attempt }))
        }
        return lost
      })
    )

  const settle = operation.fn("settle", Settle, ({ outcomes }) =>
    withLeases(
      outcomes,
      Effect.fnUntraced(function* (transaction, outcome, now) {
        const row = yield* transaction.holdRow(spool, outcome.id)
        if (!isHeld(row, outcome)) return false
        transaction.set(spool, row.id, settled(row, outcome, now))
        return true
      })
    )
  )

  const heartbeat = operation.fn("heartbeat", Heartbeat, ({ lease, leases }) =>
    withLeases(
      leases,
      Effect.fnUntraced(function* (transaction, { id }, now) {
        const row = transaction.tryHoldRow(spool, id)
        if (row !== undefined) transaction.set(spool, id, renewed(row, lease, now))
        return true
      })
    )
  )

  const recover = operation.fn("recover", Recover, ({ grace, limit, queue }) =>
    statement(
      Effect.fnUntraced(function* (transaction) {
        const now = yield* current
        const keep = (row: SpoolRow) => row.state === "active" && isIn(queue)(row) && leaseEnd(row, grace) <= now.stamp
        return holdSome(transaction, select(transaction, keep, byAge), limit).map((row) => {
          const next = recovered(row, now)
          put(transaction, next)
          return toMessage(next)
        })
      })
    )
  )

  const purge = operation.fn("purge", Purge, ({ limit, olderThan, queue, state }) =>
    statement(
      Effect.fnUntraced(function* (transaction) {
        const { stamp } = yield* current
        const latest = stamp - Duration.toMillis(Duration.fromInputUnsafe(olderThan))
        const keep = (row: SpoolRow) => row.state === state && isIn(queue)(row) && row.updated <= latest
        const rows = holdSome(transaction, select(transaction, keep, byAge), limit)
        for (const { id } of rows) transaction.set(spool, id, undefined)
        return rows.length
      })
    )
  )

  /** The least of the numbers, as a duration, none of them being none. */
  const shortest = (millis: ReadonlyArray<number>) =>
    millis.length === 0 ? Option.none() : Option.some(Duration.millis(Math.max(0, Math.min(...millis))))

  const untilReady = operation.fn("untilReady", Selection, ({ queue }) =>
    statement((transaction) =>
      Effect.map(current, ({ clock }) =>
        shortest([
          ...ofQueue(transaction, queue, "incoming", byId).map(() => 0),
          ...ofQueue(transaction, queue, "deferred", byId).map((row) => dueTime(row) - clock),
          ...ofQueue(transaction, queue, "active", byId).map((row) => leaseEnd(row, grace) - clock)
        ])
      )
    )
  )

  const oldestReady = operation.fn("oldestReady", Selection, ({ queue }) =>
    statement((transaction) =>
      Effect.map(current, (now) => {
        const since = [
          ...ofQueue(transaction, queue, "incoming", byId).map((row) => row.created),
          ...dueAt(transaction, queue, now).map((row) => row.nextRetry)
        ]
        return since.length === 0
          ? Option.none()
          : Option.some(Duration.millis(Math.max(0, now.clock - Math.floor(Math.min(...since)))))
      })
    )
  )

  const ofName = (queue: string | undefined) => (queue === undefined ? {} : { queue })

  return SpoolStore.of({
    storeMeta: store,
    storeMany: (messages) => storeMany({ messages }),
    getMeta: (id) => getMeta({ id }),
    updateMeta: (id, changes, options) => updateMeta({ id, changes, ...options }),
    deleteMeta: (id) => deleteMeta({ id }),
    moveToState: (id, from, to, changes = {}) =>
      move({ id, from: typeof from === "string" ? [from] : from, to, changes }),
    listMessages: (state, options) => list({ ...options, state }),
    iterate: (state, options) => iterate({ ...options, state }),
    countByState: (queue) => countByState(ofName(queue)),
    claim,
    settle: (outcomes) => settle({ outcomes }),
    heartbeat: (leases, lease) => heartbeat({ leases, lease }),
    recover: (options = {}) => recover(options),
    purge,
    untilReady: (queue) => untilReady(ofName(queue)),
    oldestReady: (queue) => oldestReady(ofName(queue)),
    changes: operation.endless("changes", listener.changes(spool)),
    ping: operation.effect(
      "ping",
      statement(() => Effect.void)
    )
  })
})

export const layer: Layer.Layer<SpoolStore, never, MemoryDatabase> = Layer.effect(SpoolStore, make)
