/** What the bench says of two runs: nothing, if they took place under different settings. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result, Schema } from "effect"
import { readFile, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Printing from "../bench/printing.ts"
import * as Progress from "../bench/progress.ts"
import { compare, differences, type Measurement, type Report, ReportFile } from "../bench/report.ts"
import { readResults } from "../guides/figures.ts"
import { temporaryDirectory } from "../package/project.ts"
import { outcome, root } from "../package/run.ts"
import { postgresUrl } from "./database.ts"

const settings = { mode: "full", fsync: "on", shared_buffers: "128MB" }

const measured = (ratio: number, changed: Partial<Measurement> = {}): Measurement => ({
  name: "append/1",
  unit: "events/s",
  strata: ratio * 1000,
  other: 1000,
  otherName: "bare driver",
  ratio,
  min: ratio - 0.1,
  max: ratio + 0.1,
  conditions: "1 fiber",
  ...changed
})

const report = (...measurements: ReadonlyArray<Measurement>): Report => ({ library: "1", settings, measurements })

describe("settings", () => {
  it("that are the same do not differ", () => assert.deepStrictEqual(differences(settings, { ...settings }), []))

  it("differ in their values, and where one is not told", () =>
    assert.deepStrictEqual(differences({ ...settings, jit: "on" }, { ...settings, fsync: "off", node: "24" }), [
      "fsync: on then, off now",
      "jit: on then, not told now",
      "node: not told then, 24 now"
    ]))
})

describe("a comparison", () => {
  const verdict = (earlier: Measurement, now: Measurement) =>
    Result.map(compare(report(earlier), report(now)), (changes) => changes.map(({ verdict }) => verdict))

  it("of runs under different settings says only which", () =>
    assert.deepStrictEqual(
      compare(report(measured(1)), { ...report(measured(2)), settings: { ...settings, fsync: "off" } }),
      Result.fail(["fsync: on then, off now"])
    ))

  it("is about the library, so that may differ", () =>
    assert.deepStrictEqual(
      compare(report(measured(1)), { ...report(measured(2)), library: "2" }),
      Result.succeed([{ name: "append/1", earlier: 1, now: 2, verdict: "higher" as const }])
    ))

  it.each([
    ["higher", measured(1.21)],
    ["lower", measured(0.79)],
    ["within the range", measured(1.19)],
    ["within the range", measured(0.81)],
    ["other conditions", measured(2, { conditions: "2 fibers" })],
    ["other conditions", measured(2, { otherName: "same without them" })],
    ["other conditions", measured(2, { unit: "ms" })]
  ] as const)("says %s of a ratio", (expected, now) =>
    assert.deepStrictEqual(verdict(measured(1), now), Result.succeed([expected]))
  )

  it("takes one round for noisy, as it has no range", () => {
    const once = (ratio: number) => measured(ratio, { min: ratio, max: ratio })
    assert.deepStrictEqual(verdict(once(1), once(1.09)), Result.succeed(["within the range"]))
    assert.deepStrictEqual(verdict(once(1), once(1.2)), Result.succeed(["higher"]))
    assert.deepStrictEqual(verdict(once(1), once(0.8)), Result.succeed(["lower"]))
  })

  it("names first what has changed beyond the noise", () => {
    const named = (name: string, ratio: number) => measured(ratio, { name })
    const [then, now] = [
      [named("a", 1), named("b", 1), named("c", 1)],
      [named("a", 1), named("b", 2), named("c", 0.5)]
    ]
    const printed = (now: ReadonlyArray<Measurement>) =>
      Result.map(compare(report(...then), report(...now)), (changes) =>
        Printing.changes(changes).map((line) => line.replaceAll(/ +/g, " "))
      )
    assert.deepStrictEqual(
      printed(now),
      Result.succeed([
        "Changed beyond the noise:",
        "b 1.00 2.00 higher",
        "c 1.00 0.50 lower",
        "",
        "Within the range of their rounds:",
        "a 1.00 1.00 within the range"
      ])
    )
    assert.deepStrictEqual(
      Result.map(printed(then), ([first]) => first),
      Result.succeed("Nothing has changed beyond the noise.")
    )
  })

  it("leaves out what only one of them has", () =>
    assert.deepStrictEqual(verdict(measured(1), measured(2, { name: "append/256" })), Result.succeed([])))
})

describe("what is printed of a report", () => {
  const writers = (count: number, strata: number, other: number) =>
    measured(strata / other, { name: `append/writers-${count}`, strata, other })

  it("has a chart of the writers, if they were measured", () => {
    assert.isUndefined(Printing.writersChart(report(measured(1))))
    const drawn = Printing.writersChart(report(writers(1, 10, 20), writers(16, 40, 41), measured(1))) ?? ""
    assert.lengthOf(drawn.match(/<circle /g) ?? [], 4)
    // Both lines end at nearly the same place.
    const [strata = 0, bare = 0] = ["Strata", "bare driver"].map((name) =>
      Number(new RegExp(`<text x="[^"]+" y="([^"]+)" [^>]*>${name}</text>`).exec(drawn)?.[1])
    )
    assert.isAtLeast(strata - bare, 16)
  })

  it("has a table for the guide, without what the chart shows", () => {
    const lines = Printing.markdown(report(measured(1), writers(1, 10, 20))).split("\n")
    assert.deepStrictEqual(
      lines.filter((line) => line.includes("append/")),
      ["| `append/1` | 1,000 | 1,000 | 1.00 | 0.90-1.10 | events/s, 1 fiber, against the bare driver |  |"]
    )
  })
})

describe("the progress of a run", () => {
  const place = { name: "append/1", figure: 3, figures: 10, round: 6, rounds: 12 }

  it("says which figure of how many, the round, and what is left if all figures take as long", () => {
    assert.strictEqual(
      Progress.lineOf(place, 70_000),
      `[${"#".repeat(10)}${".".repeat(20)}] 4 of 10: append/1, round 7 of 12, about 2 min left`
    )
    assert.include(Progress.lineOf({ ...place, figure: 9 }, 95_000), "about 5 s left")
    assert.strictEqual(
      Progress.lineOf({ ...place, figure: 0, round: 0 }, 0),
      `[${".".repeat(30)}] 1 of 10: append/1, round 1 of 12`
    )
  })

  it.effect("is drawn in one line of a terminal, and nowhere else", () =>
    Effect.gen(function* () {
      for (const isTTY of [true, false]) {
        const written: Array<string> = []
        const progress = yield* Progress.make({ isTTY, write: (text) => written.push(text) })
        yield* progress.at(place)
        yield* progress.erase
        const line = Progress.lineOf(place, 0)
        assert.deepStrictEqual(written, isTTY ? [`\r\u001b[K${line}`, "\r\u001b[K"] : [])
      }
    })
  )
})

describe("npm run figures", () => {
  it("makes documents and pictures of a file of results, and names figures that it lacks", async () => {
    const directory = await temporaryDirectory()
    try {
      const figures = (results: Report) =>
        writeFile(join(directory, "results.json"), Schema.encodeSync(ReportFile)(results)).then(() =>
          outcome(
            process.execPath,
            [
              "--conditions=@effect-strata/source",
              join(root, "test/guides/figures.ts"),
              "--results",
              join(directory, "results.json"),
              "--into",
              directory
            ],
            { cwd: root }
          )
        )
      const results = await readResults()
      const decided = ["condition-1", "condition-16", "condition-256", "tags-1", "read", "hot"].map((name) =>
        measured(0.5, { name: `decide/${name}` })
      )
      const ours = results.measurements.map((each) => (each.name === "append/1" ? measured(0.25) : each))
      const peer = measured(3, { name: "pg-boss/send" })
      const made = await figures({ ...results, measurements: [...ours, ...decided, peer] })
      assert.strictEqual(made.status, 0, made.output)
      const read = (file: string) => readFile(join(directory, file), "utf8")
      const [readme, guide, picture] = [
        await read("README.md"),
        await read("resources.guides.measurements.md"),
        await read("resources.guides.ratios.svg")
      ]
      assert.include(readme, "An append takes 4.00 times as long")
      assert.include(guide, "An append with a condition is 0.50 times as fast")
      assert.include(guide, "| `decide/hot` |")
      assert.include(guide, "| `pg-boss/send` |")
      assert.include(picture, ">0.25 x</text>")

      const lacking = await figures({ ...results, measurements: [measured(1)] })
      assert.notStrictEqual(lacking.status, 0)
      assert.include(lacking.output, "figures are missing")
    } finally {
      await rm(directory, { recursive: true })
    }
  })
})

describe("npm run bench", () => {
  const main = join(root, "test", "bench", "main.ts")
  const bench = (...args: ReadonlyArray<string>) => {
    const all = [main, "--quick", "--only", "offset/advance-1", "--url", postgresUrl, ...args]
    return outcome(process.execPath, ["--conditions=@effect-strata/source", ...all], { cwd: root })
  }

  it("says how it is run, and what it can measure", async () => {
    const { output, status } = await bench("--help")
    assert.strictEqual(status, 0, output)
    for (const flag of ["--only", "--quick", "--peers", "--url", "--json", "--compare"])
      assert.include(output, `  ${flag} `)
    assert.include(output, "\n  decide/condition-16\n")
  })

  it.live("writes what it compares, and refuses what was measured under other settings", () =>
    Effect.gen(function* () {
      const directory = yield* Effect.acquireRelease(Effect.promise(temporaryDirectory), (directory) =>
        Effect.promise(() => rm(directory, { recursive: true }))
      )
      const file = join(directory, "report.json")
      const first = yield* Effect.promise(() => bench("--json", file))
      assert.strictEqual(first.status, 0, first.output)
      const written = yield* Schema.decodeEffect(ReportFile)(yield* Effect.promise(() => readFile(file, "utf8")))
      assert.deepStrictEqual(
        written.measurements.map(({ name }) => name),
        ["offset/advance-1"]
      )
      assert.containsAllKeys(written.settings, ["machine", "node", "effect", "driver", "fsync", "synchronous_commit"])

      const second = yield* Effect.promise(() => bench("--compare", file))
      assert.strictEqual(second.status, 0, second.output)
      assert.match(second.output, /beyond the noise/)
      // It is not on a terminal.
      assert.notInclude(second.output, "\r")
      assert.match(second.output, /offset\/advance-1 .* (higher|lower|within the range)\n/)

      const other = { ...written, settings: { ...written.settings, work_mem: "1GB" } }
      const text = yield* Schema.encodeEffect(ReportFile)(other)
      yield* Effect.promise(() => writeFile(file, text))
      const third = yield* Effect.promise(() => bench("--compare", file))
      assert.strictEqual(third.status, 1, third.output)
      assert.include(third.output, `work_mem: 1GB then, ${written.settings["work_mem"]} now`)
      assert.notInclude(third.output, "offset/advance-1")
    })
  )
})
