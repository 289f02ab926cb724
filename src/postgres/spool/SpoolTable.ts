/**
 * A table of messages on Postgres: its names, how its rows are decoded, what statements about it have in common, and how
 * workers hear of it. All parts of `SpoolStore` on Postgres are functions of it.
 *
 * There are two. The table of queues has a key of queue and id, and remembers ids. RetrySpool's table has the messages in no
 * queue, and ids are those of the whole table.
 */
import { Effect, Result, Schema, type Stream } from "effect"
import { Statement } from "effect/sql"
import type { LargeIntegers } from "../../internal/ExactJson.ts"
import { type Key as KeySchema, keyText, type SpoolMessage } from "../../SpoolMessage.ts"
import type { CorruptRow, Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import { readCommitted } from "../database/Isolation.ts"
import { PostgresDatabase, type Runnable } from "../database/PostgresDatabase.ts"
import { isTextTooLong } from "../database/Reasons.ts"
import { fixedBy } from "../database/Statements.ts"
import * as Wakeups from "../wakeups/Wakeups.ts"
import { LockWarnings } from "./LockWarnings.ts"
import { bareColumns, type Columns, columnsOf, type Decoded, messageDecoder } from "./MessageRow.ts"
import { QueueStarts } from "./QueueStarts.ts"

/** The parts of `PostgresDatabase` that the parts of the store use, too. */
type Database = Pick<PostgresDatabase["Service"], "fixed" | "inTransaction" | "query" | "sql" | "whether">

export interface SpoolTable extends Database {
  /** Its name. */
  readonly name: string

  /** The same, qualified and quoted. */
  readonly table: Statement.Fragment

  /** Whether it is the table of queues: an id belongs to its queue, and can be remembered. Else it is RetrySpool's. */
  readonly isOfQueues: boolean

  /** The name of the database's function for claims, qualified and quoted. */
  readonly claimFunction: Statement.Fragment

  /** The parts of a message. */
  readonly columns: Columns

  /** Runs a statement and decodes its rows by the schema. */
  readonly rows: <Row extends Schema.ConstraintDecoder<unknown>>(
    statement: Runnable,
    schema: Row
  ) => Effect.Effect<Array<Row["Type"]>, Reason>

  /** Runs a statement and returns the texts of the keys in its rows, which have a queue and an id: see `keyText`. */
  readonly keys: (statement: Runnable) => Effect.Effect<Array<string>, Reason>

  /** The messages of rows, and what is wrong with each row that does not fit the model. */
  readonly decodeEach: (rows: ReadonlyArray<unknown>) => Decoded

  /** The messages of rows. It fails with the first row that does not fit the model. */
  readonly decodeMessages: (rows: ReadonlyArray<unknown>) => Effect.Effect<Array<SpoolMessage>, CorruptRow>

  /** Rows as the schema decodes them. */
  readonly decodeAs: <Row extends Schema.ConstraintDecoder<unknown>>(
    schema: Row,
    rows: ReadonlyArray<unknown>
  ) => Effect.Effect<Array<Row["Type"]>, CorruptRow>

  /** What becomes of integers beyond 2^53 in payloads. */
  readonly integers: LargeIntegers

  /** Which transactions it was said of that they keep messages locked. */
  readonly lockWarnings: LockWarnings

  /** The queues in which this process has settled messages whose ids are to be remembered. */
  readonly remembering: Set<string>

  /** Where the incoming messages of each queue begin. `announce` forgets them. */
  readonly queueStarts: QueueStarts

  /** After the commit, wakes the workers of all processes: messages are ready, and may be older than others that wait. */
  readonly announce: Effect.Effect<void>

  /** The same for messages that cannot be older than the incoming ones that wait: where queues begin stays known. */
  readonly announceNewest: Effect.Effect<void>

  /** Says that there were messages to claim. */
  readonly found: () => void

  /** A wake-up once it listens, and then after each announcement, of whichever process. */
  readonly changes: Stream.Stream<void, Reason>
}

const Key = Schema.Struct({ queue: Schema.NullOr(Schema.String), id: Schema.String })

/** The table of queues, or RetrySpool's. */
export const make = Effect.fnUntraced(function* (which: "messages" | "spool") {
  const { integers, inTransaction, names, query, schema, sql, tables, whether } = yield* PostgresDatabase
  const wakeups = yield* Wakeups.Wakeups
  const name = names[which]
  const queueStarts = new QueueStarts()
  const decodeKeys = decodeRows(Key, name, ["id"])
  const decodeEach = messageDecoder(name, integers)

  const decodeMessages = (rows: ReadonlyArray<unknown>) =>
    Effect.suspend(() => {
      const { corrupt, messages } = decodeEach(rows)
      return corrupt[0] === undefined ? Effect.succeed(messages) : Effect.fail(corrupt[0])
    })

  const decodeAs: SpoolTable["decodeAs"] = (row, rows) => decodeRows(row, name, ["id"])(rows)

  const table: SpoolTable = {
    // Of this table: a template is remembered with the name that it was first put together with.
    fixed: fixedBy(sql),
    inTransaction,
    query,
    sql,
    whether,
    name,
    table: tables[which],
    isOfQueues: which === "messages",
    claimFunction: sql.literal(qualify(schema, `${name}_claim`)),
    integers,
    columns: columnsOf(sql),
    rows: (statement, row) => Effect.flatMap(query(statement), (rows) => decodeAs(row, rows)),
    keys: (statement) => Effect.map(Effect.flatMap(query(statement), decodeKeys), (rows) => rows.map(keyText)),
    decodeEach,
    decodeMessages,
    decodeAs,
    lockWarnings: new LockWarnings(),
    remembering: new Set(),
    queueStarts,
    announce: sql.afterCommit(
      Effect.sync(() => {
        queueStarts.forgetAll()
        wakeups.announce("spool")
      })
    ),
    announceNewest: sql.afterCommit(Effect.sync(() => wakeups.announce("spool"))),
    found: () => wakeups.found("spool"),
    // Both tables have one wake-up: processes of earlier versions, too, announce what moves from one table to the other.
    changes: wakeups.changes("spool")
  }
  return table
})

// Reading messages

const readEach = Effect.fnUntraced(function* (
  spool: SpoolTable,
  statement: (columns: Columns) => Runnable,
  { read, sent }: Columns,
  failed: Reason
): Effect.fn.Return<ReadonlyArray<unknown>, Reason> {
  const { name, query, sql, table } = spool
  const rows: Array<unknown> = []
  // After the failure nothing can be read in a transaction of the caller: then it fails for what failed before.
  const bare = yield* Effect.mapError(query(statement(bareColumns)), () => failed)
  const keys = yield* decodeRows(Key, name, ["id"])(bare)
  for (const [index, { id, queue }] of keys.entries()) {
    const isOne = hasKey(spool, { id, queue: queue ?? "" })
    const one = sql`SELECT ${sent} FROM (SELECT ${read} FROM ${table} WHERE ${isOne} OFFSET 0) AS message`
    const found = yield* Effect.result(query(one))
    if (Result.isSuccess(found)) rows.push(...found.success)
    else if (isTextTooLong(found.failure)) rows.push(bare[index])
    else return yield* found.failure
  }
  return rows
})

/**
 * Runs a statement about messages, and returns its rows. Another program can write JSON that is short as it is stored, and as text
 * longer than the server can make. Then the statement fails as a whole. So it is run once more without any JSON, and each
 * message is read by itself.
 */
const rowsOf = (spool: SpoolTable, statement: (columns: Columns) => Runnable, columns: Columns) =>
  Effect.catch(spool.query(statement(columns)), (reason) =>
    isTextTooLong(reason) ? readEach(spool, statement, columns, reason) : Effect.fail(reason)
  )

/** Runs a statement, and returns its messages: see `decodeMessages`. */
export const messagesOf = (
  spool: SpoolTable,
  statement: (columns: Columns) => Runnable,
  columns: Columns = spool.columns
) => Effect.flatMap(rowsOf(spool, statement, columns), spool.decodeMessages)

/** Runs a statement, and returns its messages, and what is wrong with each row that does not fit the model. */
export const eachMessageOf = (spool: SpoolTable, statement: (columns: Columns) => Runnable) =>
  Effect.map(rowsOf(spool, statement, spool.columns), spool.decodeEach)

// Parts of statements

const text = (part: string) => Statement.fragment([Statement.literal(part)])

/** Each change is at least a millisecond after the one before, so that `updated`, as it is read, tells them apart. */
export const touched = text("updated = greatest(clock_timestamp(), updated + interval '1 millisecond')")

/** The condition of a statement that would find fewer messages with an old snapshot. */
export const committed = text(readCommitted)

/** What becomes of the lease of a message that is not active any more. */
export const noLease = text("lease_owner = NULL, lease_until = NULL")

/** The queue of a row, which is empty for a message in no queue. */
const queue = text("queue")
const queueOrNone = text("coalesce(queue, '')")

/**
 * The condition that a message is in the queue of this name, or without a name in no queue, for statements that look for ready
 * messages, or for a key: each table has indexes on this expression.
 */
export const inQueue = ({ isOfQueues, sql }: SpoolTable, name = "") =>
  sql`${isOfQueues ? queue : queueOrNone} = ${name}`

/** The state of a row that is no message any more, and remembers the id of one: see `RememberedIds`. */
const isMessage = text("AND state <> 6")

/** The condition that a row is the message with this key. */
export const hasKey = (table: SpoolTable, key: typeof KeySchema.Encoded) =>
  table.sql`id::text = ${key.id} AND ${inQueue(table, key.queue)} ${table.isOfQueues ? isMessage : text("")}`

/** The condition that the row `message` is the one whose key the row of this name has. */
export const isSame = ({ isOfQueues }: SpoolTable, other: string) =>
  text(
    isOfQueues
      ? `message.queue = ${other}.queue AND message.id::text = ${other}.id::text`
      : `message.id::text = ${other}.id::text`
  )

/**
 * The same condition for statements that look for messages by their state. In the table of queues no index has this expression:
 * the planner could take the primary key, which begins with the queue, and read all messages of the queue.
 */
export const filterQueue = ({ sql }: SpoolTable, name = "") => sql`${queueOrNone} = ${name}`

/** `AND` and that condition; without a name nothing, which selects all queues. */
export const andFilterQueue = (table: SpoolTable, queue: string | undefined) =>
  queue === undefined ? text("") : table.sql`AND ${filterQueue(table, queue)}`
