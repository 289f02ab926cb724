/** What `DurableStateStore` takes and gives: models, arguments and errors. */
import { Effect, Schema } from "effect"
import { fromClock } from "./internal/FastPath.ts"
import { Identifier, Int64, maxRowBytes, ShardNumber } from "./internal/Fields.ts"

// Model

export const PersistenceId = Identifier(255)

/** What the bytes of a state are: for a protobuf message its full name, or `google.protobuf.Any`. */
export const Manifest = Identifier(255)

/** How often an entity has changed. eGo's first version is 1. */
export const VersionNumber = Int64.check(Schema.isGreaterThanOrEqualToBigInt(0n))

/**
 * How large a payload can be. A row with all its columns has to fit in 16 MiB, the largest message that the Postgres driver
 * accepts: a longer row could be written, but not be read again.
 */
export const maxPayloadBytes = maxRowBytes - 4096

export const Payload = Schema.Uint8Array.check(
  Schema.makeFilter(({ length }) =>
    length > maxPayloadBytes ? `Expected at most ${maxPayloadBytes} bytes` : undefined
  )
)

/**
 * The state of an entity.
 *
 * `timestamp` is the time of the write in epoch nanoseconds, by `Clock` unless it is given. `shard` is for programs that
 * distribute their entities: 0 unless it is given.
 */
export class DurableState extends Schema.Class<DurableState>("effect-strata/DurableStateStore/DurableState")({
  persistenceId: PersistenceId,
  versionNumber: VersionNumber,
  payload: Payload,
  manifest: Manifest,
  timestamp: Int64.pipe(Schema.withConstructorDefault(fromClock((clock) => clock.currentTimeNanosUnsafe()))),
  shard: ShardNumber.pipe(Schema.withConstructorDefault(Effect.succeed(0)))
}) {}

/** Whether these are the same version of the same state. Their timestamps do not matter. */
export const isSame = (a: DurableState, b: DurableState): boolean =>
  a.versionNumber === b.versionNumber &&
  a.manifest === b.manifest &&
  a.payload.length === b.payload.length &&
  a.payload.every((byte, index) => byte === b.payload[index])

/** A state to write, and what to do where the same state is stored already. */
export class Write extends Schema.Class<Write>("effect-strata/DurableStateStore/Write")({
  ...DurableState.fields,
  onDuplicate: Schema.optionalKey(Schema.Literals(["ignore", "fail"]))
}) {}

/** One entity. */
export class ById extends Schema.Class<ById>("effect-strata/DurableStateStore/ById")({
  persistenceId: PersistenceId
}) {}

/** Several entities. */
export class ByIds extends Schema.Class<ByIds>("effect-strata/DurableStateStore/ByIds")({
  persistenceIds: Schema.Array(PersistenceId)
}) {}

/** A state to write, and the entities to get with it. */
export class OverwriteAndGet extends Schema.Class<OverwriteAndGet>("effect-strata/DurableStateStore/OverwriteAndGet")({
  ...DurableState.fields,
  persistenceIds: Schema.Array(PersistenceId)
}) {}

/** Which states to list. A state has to match everything that is given. */
export class Selection extends Schema.Class<Selection>("effect-strata/DurableStateStore/Selection")({
  shard: Schema.optionalKey(ShardNumber),
  manifest: Schema.optionalKey(Manifest)
}) {}

// Errors

/**
 * The entity has a newer state, or a different one of the same version, from another writer. Nothing was written.
 *
 * **Remedy**
 *
 * Load the state and decide again: `modify` of a typed store does both. Where the older state is to count,
 * `overwriteState` writes it.
 */
export class StaleState extends Schema.TaggedError<StaleState>("effect-strata/DurableStateStore/StaleState")(
  "StaleState",
  {
    persistenceId: Schema.String,
    /** The version that was to be written. */
    attempted: Schema.BigInt,
    /** What is stored. */
    current: DurableState
  }
) {
  override get message(): string {
    return `"${this.persistenceId}" has version ${this.current.versionNumber} already, so version ${this.attempted} was not written`
  }
}
