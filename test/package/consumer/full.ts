/** Every entry point, with the optional packages installed. Compiled and run by `package.test.ts`. */
import { create } from "@bufbuild/protobuf"
import { TimestampSchema } from "@bufbuild/protobuf/wkt"
import type { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Option } from "effect"
import { DurableStateStore, type InvalidInput, OffsetStore, type StoreError, type Transactor } from "effect-strata"
import * as Cluster from "effect-strata/cluster"
import * as Memory from "effect-strata/memory"
import * as Pglite from "effect-strata/pglite"
import * as Postgres from "effect-strata/postgres"
import { protobuf } from "effect-strata/protobuf"
import * as Testing from "effect-strata/testing"

type Stores = DurableStateStore.DurableStateStore | OffsetStore.OffsetStore | Transactor.Transactor

const program = Effect.gen(function* () {
  const offsets = yield* OffsetStore.OffsetStore
  const shard = { projectionName: "accounts", shardNumber: 0 }
  const written: Effect.Effect<void, InvalidInput.InvalidInput | StoreError.StoreError> = offsets.writeOffset({
    ...shard,
    value: 15n
  })
  yield* written
  const offset = yield* offsets.getCurrentOffset(shard)
  const clocks = yield* DurableStateStore.typed({
    codec: protobuf(TimestampSchema),
    initial: () => create(TimestampSchema)
  })
  const clock = yield* clocks.modify("clock", ({ seconds }) => create(TimestampSchema, { seconds: seconds + 4n }))
  return `${Option.match(offset, { onNone: () => "none", onSome: ({ value }) => String(value) })} ${clock.value.seconds}`
})

const embedded: Layer.Layer<PgClient.PgClient, unknown> = Pglite.layer()
const memory: Layer.Layer<Stores> = Memory.layer
// Runs the migrations, which it reads from the installed package.
const inProcess: Layer.Layer<Stores, unknown> = Layer.provide(Postgres.layer(), embedded)
// On the server of DATABASE_URL.
const server: Layer.Layer<Stores, unknown> = Postgres.layerConfig()

/** A runner of a cluster; here it only has to fit. */
export const runner = Layer.provide(Cluster.layer({ host: "localhost", port: 34431 }), embedded)

/** Vitest runs suites; here they only have to fit. */
export const suites = (): void => Testing.OffsetStore.suite("memory", memory)

for (const [name, layer] of Object.entries({ memory, inProcess, server })) {
  process.stdout.write(`${name}: ${await Effect.runPromise(Effect.provide(program, layer))}\n`)
}
