/** What becomes of a projection whose offsets do not belong to the log any more. */
import { Effect, Option, Schema, Stream } from "effect"
import { DurableStateStore } from "../../DurableStateStore.ts"
import { EventStore, Version } from "../../EventStore.ts"
import { check } from "../../internal/Arguments.ts"
import { ShardNumber } from "../../internal/Fields.ts"
import { named } from "../../internal/Named.ts"
import { OffsetStore } from "../../OffsetStore.ts"
import { placesOf } from "../Agreement.ts"
import { ByName } from "../Definition.ts"
import { controlOf, lastReadId } from "../Records.ts"
import { change } from "./Operating.ts"

/** A shard whose offset was accepted. */
export class Accepted extends Schema.Class<Accepted>("effect-strata/Projection/Accepted")({
  shardNumber: ShardNumber,
  /** Its offset before. */
  before: Version,
  /** Its offset from now on: the same, or the end of the log if that is lower. */
  after: Version
}) {}

/**
 * Fails with `LogReplaced` if an offset of the projection is ahead of the log, or belongs to another one: then the projection
 * does not run.
 */
export const verify = Effect.fnUntraced(
  function* (name: string) {
    yield* check(ByName, "Projection", "verify", { name })
    yield* controlOf(name)
    const stored = yield* Stream.runCollect((yield* OffsetStore).listOffsets(name))
    const offsetOf = new Map(stored.map(({ shardNumber, value }) => [shardNumber, value]))
    yield* placesOf(name, [...offsetOf.keys()], (shard) => offsetOf.get(shard) ?? 0n)
  },
  Effect.mapError(named("Projection", "verify"))
)

/**
 * Takes the log as it is now for the one that the projection has read: after an operator has looked what `verify` says. A shard
 * that is beyond the end of the log goes on at the end, and every other shard where it is.
 *
 * **Gotchas**
 *
 * The events that the log has now at or below an offset, in the place of others, are not handled, and what the handler has made
 * of events that are gone stays. `reset` has them handled again, from the last version that both logs have, and `rebuild`
 * builds the read model anew.
 */
export const accept = Effect.fnUntraced(
  function* (name: string) {
    yield* check(ByName, "Projection", "accept", { name })
    const events = yield* EventStore
    const offsets = yield* OffsetStore
    const states = yield* DurableStateStore
    const end = yield* events.latestVersion
    // Nothing that is in flight may come at or below the end any more: a read of no types of events waits just for that.
    yield* Stream.runDrain(events.read({ eventTypes: [] }))
    const accepted: Array<Accepted> = []
    yield* change(
      name,
      Effect.fnUntraced(function* (control) {
        for (const { shardNumber, value } of yield* Stream.runCollect(offsets.listOffsets(name))) {
          const after = value < end ? value : end
          yield* offsets.advanceOffset({ projectionName: name, shardNumber }, { from: Option.some(value), to: after })
          yield* states.deleteState(lastReadId(name, shardNumber))
          accepted.push(new Accepted({ shardNumber, before: value, after }))
        }
        return control
      })
    )
    return accepted
  },
  Effect.mapError(named("Projection", "accept"))
)
