/** What writes of offsets that come at once do to each other on a server. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Option } from "effect"
import * as Postgres from "effect-strata/postgres"
import { execute, freshSchema, open, query, serve, type Settings } from "./harness.ts"
import { counted } from "./states.harness.ts"

const served = Effect.fnUntraced(function* (settings: Settings = {}) {
  const schema = settings.options?.schema ?? (yield* freshSchema())
  const stores = yield* serve({ ...settings, options: { ...settings.options, schema } })
  const write = (shardNumber: number, value: bigint) =>
    stores.offsets.writeOffset({ projectionName: "accounts", shardNumber, value })
  const valueOf = (shardNumber: number) =>
    Effect.map(stores.offsets.getCurrentOffset({ projectionName: "accounts", shardNumber }), (offset) =>
      Option.match(offset, { onNone: () => "none", onSome: ({ value }) => String(value) })
    )
  return { ...stores, schema, write, valueOf, table: `${schema}.offsets_store` }
})

const shards = Array.from({ length: 400 }, (_, shard) => shard)
const together = { concurrency: "unbounded" } as const

describe("writes of offsets that come at once", () => {
  it.live("share statements, and each has its own result", () =>
    Effect.gen(function* () {
      const { requests, stream } = counted()
      const { table, valueOf, write } = yield* served({ client: { stream } })
      yield* Effect.forEach(shards, (shard) => write(shard, 1n), together)
      assert.deepStrictEqual(yield* query(`SELECT count(*)::int FROM ${table} WHERE current_offset = 1`), [[400]])

      const before = requests()
      yield* Effect.forEach(shards, (shard) => write(shard, 2n), together)
      assert.isBelow(requests() - before, 20)
      assert.deepStrictEqual(yield* query(`SELECT count(*)::int FROM ${table} WHERE current_offset = 2`), [[400]])

      yield* execute([`ALTER TABLE ${table} ADD CHECK (shard_number <> 7 OR current_offset < 3)`])
      const results = yield* Effect.forEach(
        shards,
        (shard) => Effect.match(write(shard, 3n), { onFailure: () => "refused", onSuccess: () => "written" }),
        together
      )
      assert.deepStrictEqual(
        results,
        shards.map((shard) => (shard === 7 ? "refused" : "written"))
      )
      assert.deepStrictEqual([yield* valueOf(6), yield* valueOf(7), yield* valueOf(8)], ["3", "2", "3"])
    })
  )

  it.live("of one shard leave what was written last", () =>
    Effect.gen(function* () {
      const { valueOf, write } = yield* served()
      for (const value of [100n, 200n, 300n]) {
        const values = Array.from({ length: 100 }, (_, index) => value + BigInt((index * 7) % 100))
        yield* Effect.forEach(values, (one) => Effect.all([write(1, one), write(2, one + 1n)], together), together)
        assert.deepStrictEqual(
          [yield* valueOf(1), yield* valueOf(2)],
          [String(values.at(-1)), String((values.at(-1) ?? 0n) + 1n)]
        )
      }
    })
  )

  it.live("do not wait for offsets that a transaction holds, or is about to insert", () =>
    Effect.gen(function* () {
      const { schema, valueOf, write } = yield* served()
      const other = yield* served({ options: { schema }, layer: Postgres.layerStorage })
      yield* Effect.forEach(shards.slice(0, 100), (shard) => write(shard, 1n), together)
      const held = [7, 70, 200]
      const holding = yield* open(
        other.transactor.withTransaction,
        Effect.forEach(held, (shard) => other.write(shard, 2n))
      )
      const waiting = yield* Effect.forkChild(
        Effect.forEach(held, (shard) => write(shard, 3n), together),
        { startImmediately: true }
      )
      const free = shards.filter((shard) => !held.includes(shard))
      yield* Effect.forEach(free, (shard) => write(shard, 4n), together)
      assert.deepStrictEqual([yield* valueOf(7), yield* valueOf(8), yield* valueOf(300)], ["1", "4", "4"])
      yield* holding.commit
      yield* Fiber.join(waiting)
      assert.deepStrictEqual(yield* Effect.forEach(held, valueOf), ["3", "3", "3"])
    })
  )

  it.live("in a transaction are undone with it", () =>
    Effect.gen(function* () {
      const { transactor, valueOf, write } = yield* served()
      yield* write(1, 1n)
      const all = Effect.forEach(shards.slice(0, 10), (shard) => write(shard, 2n), together)
      yield* Effect.exit(transactor.withTransaction(Effect.andThen(all, Effect.fail("undo"))))
      assert.deepStrictEqual([yield* valueOf(1), yield* valueOf(2)], ["1", "none"])
    })
  )
})
