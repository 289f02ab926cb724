/** How a row of the table of states becomes a state. */
import { Schema } from "effect"
import { DurableState } from "../DurableStateStore.ts"
import { NumberFromBigInt } from "./PostgresDatabase.ts"

/** A row of the table, as `columns` names its parts. */
export const Row = Schema.Struct({
  ...DurableState.fields,
  shard: NumberFromBigInt.pipe(Schema.decodeTo(DurableState.fields.shard))
})

/** The parts of a row, but for its key. */
export const content = `version_number AS "versionNumber", state_payload AS payload, state_manifest AS manifest, timestamp,
  shard_number AS shard`

export const columns = `persistence_id AS "persistenceId", ${content}`

/** The columns, in the order in which they are written, */
export const stored = "persistence_id, version_number, state_payload, state_manifest, timestamp, shard_number"

/** and how they take the place of those that are there. */
export const replace = `version_number = excluded.version_number, state_payload = excluded.state_payload,
  state_manifest = excluded.state_manifest, timestamp = excluded.timestamp, shard_number = excluded.shard_number`

/** What was decoded from a row has been checked. */
export const toDurableState = (row: typeof Row.Type): DurableState => new DurableState(row, { disableChecks: true })
