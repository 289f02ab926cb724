/**
 * The one error that all stores share: an operation failed for a reason outside the program.
 *
 * An argument that breaks the model is `InvalidInput`; what a store decides (a conflict, a missing event) is an error of
 * that store. Every other failure, from a refused connection to a table that is not there, is a `StoreError` with a tagged
 * `reason`:
 *
 * ```ts
 * import { Effect } from "effect"
 * import { OffsetStore } from "effect-strata"
 *
 * export const current = OffsetStore.OffsetStore.use((offsets) =>
 *   offsets.getCurrentOffset({ projectionName: "accounts", shardNumber: 0 })
 * ).pipe(
 *   Effect.retry({ times: 3, while: (error) => error._tag === "StoreError" && error.isRetryable }),
 *   Effect.catchReason("StoreError", "SchemaMissing", (reason) => Effect.die(reason.message))
 * )
 * ```
 */
import { Schema } from "effect"

const fields = {
  /** One plain sentence without secrets: what failed, on what, and what to do. */
  message: Schema.String,
  /** The underlying error, for logs and debuggers, not for decisions. */
  cause: Schema.optionalKey(Schema.Defect())
}

/**
 * The database cannot be reached: refused, lost, starting, stopping, or out of connections.
 *
 * **Remedy**
 *
 * Retry what is idempotent. If it stays, look whether the server runs and can be reached, and whether the pool is big
 * enough: the message says which.
 */
export class Unavailable extends Schema.TaggedError<Unavailable>("effect-strata/StoreError/Unavailable")(
  "Unavailable",
  fields
) {
  readonly isRetryable = true
}

/**
 * The server gave up on a statement, a transaction or an idle session because a time limit of it ran out.
 *
 * **Remedy**
 *
 * Retry it, and look for what is slow or locked: `strata doctor`, and the runbook "A table is locked". The limits are
 * those of the server, the role and the URL.
 */
export class Timeout extends Schema.TaggedError<Timeout>("effect-strata/StoreError/Timeout")("Timeout", fields) {
  readonly isRetryable = true
}

/**
 * A concurrent transaction won: a deadlock, a serialization failure or a lock timeout. Retry the transaction.
 *
 * **Remedy**
 *
 * Retry the whole transaction. Where it comes often, let transactions write the same rows in the same order.
 */
export class Contention extends Schema.TaggedError<Contention>("effect-strata/StoreError/Contention")(
  "Contention",
  fields
) {
  readonly isRetryable = true
}

/**
 * The database refuses this role, this password, or any write at all (a read-only server).
 *
 * **Remedy**
 *
 * Mend the password, or let the owner of the tables grant what is missing: `strata grants ROLE` prints it. Where
 * `mayPass` is set, try again later.
 */
export class Denied extends Schema.TaggedError<Denied>("effect-strata/StoreError/Denied")("Denied", {
  ...fields,
  /**
   * Set where nobody need do anything to the program: a standby that is not promoted yet, a server that is read-only for a
   * while. Subscriptions, projections and workers wait for the end of it; every other call fails.
   */
  mayPass: Schema.optionalKey(Schema.Boolean)
}) {
  readonly isRetryable = false
}

/**
 * A table, column, schema or database is absent, or was made by a newer version. The message says what to run.
 *
 * **Remedy**
 *
 * Run what the message says: mostly `strata migrate`, as the owner of the tables; or start the version that the message
 * asks for.
 */
export class SchemaMissing extends Schema.TaggedError<SchemaMissing>("effect-strata/StoreError/SchemaMissing")(
  "SchemaMissing",
  fields
) {
  readonly isRetryable = false
}

/**
 * A stored row does not fit the model: another program wrote it. Other rows can still be read.
 *
 * **Remedy**
 *
 * Mend or delete the row that the message names. Where it is an integer beyond 2^53, give `largeIntegers: "bigint"`;
 * where it is too long, a larger `DB_MAX_MESSAGE_SIZE`.
 */
export class CorruptRow extends Schema.TaggedError<CorruptRow>("effect-strata/StoreError/CorruptRow")("CorruptRow", {
  ...fields,
  table: Schema.String,
  key: Schema.String
}) {
  readonly isRetryable = false
}

/**
 * The scope of the layer that made this store has ended.
 *
 * **Remedy**
 *
 * Keep the layer alive for as long as the store is used: do not let a service out of the `Effect.provide` that made it.
 */
export class Closed extends Schema.TaggedError<Closed>("effect-strata/StoreError/Closed")("Closed", fields) {
  readonly isRetryable = false
}

/**
 * Any other failure. The cause has the details.
 *
 * **Remedy**
 *
 * Look at the cause.
 */
export class Unexpected extends Schema.TaggedError<Unexpected>("effect-strata/StoreError/Unexpected")(
  "Unexpected",
  fields
) {
  readonly isRetryable = false
}

export const Reason = Schema.Union([
  Unavailable,
  Timeout,
  Contention,
  Denied,
  SchemaMissing,
  CorruptRow,
  Closed,
  Unexpected
])
export type Reason = typeof Reason.Type

/** Tells a `Reason` from any other failure. */
export const isReason = Schema.is(Reason)

/**
 * An operation of a store failed for a reason outside the program.
 *
 * **Gotchas**
 *
 * `isRetryable` says that the same call may succeed later, not that the failed call did nothing: after a lost connection it
 * is unknown whether the last statement took effect. Retry what is idempotent, or the whole transaction with a
 * compare-and-set inside.
 *
 * **Remedy**
 *
 * Look at the reason: it has a remedy of its own.
 */
export class StoreError extends Schema.TaggedError<StoreError>("effect-strata/StoreError")("StoreError", {
  store: Schema.String,
  operation: Schema.String,
  reason: Reason
}) {
  override readonly cause = this.reason

  override get message(): string {
    return `${this.store}.${this.operation}: ${this.reason.message}`
  }

  get isRetryable(): boolean {
    return this.reason.isRetryable
  }
}
