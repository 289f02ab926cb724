/** `OffsetStore` on Postgres. */
import { Effect, Layer, Option, Schema, Stream } from "effect"
import { type Projection, type Reset, type Selection, type Step } from "../Offset.ts"
import { fromDriver, Offset, OffsetConflict, OffsetStore, type ProjectionId } from "../OffsetStore.ts"
import { decodeRows, NumberFromBigInt } from "./database/DecodeRows.ts"
import { readCommitted } from "./database/Isolation.ts"
import { PostgresDatabase, type Runnable } from "./database/PostgresDatabase.ts"
import * as Writing from "./offsets/Writing.ts"
import * as Wakeups from "./wakeups/Wakeups.ts"

/** How many offsets `listOffsets` reads in a page. */
const pageSize = 500

/** A row of the table, as `columns` names its parts. */
const Row = Schema.Struct({
  ...Offset.fields,
  shardNumber: NumberFromBigInt.pipe(Schema.decodeTo(Offset.fields.shardNumber))
})

/**
 * The outcome of a step: the offset that is stored now, and whether this step moved it there. `stored` is null where
 * another transaction deleted the row while the step waited for it.
 */
const Outcome = Schema.Struct({ stored: Schema.NullOr(Offset.fields.value), moved: Schema.Boolean })

const Count = Schema.Struct({ count: NumberFromBigInt })

// Statements

const statementsOf = ({ fixed, sql, tables }: PostgresDatabase["Service"]) => {
  const table = tables.offsets
  const committed = sql.literal(readCommitted)

  const columns = sql.literal(
    `projection_name AS "projectionName", shard_number AS "shardNumber", current_offset AS value, timestamp`
  )

  // RETURNING shows a row that was there already only if the statement updates it, so it updates the row to itself. The
  // row's xmax tells the two apart: it is 0 in a row that this statement inserted.
  const insert = ({ projectionName, shardNumber, timestamp, to }: Step) => fixed`
    INSERT INTO ${table} AS offsets (projection_name, shard_number, current_offset, timestamp)
    VALUES (${projectionName}, ${shardNumber}, ${to}, ${timestamp})
    ON CONFLICT (projection_name, shard_number) DO UPDATE SET current_offset = offsets.current_offset
    RETURNING current_offset AS stored, xmax = 0 AS moved`

  // The step of a runner that is alone with its shard. It has half the cost of `update`, which also finds what is stored.
  const move = (from: bigint, { projectionName, shardNumber, timestamp, to }: Step) => fixed`
    UPDATE ${table} SET current_offset = ${to}, timestamp = ${timestamp}
    WHERE projection_name::text = ${projectionName} AND shard_number = ${shardNumber} AND current_offset = ${from}
    RETURNING current_offset AS stored, true AS moved`

  // FOR UPDATE waits for a concurrent transaction and then sees what that transaction committed, in the same statement. It
  // does not see a row that was inserted in the place of a deleted one, as eGo writes them. Then only `seen`, which does
  // not wait, has a row.
  const update = (from: bigint, { projectionName, shardNumber, timestamp, to }: Step) => sql`
    WITH held AS MATERIALIZED (
      SELECT current_offset FROM ${table}
      WHERE projection_name::text = ${projectionName} AND shard_number = ${shardNumber} FOR UPDATE
    ), moved AS (
      UPDATE ${table} AS offsets SET current_offset = ${to}, timestamp = ${timestamp} FROM held
      WHERE projection_name::text = ${projectionName} AND shard_number = ${shardNumber} AND held.current_offset = ${from}
      RETURNING offsets.current_offset
    )
    SELECT coalesce(moved.current_offset, held.current_offset) AS stored, moved.current_offset IS NOT NULL AS moved
    FROM (
      SELECT FROM ${table} WHERE projection_name::text = ${projectionName} AND shard_number = ${shardNumber}
    ) AS seen LEFT JOIN held ON true LEFT JOIN moved ON true WHERE ${committed}`

  const select = ({ projectionName, shardNumber }: ProjectionId) => fixed`
    SELECT ${columns} FROM ${table} WHERE projection_name::text = ${projectionName} AND shard_number = ${shardNumber}`

  const selectPage = ({ projectionName }: Selection, after: ProjectionId | undefined) => {
    // Sorts by code point, as every backend sorts names, whatever the database's collation is.
    const name = sql.literal(`projection_name::text COLLATE "C"`)
    const filters = [
      ...(projectionName === undefined ? [] : [sql`projection_name::text = ${projectionName}`]),
      ...(after === undefined ? [] : [sql`(${name}, shard_number) > (${after.projectionName}, ${after.shardNumber})`])
    ]
    return sql`
      SELECT ${columns} FROM ${table} WHERE ${sql.and(filters)} ORDER BY ${name}, shard_number LIMIT ${pageSize}`
  }

  // Rows are locked in order before they are changed, so that two such statements cannot block each other in a circle.
  const locked = (projectionName: string) => sql`
    held AS MATERIALIZED (
      SELECT projection_name, shard_number FROM ${table}
      WHERE projection_name::text = ${projectionName} ORDER BY shard_number FOR UPDATE
    )`

  const updateAll = ({ projectionName, timestamp, value }: Reset) => sql`
    WITH ${locked(projectionName)}, changed AS (
      UPDATE ${table} AS offsets SET current_offset = ${value}, timestamp = ${timestamp} FROM held
      WHERE offsets.projection_name::text = held.projection_name::text AND offsets.shard_number = held.shard_number
      RETURNING 1
    )
    SELECT count(*) FROM changed WHERE ${committed}`

  const deleteAll = ({ projectionName }: Projection) => sql`
    WITH ${locked(projectionName)}, changed AS (
      DELETE FROM ${table} AS offsets USING held
      WHERE offsets.projection_name::text = held.projection_name::text AND offsets.shard_number = held.shard_number
      RETURNING 1
    )
    SELECT count(*) FROM changed WHERE ${committed}`

  const ping = sql`SELECT FROM ${table} LIMIT 1`

  return { insert, move, update, select, selectPage, updateAll, deleteAll, ping }
}

// Operations

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const wakeups = yield* Wakeups.Wakeups
  const { names, query, sql } = database
  const statements = statementsOf(database)
  const key = ["projectionName", "shardNumber"]
  const decodeOffsets = decodeRows(Row, names.offsets, key)
  const decodeOutcome = decodeRows(Outcome, names.offsets, key)
  const decodeCount = decodeRows(Count, names.offsets, [])

  const announce = sql.afterCommit(Effect.sync(() => wakeups.announce("offsets")))

  const write = yield* Writing.make(announce)

  const offsetsOf = (statement: Runnable) =>
    Effect.map(Effect.flatMap(query(statement), decodeOffsets), (rows) => rows.map((row) => new Offset(row)))

  const attempt = (statement: Runnable) => Effect.flatMap(query(statement), decodeOutcome)

  const advance = Effect.fnUntraced(function* (step: Step) {
    const { from, projectionName, shardNumber, timestamp, to } = step
    let [outcome] = yield* attempt(
      Option.match(from, { onNone: () => statements.insert(step), onSome: (value) => statements.move(value, step) })
    )
    if (outcome === undefined && Option.isSome(from)) {
      // The offset is not at `from`, so `update` looks where it is. Each time around, another transaction has replaced
      // the row.
      do {
        ;[outcome] = yield* attempt(statements.update(from.value, step))
      } while (outcome?.stored === null)
    }
    if (outcome?.moved === true) {
      yield* announce
      return new Offset({ projectionName, shardNumber, value: to, timestamp })
    }
    const actual = Option.fromNullishOr(outcome?.stored)
    return yield* new OffsetConflict({ projectionName, shardNumber, expected: from, actual })
  })

  const counted = (statement: Runnable) =>
    Effect.flatMap(query(statement), decodeCount).pipe(
      Effect.map((rows) => rows[0]?.count ?? 0),
      Effect.tap((count) => (count === 0 ? Effect.void : announce))
    )

  return yield* fromDriver("postgres", {
    write,
    advance,
    get: (id) => Effect.map(offsetsOf(statements.select(id)), (offsets) => Option.fromUndefinedOr(offsets[0])),
    list: (selection) =>
      Stream.paginate(undefined, (after: Offset | undefined) =>
        Effect.map(offsetsOf(statements.selectPage(selection, after)), (page) => [
          page,
          page.length < pageSize ? Option.none() : Option.some(page.at(-1))
        ])
      ),
    reset: (to) => counted(statements.updateAll(to)),
    remove: (projection) => counted(statements.deleteAll(projection)),
    changes: wakeups.changes("offsets"),
    ping: Effect.asVoid(query(statements.ping))
  })
})

export const layer: Layer.Layer<OffsetStore, never, PostgresDatabase> = Layer.provide(
  Layer.effect(OffsetStore, make),
  Wakeups.layer
)
