/** The events that a projection has not handled: parked, or skipped. */
import { Effect, Stream } from "effect"
import { check } from "../../internal/Arguments.ts"
import { named } from "../../internal/Named.ts"
import { ByName } from "../Definition.ts"
import { controlOf, records, shardId, skippedId } from "../Records.ts"

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
  Stream.flatMap(shardRecords("parked", name), ({ record }) => Stream.fromIterable(record.parked)).pipe(
    Stream.mapError(named("Projection", "parked"))
  )

/** The events that were skipped, with their errors. */
export const skipped = (name: string) =>
  Stream.flatMap(shardRecords("skipped", name), ({ record: { skipped }, shard }) =>
    Stream.range(0, skipped - 1).pipe(
      Stream.mapEffect((index) => readFailure(skippedId(name, shard, index))),
      Stream.flatMap((failure) => Stream.fromIterable(failure === null ? [] : [failure]))
    )
  ).pipe(Stream.mapError(named("Projection", "skipped")))
