/** What `Entity` does on every backend, as a suite for Vitest. */
import { assert, it } from "@effect/vitest"
import { Effect, Latch, type Layer, Ref, Result } from "effect"
import type { DurableStateStore } from "../DurableStateStore.ts"
import * as Entity from "../Entity.ts"
import type { EventStore } from "../EventStore.ts"
import * as StateCodec from "../StateCodec.ts"
import type { Transactor } from "../Transactor.ts"
import { fresh, range, Sum } from "./ProjectionScene.ts"

/** Registers the suite. */
export const suite = <E>(name: string, layer: Layer.Layer<EventStore | DurableStateStore | Transactor, E>): void => {
  it.layer(layer, { timeout: "2 minutes", excludeTestServices: true })(`Entity (${name})`, (it) => {
    it.effect(
      "loads an aggregate from its last snapshot, and appends what was decided upon the state that was loaded",
      () =>
        Effect.gen(function* () {
          const type = fresh("type")
          const id = fresh("entity")
          const applied = yield* Ref.make(0)
          const open = (manifest: string) =>
            Entity.make({
              name: "counter",
              codec: StateCodec.json(Sum, { manifest }),
              initial: () => ({ sum: 0, seen: [] }),
              apply: ({ seen, sum }, { data }) => {
                Effect.runSync(Ref.update(applied, (count) => count + 1))
                return { sum: sum + Number(data), seen: [...seen, Number(data)] }
              },
              snapshotEvery: 10
            })
          const counter = yield* open("Counter")
          const add = (amount: number) => counter.append(id, () => [{ eventType: type, data: amount }])
          assert.deepStrictEqual(yield* counter.load(id), { state: { sum: 0, seen: [] }, version: 0n })
          for (const amount of range(25)) yield* add(amount)
          yield* Ref.set(applied, 0)
          const loaded = yield* counter.load(id)
          assert.deepStrictEqual(loaded.state.seen, range(25))
          assert.strictEqual(yield* Ref.get(applied), 5)

          // Of several decisions upon the same state, one is appended.
          const all = yield* Latch.make()
          let deciding = 0
          const racing = yield* Effect.forEach(
            range(5),
            (amount) =>
              Effect.result(
                counter.append(id, () =>
                  Effect.suspend(() => (++deciding === 5 ? all.open : all.await)).pipe(
                    Effect.as([{ eventType: type, data: amount }])
                  )
                )
              ),
            { concurrency: "unbounded" }
          )
          const lost = racing.filter(Result.isFailure)
          assert.deepStrictEqual(
            lost.map(({ failure }) => failure._tag),
            range(4).map(() => "VersionConflict")
          )
          assert.strictEqual((yield* counter.load(id)).state.seen.length, 26)
          assert.deepStrictEqual((yield* counter.append(id, () => Effect.succeed([]))).events, [])
          assert.strictEqual(yield* Effect.flip(counter.append(id, () => Effect.fail("no"))), "no")

          // A snapshot that another codec has written is not used.
          const renamed = yield* open("Counter.v2")
          yield* Ref.set(applied, 0)
          assert.strictEqual((yield* renamed.load(id)).state.seen.length, 26)
          assert.strictEqual(yield* Ref.get(applied), 26)
          const error = yield* Effect.flip(
            Entity.make({
              name: "",
              codec: StateCodec.json(Sum, { manifest: "Sum" }),
              initial: () => ({ sum: 0, seen: [] }),
              apply: (state) => state,
              snapshotEvery: 0
            })
          )
          assert.deepStrictEqual(
            error.issues.map(({ field }) => field),
            ["name", "snapshotEvery"]
          )
        })
    )
  })
}
