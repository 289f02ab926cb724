/**
 * How a row of the table of states becomes a state.
 *
 * **Details**
 *
 * Nearly every row fits, and is decoded by hand: 0.3 us, where the schema takes 3.5 us, a tenth of reading a state by its
 * key. The schema decides about the other rows, and says what is wrong with them.
 */
import { Effect, Predicate, Schema } from "effect"
import { DurableState, maxPayloadBytes } from "../../DurableStateStore.ts"
import { instanceOf } from "../../internal/Instance.ts"
import type { CorruptRow } from "../../StoreError.ts"
import { decodeRows, NumberFromBigInt } from "../database/DecodeRows.ts"

/** A row of the table, as `columns` names its parts. */
const Row = Schema.Struct({
  ...DurableState.fields,
  shard: NumberFromBigInt.pipe(Schema.decodeTo(DurableState.fields.shard))
})

/** The parts of a row. */
export const columns = `persistence_id AS "persistenceId", version_number AS "versionNumber", state_payload AS payload,
  state_manifest AS manifest, timestamp, shard_number AS shard`

/** The columns, in the order in which they are written. */
export const stored = "persistence_id, version_number, state_payload, state_manifest, timestamp, shard_number"

/** How the columns of a new row take the place of those that are stored. */
export const replace = `version_number = excluded.version_number, state_payload = excluded.state_payload,
  state_manifest = excluded.state_manifest, timestamp = excluded.timestamp, shard_number = excluded.shard_number`

/** The state of a row, made past its constructor: what was decoded has been checked. */
const toDurableState = (row: typeof DurableState.Encoded): DurableState => instanceOf(DurableState, row)

/** The state of a row, if there is nothing unusual about it. */
const plainState = (row: unknown): DurableState | undefined => {
  if (!Predicate.isObject(row)) return undefined
  const { manifest, payload, persistenceId, shard, timestamp, versionNumber } = row
  return typeof persistenceId === "string" &&
    persistenceId !== "" &&
    typeof versionNumber === "bigint" &&
    versionNumber >= 0n &&
    payload instanceof Uint8Array &&
    payload.length <= maxPayloadBytes &&
    typeof manifest === "string" &&
    manifest !== "" &&
    typeof timestamp === "bigint" &&
    typeof shard === "bigint" &&
    shard >= 0n &&
    shard <= Number.MAX_SAFE_INTEGER
    ? toDurableState({ persistenceId, versionNumber, payload, manifest, timestamp, shard: Number(shard) })
    : undefined
}

/** Decodes rows of the table with this name. */
export const stateDecoder = (table: string) => {
  const decode = decodeRows(Row, table, ["persistenceId"])
  return (rows: ReadonlyArray<unknown>): Effect.Effect<Array<DurableState>, CorruptRow> =>
    Effect.suspend(() => {
      const states: Array<DurableState> = []
      for (const row of rows) {
        const state = plainState(row)
        if (state === undefined) return Effect.map(decode(rows), (rows) => rows.map(toDurableState))
        states.push(state)
      }
      return Effect.succeed(states)
    })
}
