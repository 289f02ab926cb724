/** `OffsetStore` on Postgres. */
import { Effect, Layer, Option, Schema, Stream } from "effect"
import {
  fromDriver,
  Offset,
  OffsetConflict,
  OffsetStore,
  type Projection,
  type ProjectionId,
  type Reset,
  type Selection,
  type Step
} from "../OffsetStore.ts"
import { decodeRows, NumberFromBigInt } from "./database/DecodeRows.ts"
import { PostgresDatabase, type Runnable } from "./database/PostgresDatabase.ts"
import * as Wakeups from "./wakeups/Wakeups.ts"

/** How many offsets `listOffsets` reads at a time. */
const pageSize = 500

/** A row of the table, as `columns` names its parts. */
const Row = Schema.Struct({
  ...Offset.fields,
  shardNumber: NumberFromBigInt.pipe(Schema.decodeTo(Offset.fields.shardNumber))
})

/**
 * What came of a step: the offset that is stored now, and whether this step moved it there. `stored` is null where the
 * row was deleted while the step waited for it.
 */
const Outcome = Schema.Struct({ stored: Schema.NullOr(Offset.fields.value), moved: Schema.Boolean })

const Count = Schema.Struct({ count: NumberFromBigInt })

export const make = Effect.gen(function* () {
  const { fixed, names, query, sql, tables } = yield* PostgresDatabase
  const wakeups = yield* Wakeups.Wakeups
  const table = tables.offsets
  const key = ["projectionName", "shardNumber"]
  const decodeOffsets = decodeRows(Row, names.offsets, key)
  const decodeOutcome = decodeRows(Outcome, names.offsets, key)
  const decodeCount = decodeRows(Count, names.offsets, [])

  // Statements

  const columns = sql.literal(
    `projection_name AS "projectionName", shard_number AS "shardNumber", current_offset AS value, timestamp`
  )

  const upsert = ({ projectionName, shardNumber, timestamp, value }: Offset) => fixed`
    INSERT INTO ${table} (projection_name, shard_number, current_offset, timestamp)
    VALUES (${projectionName}, ${shardNumber}, ${value}, ${timestamp})
    ON CONFLICT (projection_name, shard_number)
    DO UPDATE SET current_offset = excluded.current_offset, timestamp = excluded.timestamp`

  // RETURNING shows a row that was there already only if it is updated, so it is, to itself. Its xmax gives it away: in
  // a row that this statement inserted it is 0.
  const insert = ({ projectionName, shardNumber, timestamp, to }: Step) => fixed`
    INSERT INTO ${table} AS offsets (projection_name, shard_number, current_offset, timestamp)
    VALUES (${projectionName}, ${shardNumber}, ${to}, ${timestamp})
    ON CONFLICT (projection_name, shard_number) DO UPDATE SET current_offset = offsets.current_offset
    RETURNING current_offset AS stored, xmax = 0 AS moved`

  // The step of a runner that is alone with its shard: half the cost of `update`, which finds out what is there.
  const move = (from: bigint, { projectionName, shardNumber, timestamp, to }: Step) => fixed`
    UPDATE ${table} SET current_offset = ${to}, timestamp = ${timestamp}
    WHERE projection_name = ${projectionName} AND shard_number = ${shardNumber} AND current_offset = ${from}
    RETURNING current_offset AS stored, true AS moved`

  // FOR UPDATE waits for a concurrent transaction and then sees what it committed, in the same statement: but not the row
  // that stands in for one it deleted, as eGo writes them. Then only `seen`, which does not wait, has a row.
  const update = (from: bigint, { projectionName, shardNumber, timestamp, to }: Step) => sql`
    WITH held AS MATERIALIZED (
      SELECT current_offset FROM ${table}
      WHERE projection_name = ${projectionName} AND shard_number = ${shardNumber} FOR UPDATE
    ), moved AS (
      UPDATE ${table} AS offsets SET current_offset = ${to}, timestamp = ${timestamp} FROM held
      WHERE projection_name = ${projectionName} AND shard_number = ${shardNumber} AND held.current_offset = ${from}
      RETURNING offsets.current_offset
    )
    SELECT coalesce(moved.current_offset, held.current_offset) AS stored, moved.current_offset IS NOT NULL AS moved
    FROM (
      SELECT FROM ${table} WHERE projection_name = ${projectionName} AND shard_number = ${shardNumber}
    ) AS seen LEFT JOIN held ON true LEFT JOIN moved ON true`

  const select = ({ projectionName, shardNumber }: ProjectionId) => fixed`
    SELECT ${columns} FROM ${table} WHERE projection_name = ${projectionName} AND shard_number = ${shardNumber}`

  const selectPage = ({ projectionName }: Selection, after: ProjectionId | undefined) => {
    // By code point, like every backend, whatever the database's collation is.
    const name = sql.literal(`projection_name COLLATE "C"`)
    const filters = [
      ...(projectionName === undefined ? [] : [sql`projection_name = ${projectionName}`]),
      ...(after === undefined ? [] : [sql`(${name}, shard_number) > (${after.projectionName}, ${after.shardNumber})`])
    ]
    return sql`
      SELECT ${columns} FROM ${table} WHERE ${sql.and(filters)} ORDER BY ${name}, shard_number LIMIT ${pageSize}`
  }

  // Rows are locked in order before they are changed, so that two of these cannot block each other in a circle.
  const locked = (projectionName: string) => sql`
    held AS MATERIALIZED (
      SELECT projection_name, shard_number FROM ${table}
      WHERE projection_name = ${projectionName} ORDER BY shard_number FOR UPDATE
    )`

  const updateAll = ({ projectionName, timestamp, value }: Reset) => sql`
    WITH ${locked(projectionName)}, changed AS (
      UPDATE ${table} AS offsets SET current_offset = ${value}, timestamp = ${timestamp} FROM held
      WHERE offsets.projection_name = held.projection_name AND offsets.shard_number = held.shard_number
      RETURNING 1
    )
    SELECT count(*) FROM changed`

  const deleteAll = ({ projectionName }: Projection) => sql`
    WITH ${locked(projectionName)}, changed AS (
      DELETE FROM ${table} AS offsets USING held
      WHERE offsets.projection_name = held.projection_name AND offsets.shard_number = held.shard_number
      RETURNING 1
    )
    SELECT count(*) FROM changed`

  // Operations

  const announce = sql.afterCommit(Effect.sync(() => wakeups.announce("offsets")))

  const offsetsOf = (statement: Runnable) =>
    Effect.map(Effect.flatMap(query(statement), decodeOffsets), (rows) => rows.map((row) => new Offset(row)))

  const attempt = (statement: Runnable) => Effect.flatMap(query(statement), decodeOutcome)

  const advance = Effect.fnUntraced(function* (step: Step) {
    const { from, projectionName, shardNumber, timestamp, to } = step
    let [outcome] = yield* attempt(
      Option.match(from, { onNone: () => insert(step), onSome: (value) => move(value, step) })
    )
    if (outcome === undefined && Option.isSome(from)) {
      // The offset is not at `from`, so `update` looks where it is. Each time around, another transaction has replaced
      // the row.
      do {
        ;[outcome] = yield* attempt(update(from.value, step))
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
    write: (offset) => Effect.andThen(query(upsert(offset)), announce),
    advance,
    get: (id) => Effect.map(offsetsOf(select(id)), (offsets) => Option.fromUndefinedOr(offsets[0])),
    list: (selection) =>
      Stream.paginate(undefined, (after: Offset | undefined) =>
        Effect.map(offsetsOf(selectPage(selection, after)), (page) => [
          page,
          page.length < pageSize ? Option.none() : Option.some(page.at(-1))
        ])
      ),
    reset: (to) => counted(updateAll(to)),
    remove: (projection) => counted(deleteAll(projection)),
    changes: wakeups.changes("offsets"),
    ping: Effect.asVoid(query(sql`SELECT FROM ${table} LIMIT 1`))
  })
})

export const layer: Layer.Layer<OffsetStore, never, PostgresDatabase> = Layer.provide(
  Layer.effect(OffsetStore, make),
  Wakeups.layer
)
