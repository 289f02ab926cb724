import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { kinds, schedule } from "./schedule.ts"

const minutes = 60_000

it.effect("is the same for the same seed, and goes on as it began if it lasts longer", () =>
  Effect.gen(function* () {
    const faults = yield* schedule(7, 3 * minutes)
    assert.deepStrictEqual(yield* schedule(7, 3 * minutes), faults)
    const longer = yield* schedule(7, 30 * minutes)
    assert.isAbove(longer.length, faults.length)
    assert.deepStrictEqual(longer.slice(0, faults.length), faults)
  })
)

it.effect("is another one for another seed", () =>
  Effect.gen(function* () {
    assert.notDeepEqual(yield* schedule(7, minutes), yield* schedule(8, minutes))
  })
)

it.effect("has each kind of fault once before any comes again", () =>
  Effect.gen(function* () {
    const faults = yield* schedule(1, 10 * minutes)
    assert.isAbove(faults.length, 3 * kinds.length)
    for (let start = 0; start + kinds.length <= faults.length; start += kinds.length) {
      const round = faults.slice(start, start + kinds.length).map(({ kind }) => kind)
      assert.deepStrictEqual(round.toSorted(), kinds.toSorted())
    }
  })
)
