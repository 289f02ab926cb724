/** What the compiler says of mistakes: one error each, which names what is wrong. */
import { assert, it } from "@effect/vitest"
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { outcome, root, tsc } from "./run.ts"

const head = `
import { Effect, Schema } from "effect"
import { EventStore, Projection, Spool } from "effect-strata"
class Deposited extends Schema.TaggedClass<Deposited>()("Deposited", { amount: Schema.Int }) {}
class Withdrawn extends Schema.TaggedClass<Withdrawn>()("Withdrawn", { sum: Schema.Int }) {}
class Old extends Schema.TaggedClass<Old>()("Old", { sum: Schema.Int }) {}
const Accounts = EventStore.typed({ events: [Deposited, Withdrawn] })
const toWithdrawn = EventStore.upcast({ from: Old, to: Withdrawn, map: ({ sum }) => ({ sum }) })
const queue = Spool.make({ name: "q", payload: Deposited, policies: { urgent: Spool.fixed(1) } })
const deposited = new Deposited({ amount: 1 })
`

/** A line of a program, and what the error has to say that the compiler finds in it. */
const mistakes: ReadonlyArray<readonly [string, RegExp]> = [
  [`Projection.make({ name: "p" })`, /Property 'handler' is missing in type '\{ name: string; \}'/],
  [`Projection.make({ name: "p", events: Accounts })`, /Property 'handler' is missing/],
  [
    `Projection.make({ name: "p", events: Accounts, on: { Deposited: () => Effect.void } })`,
    /'Withdrawn' is missing|"pass"|'otherwise'/
  ],
  [
    `EventStore.typed({ events: [Deposited], upcast: [toWithdrawn] })`,
    /"\\"Withdrawn\\" is not among the events of this view"/
  ],
  [`queue.enqueue(deposited, { policy: "urgnet" })`, /"urgnet".* Did you mean '"urgent"'/],
  [`Projection.reset("p", "seven")`, /'string' is not assignable to parameter of type 'bigint'/]
]

it("the compiler names what is wrong", async () => {
  await mkdir(join(root, ".strata"), { recursive: true })
  const directory = await mkdtemp(join(root, ".strata", "mistakes-"))
  try {
    const lines = head.split("\n").length
    const program = mistakes.map(([line], index) => `export const mistake${index} = ${line}`)
    await writeFile(join(directory, "program.ts"), [...head.split("\n"), ...program].join("\n"))
    await writeFile(
      join(directory, "tsconfig.json"),
      JSON.stringify({ extends: "../../tsconfig.json", files: ["program.ts"], include: [] })
    )
    const args = [tsc, "--pretty", "false", "-p", "tsconfig.json"]
    const { output } = await outcome(process.execPath, args, { cwd: directory })
    const errors = output.split(/^(?=program\.ts\()/m)
    for (const [index, [line, says]] of mistakes.entries()) {
      const found = errors.filter((error) => error.startsWith(`program.ts(${lines + index + 1},`))
      assert.strictEqual(found.length, 1, `${line}\n${output}`)
      assert.match(found[0] ?? "", says)
    }
    assert.strictEqual(errors.filter((error) => error !== "").length, mistakes.length, output)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
})
