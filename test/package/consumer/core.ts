/** What a program can do that has installed only `effect`. Compiled and run by `package.test.ts`. */
import { Effect, Option, Schema } from "effect"
import { DurableStateStore, OffsetStore, StateCodec, Transactor } from "effect-strata"
import * as Memory from "effect-strata/memory"

const shard: OffsetStore.ProjectionId = { projectionName: "accounts", shardNumber: 0 }

const Counter = Schema.Struct({ count: Schema.Int }).annotate({ identifier: "Counter" })

const program = Effect.gen(function* () {
  const offsets = yield* OffsetStore.OffsetStore
  const transactor = yield* Transactor.Transactor
  yield* transactor.withTransaction(offsets.writeOffset({ ...shard, value: 15n }))
  yield* Effect.ignore(
    transactor.withTransaction(Effect.andThen(offsets.writeOffset({ ...shard, value: 16n }), Effect.fail("no")))
  )
  const offset = yield* offsets.getCurrentOffset(shard)
  const counters = yield* DurableStateStore.typed({ codec: StateCodec.json(Counter), initial: () => ({ count: 0 }) })
  const { value } = yield* counters.modify("counter", ({ count }) => ({ count: count + 4 }))
  process.stdout.write(
    `core: ${Option.match(offset, { onNone: () => "none", onSome: ({ value }) => value })} ${value.count}\n`
  )
})

await Effect.runPromise(program.pipe(Effect.provide(Memory.layer)))
