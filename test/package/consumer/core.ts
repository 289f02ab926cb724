/** What a program can do that has installed only `effect`. Compiled and run by `package.test.ts`. */
import { Effect, Option } from "effect"
import { OffsetStore, Transactor } from "effect-strata"
import * as Memory from "effect-strata/memory"

const shard: OffsetStore.ProjectionId = { projectionName: "accounts", shardNumber: 0 }

const program = Effect.gen(function* () {
  const offsets = yield* OffsetStore.OffsetStore
  const transactor = yield* Transactor.Transactor
  yield* transactor.withTransaction(offsets.writeOffset({ ...shard, value: 15n }))
  yield* Effect.ignore(
    transactor.withTransaction(Effect.andThen(offsets.writeOffset({ ...shard, value: 16n }), Effect.fail("no")))
  )
  const offset = yield* offsets.getCurrentOffset(shard)
  process.stdout.write(`core: ${Option.match(offset, { onNone: () => "none", onSome: ({ value }) => value })}\n`)
})

await Effect.runPromise(program.pipe(Effect.provide(Memory.layer)))
