/** How often readers look where no notification arrives. */
import { assert, it } from "@effect/vitest"
import { Duration } from "effect"
import { makePace } from "../../src/postgres/wakeups/Pace.ts"

it("they look once a second while there is work in the table, and less often once there is none", () => {
  let now = 1000
  const pace = makePace(() => now)
  const waits = () => [Duration.format(pace.wait("spool")), Duration.format(pace.wait("offsets"))]
  assert.deepStrictEqual(waits(), ["1s", "1s"])
  now += 29_000
  pace.found("spool")
  assert.deepStrictEqual(waits(), ["1s", "1s"])
  now += 1000
  assert.deepStrictEqual(waits(), ["1s", "5s"])
  now += 29_000
  assert.deepStrictEqual(waits(), ["5s", "5s"])
  pace.found("spool")
  assert.deepStrictEqual(waits(), ["1s", "5s"])
})
