/**
 * Which of the two tables an operation is about. Messages of queues are in a table of their own, unless the option `queues` has
 * them share RetrySpool's.
 */
import { Effect, type Stream } from "effect"
import { Statement } from "effect/sql"
import {
  type Forget,
  type Heartbeat,
  type Iterate,
  type List,
  type Purge,
  type Recover,
  type Selection,
  type Settle
} from "../../SpoolArguments.ts"
import { inOrderOf, type LeaseLost, type Unsettled } from "../../SpoolErrors.ts"
import { type Lease, type SpoolMessage } from "../../SpoolMessage.ts"
import type { Reason } from "../../StoreError.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as Listing from "./Listing.ts"
import * as Recovering from "./Recovering.ts"
import * as RememberedIds from "./RememberedIds.ts"
import * as Settling from "./Settling.ts"
import * as SpoolTable from "./SpoolTable.ts"

type Table = SpoolTable.SpoolTable

export interface Queues {
  /** The table of RetrySpool's messages, which are in no queue. */
  readonly spool: Table
  /** The table of queues: the same one if they share it. */
  readonly messages: Table
  /** Both, to be read by the state of messages. */
  readonly all: Table
  /** How outcomes are settled in one of them. */
  readonly settlingOf: (table: Table) => Settling.Settling
}

const columns = Statement.fragment([
  Statement.literal(
    "queue, id, state, attempts, max_attempts, next_retry, created, updated, last_error, size, priority, headers, " +
      "retry_policy_name, payload"
  )
])

export const make = Effect.gen(function* () {
  const { extras, sql } = yield* PostgresDatabase
  const spool = yield* SpoolTable.make("spool")
  const ofSpool = yield* Settling.make(spool)
  if (extras.queues === "shared") return { spool, messages: spool, all: spool, settlingOf: () => ofSpool }
  const messages = yield* SpoolTable.make("messages")
  const ofMessages = yield* Settling.make(messages)
  const settlingOf = (table: Table) => (table === spool ? ofSpool : ofMessages)
  // The planner looks through this, and uses the indexes of both tables, in their order.
  const both = sql`(
    SELECT ${columns} FROM ${messages.table} UNION ALL SELECT ${columns} FROM ${spool.table}
  ) AS message`
  const all: Table = { ...messages, name: `${messages.name} or ${spool.name}`, table: both, isOfQueues: false }
  return { spool, messages, all, settlingOf }
})

/** The table of a message, or of the queue of this name. */
export const tableOf = ({ messages, spool }: Queues, { queue }: { readonly queue?: string }): Table =>
  queue === undefined ? spool : messages

/** The tables to be read for the messages of one queue, or of all queues. */
const readable = (queues: Queues, { queue }: Selection): Table =>
  queue === undefined ? queues.all : tableOf(queues, { queue })

export const list = (queues: Queues, input: List) => Listing.list(readable(queues, input), input)

export const iterate = (queues: Queues, input: Iterate): Stream.Stream<SpoolMessage, Reason> =>
  Listing.iterate(readable(queues, input), input)

export const count = (queues: Queues, input: Selection) => Listing.count(readable(queues, input), input)

/** The tables in which messages of the queue, or of all queues, can change. */
const changeable = ({ messages, spool }: Queues, queue: string | undefined): ReadonlyArray<Table> =>
  messages === spool ? [spool] : queue === undefined ? [messages, spool] : [messages]

export const purge = Effect.fnUntraced(function* (queues: Queues, input: Purge) {
  let purged = 0
  for (const table of changeable(queues, input.queue)) {
    const limit = input.limit - purged
    if (limit > 0) purged += yield* Listing.purge(table, { ...input, limit })
  }
  return purged
})

/**
 * RetrySpool's table comes last. It has messages of queues that processes of an earlier version have claimed there: once they
 * are given up, a trigger moves them to the table of queues.
 */
export const recover = Effect.fnUntraced(function* (queues: Queues, input: Recover) {
  const recovered: Array<SpoolMessage> = []
  for (const table of queues.messages === queues.spool ? [queues.spool] : [queues.messages, queues.spool]) {
    const limit = input.limit - recovered.length
    if (limit > 0) recovered.push(...(yield* Recovering.recover(table, { ...input, limit })))
  }
  return recovered
})

export const forget = ({ messages, spool }: Queues, input: Forget): Effect.Effect<number, Reason> =>
  messages === spool ? Effect.succeed(0) : RememberedIds.forget(messages, input)

// Leases of both tables

const isOfQueues = ({ queue }: Lease) => queue !== undefined

/** Runs an operation on the leases of each table, which almost always is one. Returns the results. */
const byTable = <L extends Lease, A>(
  queues: Queues,
  leases: ReadonlyArray<L>,
  operation: (table: Table, leases: ReadonlyArray<L>) => Effect.Effect<A, Reason>
): Effect.Effect<ReadonlyArray<A>, Reason> => {
  const [first] = leases
  if (first === undefined) return Effect.succeed([])
  if (queues.messages === queues.spool || leases.every((lease) => isOfQueues(lease) === isOfQueues(first))) {
    return Effect.map(operation(tableOf(queues, first), leases), (one) => [one])
  }
  const { false: ofNone = [], true: ofQueues = [] } = Object.groupBy(leases, (lease) => `${isOfQueues(lease)}`)
  return Effect.all([operation(queues.messages, ofQueues), operation(queues.spool, ofNone)])
}

const lostOf = (leases: ReadonlyArray<Lease>, lost: ReadonlyArray<ReadonlyArray<LeaseLost>>) =>
  lost.length > 1 ? inOrderOf(leases, lost.flat()) : (lost[0] ?? [])

export const settle = (queues: Queues, { outcomes }: Settle) =>
  Effect.map(
    byTable(queues, outcomes, (table, some) => queues.settlingOf(table).settle({ outcomes: some })),
    (lost) => lostOf(outcomes, lost)
  )

export const trySettle = (queues: Queues, { outcomes }: Settle): Effect.Effect<Unsettled, Reason> =>
  Effect.map(
    byTable(queues, outcomes, (table, some) => queues.settlingOf(table).trySettle({ outcomes: some })),
    (all) => ({
      lost: lostOf(
        outcomes,
        all.map(({ lost }) => lost)
      ),
      locked: inOrderOf(
        outcomes,
        all.flatMap(({ locked }) => locked)
      )
    })
  )

export const renew = (queues: Queues, { lease, leases }: Heartbeat) =>
  Effect.map(
    byTable(queues, leases, (table, some) => Settling.renew(table, { leases: some, lease })),
    (lost) => lostOf(leases, lost)
  )
