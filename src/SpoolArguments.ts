/** The arguments of the operations of `SpoolStore`, and what is wrong with them. */
import { Duration, Effect, Schema } from "effect"
import { Time, TimeSpan } from "./internal/Fields.ts"
import {
  Changes,
  Count,
  ExactChanges,
  Key,
  Lease,
  NewExactMessage,
  NewMessage,
  Outcome,
  Owner,
  QueueName,
  State,
  keyText
} from "./SpoolMessage.ts"

const distinct = Schema.makeFilter((items: ReadonlyArray<typeof Key.Encoded>) =>
  items.length < 2 || new Set(items.map(keyText)).size === items.length ? undefined : "Expected each message once"
)

const inQueuesOrInNone = Schema.makeFilter((messages: ReadonlyArray<NewMessage>) =>
  messages.every(({ queue }) => (queue === undefined) === (messages[0]?.queue === undefined))
    ? undefined
    : "Expected a queue for each message, or for none"
)

/** How many messages one statement changes, or a stream reads at a time, at most. */
const BatchSize = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 10_000 }))

export class Messages extends Schema.Class<Messages>("effect-strata/SpoolStore/Messages")({
  messages: Schema.Array(NewMessage).check(distinct, inQueuesOrInNone)
}) {}

/** The same where large integers are `bigint`. */
export class ExactMessages extends Schema.Class<ExactMessages>("effect-strata/SpoolStore/Messages")({
  messages: Schema.Array(NewExactMessage).check(distinct, inQueuesOrInNone)
}) {}

export class Update extends Schema.Class<Update>("effect-strata/SpoolStore/Update")({
  ...Key.fields,
  changes: Changes,
  ifUpdated: Schema.optionalKey(Time)
}) {}

/** The same where large integers are `bigint`. */
export class ExactUpdate extends Schema.Class<ExactUpdate>("effect-strata/SpoolStore/Update")({
  ...Key.fields,
  changes: ExactChanges,
  ifUpdated: Schema.optionalKey(Time)
}) {}

export class Remove extends Schema.Class<Remove>("effect-strata/SpoolStore/Remove")({
  ...Key.fields,
  /** Whether the id stays taken as after a delivery: false unless given. */
  rememberId: Schema.Boolean.pipe(Schema.withConstructorDefault(Effect.succeed(false)))
}) {}

export class Move extends Schema.Class<Move>("effect-strata/SpoolStore/Move")({
  ...Key.fields,
  from: Schema.Array(State),
  to: State,
  changes: Changes
}) {}

/** The same where large integers are `bigint`. */
export class ExactMove extends Schema.Class<ExactMove>("effect-strata/SpoolStore/Move")({
  ...Key.fields,
  from: Schema.Array(State),
  to: State,
  changes: ExactChanges
}) {}

/** One queue. Without one the operation decides: all queues, or the messages that are in no queue. */
export class Selection extends Schema.Class<Selection>("effect-strata/SpoolStore/Selection")({
  queue: Schema.optionalKey(QueueName)
}) {}

/** A page of a list. */
export class List extends Schema.Class<List>("effect-strata/SpoolStore/List")({
  state: State,
  /** The queue of the messages: all queues unless given. */
  queue: Schema.optionalKey(QueueName),
  /** How many messages at most: 100 unless given. */
  limit: Count.pipe(Schema.withConstructorDefault(Effect.succeed(100))),
  offset: Count.pipe(Schema.withConstructorDefault(Effect.succeed(0))),
  sortBy: Schema.Literals(["created", "updated", "priority", "attempts"]).pipe(
    Schema.withConstructorDefault(Effect.succeed("created"))
  ),
  sortOrder: Schema.Literals(["asc", "desc"]).pipe(Schema.withConstructorDefault(Effect.succeed("asc"))),
  /** Only messages that have been stored or changed at this time or later. */
  since: Schema.optionalKey(Time),
  /** Whether to count all messages that match. */
  total: Schema.Boolean.pipe(Schema.withConstructorDefault(Effect.succeed(false)))
}) {}

export class Iterate extends Schema.Class<Iterate>("effect-strata/SpoolStore/Iterate")({
  state: State,
  /** The queue of the messages: all queues unless given. */
  queue: Schema.optionalKey(QueueName),
  batchSize: BatchSize.pipe(Schema.withConstructorDefault(Effect.succeed(1000)))
}) {}

export class Claim extends Schema.Class<Claim>("effect-strata/SpoolStore/Claim")({
  /** The queue to claim from. Without it the claim gets messages that are in no queue. */
  queue: Schema.optionalKey(QueueName),
  limit: BatchSize,
  lease: TimeSpan,
  owner: Owner,
  /** How many of `limit` incoming messages get before deferred ones, if so many wait: half unless given. */
  reserved: Schema.optionalKey(Count)
}) {}

/** How many messages of a claim incoming ones get before deferred ones, if so many wait. */
export const reservedOf = ({ limit, reserved = Math.floor(limit / 2) }: Claim): number => Math.min(reserved, limit)

export class Settle extends Schema.Class<Settle>("effect-strata/SpoolStore/Settle")({
  outcomes: Schema.Array(Outcome).check(distinct)
}) {}

export class Heartbeat extends Schema.Class<Heartbeat>("effect-strata/SpoolStore/Heartbeat")({
  leases: Schema.Array(Lease).check(distinct),
  lease: TimeSpan
}) {}

/** How long after its last change an active message without a lease is given up: RetrySpool claims without leases. */
export const defaultGrace = Duration.minutes(10)

export class Recover extends Schema.Class<Recover>("effect-strata/SpoolStore/Recover")({
  /** The queue of the messages: all queues unless given. */
  queue: Schema.optionalKey(QueueName),
  limit: BatchSize.pipe(Schema.withConstructorDefault(Effect.succeed(1000))),
  /** How long after its last change an active message without a lease is given up: 10 minutes unless given. */
  grace: TimeSpan.pipe(Schema.withConstructorDefault(Effect.succeed(defaultGrace)))
}) {}

export class Purge extends Schema.Class<Purge>("effect-strata/SpoolStore/Purge")({
  state: State,
  /** How long ago a message must have changed last. */
  olderThan: TimeSpan,
  /** The queue of the messages: all queues unless given. */
  queue: Schema.optionalKey(QueueName),
  limit: BatchSize.pipe(Schema.withConstructorDefault(Effect.succeed(1000)))
}) {}

export class Forget extends Schema.Class<Forget>("effect-strata/SpoolStore/Forget")({
  limit: BatchSize.pipe(Schema.withConstructorDefault(Effect.succeed(1000)))
}) {}
