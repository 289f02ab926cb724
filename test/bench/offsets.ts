/** The figures of the `OffsetStore`, each beside the same statement on the bare driver. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Option } from "effect"
import { OffsetStore } from "effect-strata"
import { fibers, type Figure } from "./harness.ts"

const writes = (count: number) =>
  Effect.gen(function* () {
    const offsets = yield* OffsetStore.OffsetStore
    const sql = yield* PgClient.PgClient
    return {
      strata: fibers(count, (shardNumber, value) =>
        offsets.writeOffset({ projectionName: "strata", shardNumber, value, timestamp: value })
      ),
      other: fibers(
        count,
        (shardNumber, value) => sql`
          INSERT INTO offsets_store (projection_name, shard_number, current_offset, timestamp)
          VALUES (${"bare"}, ${shardNumber}, ${value}, ${value})
          ON CONFLICT (projection_name, shard_number)
          DO UPDATE SET current_offset = excluded.current_offset, timestamp = excluded.timestamp`
      )
    }
  })

/** A projection's step: what it must see is what it wrote last. */
const advances = Effect.gen(function* () {
  const offsets = yield* OffsetStore.OffsetStore
  const sql = yield* PgClient.PgClient
  const id = { projectionName: "advance", shardNumber: 0 }
  yield* offsets.writeOffset({ ...id, value: 0n })
  yield* offsets.writeOffset({ ...id, projectionName: "bare advance", value: 0n })
  let strata = 0n
  let bare = 0n
  return {
    strata: fibers(1, () =>
      Effect.suspend(() => offsets.advanceOffset(id, { from: Option.some(strata), to: ++strata }))
    ),
    other: fibers(1, () =>
      Effect.suspend(
        () => sql`
          UPDATE offsets_store SET current_offset = ${bare + 1n}, timestamp = ${bare}
          WHERE projection_name = ${"bare advance"} AND shard_number = ${0} AND current_offset = ${bare++}`
      )
    )
  }
})

const otherName = "bare driver"

export const figures: ReadonlyArray<Figure> = [
  {
    name: "offset/write-1",
    operations: 3_000,
    quick: 300,
    otherName,
    unit: "writes/s",
    conditions: "1 fiber",
    sides: writes(1)
  },
  {
    name: "offset/write-16",
    operations: 6_000,
    quick: 800,
    otherName,
    unit: "writes/s",
    conditions: "16 fibers",
    sides: writes(16)
  },
  {
    name: "offset/advance-1",
    operations: 3_000,
    quick: 300,
    otherName,
    unit: "steps/s",
    conditions: "1 fiber",
    sides: advances
  }
]
