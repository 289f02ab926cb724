/** The events that a projection has not handled: parked, or skipped. */
import { Effect, Stream } from "effect"
import { DurableStateStore } from "../../DurableStateStore.ts"
import { check } from "../../internal/Arguments.ts"
import { ByName } from "../Definition.ts"
import { controlOf, failureId, lastReadId, records, shardId, skippedId } from "../Records.ts"

/** The records of a projection's shards, in the order of their numbers. */
const shardRecords = (operation: string, name: string) =>
  Stream.unwrap(
    Effect.gen(function* () {
      yield* check(ByName, "Projection", operation, { name })
      const { value } = yield* controlOf(name)
      const record = yield* records
      return Stream.range(0, value.shards - 1).pipe(
        Stream.mapEffect((shard) =>
          Effect.map(record.shard.read(shardId(name, shard)), (state) => ({ shard, record: state.value }))
        )
      )
    })
  )

const readFailure = (id: string) =>
  Effect.flatMap(records, ({ failure }) => Effect.map(failure.read(id), ({ value }) => value.failure))

/** The aggregates that are parked, each with the event that failed: its events from the failed one on wait. */
export const parked = (name: string) =>
  Stream.flatMap(shardRecords("parked", name), ({ record }) => Stream.fromIterable(record.parked))

/** The events that were skipped, with their errors. */
export const skipped = (name: string) =>
  Stream.flatMap(shardRecords("skipped", name), ({ record: { skipped }, shard }) =>
    Stream.range(0, skipped - 1).pipe(
      Stream.mapEffect((index) => readFailure(skippedId(name, shard, index))),
      Stream.flatMap((failure) => Stream.fromIterable(failure === null ? [] : [failure]))
    )
  )

/** Forgets what the shards have parked and skipped, their last failures, and which event they have read last. */
export const forget = Effect.fnUntraced(function* (name: string, shards: number) {
  const states = yield* DurableStateStore
  const record = yield* records
  for (let shard = 0; shard < shards; shard++) {
    const { value } = yield* record.shard.read(shardId(name, shard))
    for (let index = 0; index < value.skipped; index++) yield* states.deleteState(skippedId(name, shard, index))
    yield* states.deleteState(shardId(name, shard))
    yield* states.deleteState(failureId(name, shard))
    yield* states.deleteState(lastReadId(name, shard))
  }
})
