/** Which projections run in this process. */
import { Effect } from "effect"
import { OffsetStore } from "../OffsetStore.ts"
import { DuplicateProjection } from "./Errors.ts"

/** The names of the projections that run in this process, by the store of their offsets. */
const running = new WeakMap<OffsetStore["Service"], Set<string>>()

/** Keeps every other run of the same projection out of this process until the scope is closed. */
export const runOnce = Effect.fnUntraced(function* (name: string) {
  const offsets = yield* OffsetStore
  yield* Effect.acquireRelease(
    Effect.suspend(() => {
      const names = running.get(offsets) ?? new Set()
      if (names.has(name)) return Effect.fail(new DuplicateProjection({ projectionName: name }))
      running.set(offsets, names.add(name))
      return Effect.succeed(names)
    }),
    (names) => Effect.sync(() => names.delete(name))
  )
})

/** Whether the projection runs in this process. */
export const isRunning = (name: string) =>
  OffsetStore.use((offsets) => Effect.sync(() => running.get(offsets)?.has(name) === true))
