/** What a supervised process may do, and what is a mistake. */
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Schedule } from "effect"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { supervise } from "./processes.ts"

const begin = Effect.fnUntraced(function* (fate: string, patience = 30_000) {
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "strata-chaos-"))),
    (path) => Effect.sync(() => rmSync(path, { recursive: true }))
  )
  const one = yield* supervise({
    name: fate,
    script: new URL("subject.ts", import.meta.url),
    arguments: [fate],
    directory,
    patience,
    look: (application) => Effect.succeed(`the server has ${application}`)
  })
  yield* one.ready
  return { ...one, log: () => readFileSync(join(directory, `${fate}.log`), "utf8").split("\n") }
})

const eventually = (isSo: () => boolean) =>
  Effect.repeat(Effect.sync(isSo), { until: (now) => now, schedule: Schedule.spaced("10 millis") })

it.live("a process that is killed, and works again, makes no mistake", () =>
  Effect.gen(function* () {
    const one = yield* begin("works")
    yield* one.works
    yield* one.kill(10)
    yield* eventually(() => one.starts() === 2)
    yield* one.works
    yield* one.end
    assert.deepStrictEqual([one.mistakes, one.starts()], [[], 2])
  })
)

it.live("a process that ends by itself makes a mistake", () =>
  Effect.gen(function* () {
    const { mistakes } = yield* begin("ends")
    yield* eventually(() => mistakes.length > 0)
    assert.deepStrictEqual(mistakes[0], "ends has ended by itself: 3")
  })
)

it.live("a process that does not come back to its work makes a mistake", () =>
  Effect.gen(function* () {
    const { mistakes, works } = yield* begin("hangs", 300)
    yield* works
    assert.lengthOf(mistakes, 1)
    const says =
      /^hangs did not come back: hangs#1 was started [\d.]+ s ago; it (has never|last) worked[^;]*; the server has hangs#1$/
    assert.match(mistakes.join(), says)
  })
)

it.live("a process that does not end when it is told to makes a mistake", () =>
  Effect.gen(function* () {
    const { end, mistakes } = yield* begin("stays", 300)
    yield* end
    assert.match(
      mistakes.join(),
      /^stays did not end when it was told to: stays#1 was started [\d.]+ s ago; it [^;]+; the server has stays#1$/
    )
  })
)

it.live("a process that fails when it is told to end makes a mistake", () =>
  Effect.gen(function* () {
    const { end, mistakes } = yield* begin("fails at its end")
    yield* end
    assert.deepStrictEqual(mistakes, ["fails at its end has failed at its end: 4"])
  })
)

it.live("a process sees the steps of its clock in its dates, and nowhere else, and so does the process after it", () =>
  Effect.gen(function* () {
    const one = yield* begin("tells the time")
    const stepping = yield* Effect.forkChild(one.step(-90 * 60_000, 60_000))
    const has = (line: string) => eventually(() => one.log().includes(`${line}, 1970-01-01T00:00:00.000Z true`))
    yield* has("-90 -90 -90 0")
    yield* has("0 0 0 0")
    // This process has begun while the clock is set, so it sees the step at the end.
    while (!one.log().some((line) => line.startsWith("90 90 90 0"))) {
      yield* one.kill(0)
      yield* one.works
      yield* Effect.sleep(100)
    }
    yield* Fiber.interrupt(stepping)
  })
)
