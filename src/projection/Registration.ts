/** Records a projection when it runs for the first time: how many shards it has, and that each begins before the first event. */
import { Effect, Option } from "effect"
import { OffsetStore } from "../OffsetStore.ts"
import { Transactor } from "../Transactor.ts"
import type { Settings } from "./Definition.ts"
import { ShardCountMismatch } from "./Errors.ts"
import { Control, controlId, records } from "./Records.ts"
import type { Slot } from "./Slot.ts"

/** Gives a shard an offset, if it has none. */
export const addShard = (projectionName: string, shardNumber: number) =>
  OffsetStore.use((offsets) =>
    Effect.catchTag(
      offsets.advanceOffset({ projectionName, shardNumber }, { from: Option.none(), to: 0n }),
      "OffsetConflict",
      () => Effect.void
    )
  )

/** Fails unless the projection has this number of shards: it keeps the number that it began with. */
export const expectShards = (projectionName: string, { shards: recorded }: Control, requested: number) =>
  recorded === requested ? Effect.void : Effect.fail(new ShardCountMismatch({ projectionName, recorded, requested }))

/** Records the projection if it has never run, and that it fills this copy of its read model. */
export const register = Effect.fnUntraced(function* ({ name, shards }: Settings, slot: Slot = "blue") {
  const { withTransaction } = yield* Transactor
  const { control } = yield* records
  const { value } = yield* control.read(controlId(name))
  if (value.shards > 0) return yield* expectShards(name, value, shards)
  yield* Effect.gen(function* () {
    for (let shard = 0; shard < shards; shard++) yield* addShard(name, shard)
    yield* control.modify(controlId(name), (now) =>
      now.shards === 0
        ? Effect.succeed(new Control({ ...now, shards, slot }))
        : Effect.as(expectShards(name, now, shards), now)
    )
  }).pipe(withTransaction)
})
