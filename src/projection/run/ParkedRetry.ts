/** How the runner of a shard retries its parked events, in answer to a request: see `admin/Retrying.ts`. */
import { Cause, Effect, Exit, Option } from "effect"
import { EventStore } from "../../EventStore.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import type { StoreError } from "../../StoreError.ts"
import { Transactor } from "../../Transactor.ts"
import { HandlerFailed, type Outdated, type Projection, type Settings, type Slot } from "../Definition.ts"
import { Parked, records, ShardRecord, shardId } from "../Records.ts"
import type * as Failures from "./Failures.ts"

/** What a shard is run with. */
interface Run<R> {
  readonly settings: Settings
  readonly shard: number
  readonly slot: Slot
  /** Where the shard is. */
  readonly offset: bigint
  readonly handle: Projection<R>["handle"]
  readonly failures: Effect.Success<ReturnType<typeof Failures.make>>
  /** A transaction that holds the shard where it is. */
  readonly held: <A, E, R2>(
    body: Effect.Effect<A, E, R2>
  ) => Effect.Effect<A, E | Outdated | InvalidInput | StoreError, R2>
}

/** Retries what has been asked for, one aggregate after the other, and returns what is parked then. */
export const serve = Effect.fnUntraced(function* <R>({
  failures,
  handle,
  held,
  offset,
  settings,
  shard,
  slot
}: Run<R>) {
  const { batchSize, name } = settings
  const events = yield* EventStore
  const { withTransaction } = yield* Transactor
  const { shard: record } = yield* records
  const id = shardId(name, shard)
  const types = settings.eventTypes && new Set(settings.eventTypes)

  /** What the aggregate becomes: another entry in its place, or none. */
  const replace = (aggregateId: string, entry: Parked | undefined) =>
    record.modify(
      id,
      ({ parked, skipped }) =>
        new ShardRecord({
          skipped,
          parked: parked.flatMap((current) =>
            current.aggregateId !== aggregateId ? [current] : entry === undefined ? [] : [entry]
          )
        })
    )

  /** Some of its events, at most so many: says how many to try next, if there is more to do, or how it has failed. */
  const some = (aggregateId: string, count: number) =>
    held(
      Effect.gen(function* () {
        const { value } = yield* record.read(id)
        const current = value.parked.find((entry) => entry.aggregateId === aggregateId)
        if (current?.retryAskedAt === undefined) return undefined
        // What has been read up to here is what waits: later ones are again as they come.
        const waiting = (yield* events.loadByAggregate(aggregateId, current.version - 1n)).filter(
          ({ eventType, version }) => version <= offset && (types?.has(eventType) ?? true)
        )
        const batch = waiting.slice(0, count)
        const [event] = batch
        const exit = yield* Effect.exit(event === undefined ? Effect.void : withTransaction(handle(batch, slot)))
        if (Exit.isSuccess(exit)) {
          const next = waiting[count]
          yield* replace(
            aggregateId,
            next && new Parked({ ...current, version: next.version, eventId: next.id, eventType: next.eventType })
          )
          return next && count
        }
        const failed = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
        const index = failed instanceof HandlerFailed ? failed.index : undefined
        // Those before the one that fails are handled all the same.
        if (event === undefined || batch.length > 1) return Math.max(1, index ?? batch.length >> 1)
        const failure = yield* failures.describe(event, exit.cause)
        yield* replace(aggregateId, new Parked(failure))
        return failure
      })
    )

  const asked = (yield* record.read(id)).value.parked.filter(({ retryAskedAt }) => retryAskedAt !== undefined)
  for (const { aggregateId } of asked) {
    let next = yield* some(aggregateId, batchSize)
    while (typeof next === "number") next = yield* some(aggregateId, next)
    if (next !== undefined) yield* failures.report(next)
  }
  return (yield* record.read(id)).value
})
