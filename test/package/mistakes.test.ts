/** What the compiler says of mistakes: one error each, which names what is wrong. */
import { assert, it } from "@effect/vitest"
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { outcome, root, tsc } from "./run.ts"

const head = `
import { Effect, Schema } from "effect"
import { Decision, Entity, EventStore, Projection, Spool, Transactor } from "effect-strata"
class Deposited extends Schema.TaggedClass<Deposited>()("Deposited", { amount: Schema.Int }) {}
class Withdrawn extends Schema.TaggedClass<Withdrawn>()("Withdrawn", { sum: Schema.Int }) {}
class Old extends Schema.TaggedClass<Old>()("Old", { sum: Schema.Int }) {}
const Accounts = EventStore.typed({ events: [Deposited, Withdrawn] })
class Joined extends Schema.TaggedClass<Joined>()("Joined", { club: Schema.String, member: Schema.Int }) {}
const Clubs = EventStore.typed({
  events: [Joined],
  tags: { Joined: ({ club, member }) => [\`club:\${club}\`, \`member:\${member}\`] }
})
const toWithdrawn = EventStore.upcast({ from: Old, to: Withdrawn, map: ({ sum }) => ({ sum }) })
const queue = Spool.make({ name: "q", payload: Deposited, policies: { urgent: Spool.fixed(1) } })
const deposited = new Deposited({ amount: 1 })
const account = { name: "account", events: Accounts, initial: () => 0 }
const Account = Entity.make({ ...account, apply: { Deposited: () => 0, Withdrawn: () => 0 } })
declare const accounts: Effect.Success<typeof Account>
class Overdrawn extends Schema.TaggedError<Overdrawn>()("Overdrawn", {}) {}
const refused = accounts.execute("anna", () => Effect.fail(new Overdrawn())).pipe(
  Effect.catchTag(["VersionConflict", "DuplicateEvent"], Effect.die)
)
type Loading = ReturnType<typeof accounts.load>
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
  [
    `Projection.make({ name: "p", events: Clubs, tags: ["clb:c1"], handler: () => Effect.void })`,
    /^.*Type '"clb:c1"' is not assignable to type '`club:\$\{string\}` \| `member:\$\{number\}`'/
  ],
  [
    `Decision.model({ events: Clubs, query: (club: string) => [{ tags: [\`clb:\${club}\`] }], initial: () => 0, evolve: () => 0 })`,
    / Type '`clb:\$\{string\}`' is not assignable to type '`club:\$\{string\}` \| `member:\$\{number\}`'/
  ],
  [
    `Decision.make({ events: Clubs, query: () => [{ tags: ["clb:c1"] }], initial: () => 0, evolve: () => 0, decide: () => [] })`,
    /^.*Type '"clb:c1"' is not assignable to type '`club:\$\{string\}` \| `member:\$\{number\}`'/
  ],
  [`queue.enqueue(deposited, { policy: "urgnet" })`, /"urgnet".* Did you mean '"urgent"'/],
  [
    `Projection.make({ name: "p", events: Accounts, on: { Deposited: ({ event }) => Effect.log(event.sum) }, otherwise: "pass" })`,
    /^.*Property 'sum' does not exist on type 'Deposited'/
  ],
  [`Entity.make(account)`, /^.*Property 'apply' is missing/],
  [`Entity.make({ name: "account", events: Accounts, apply: () => 0 })`, /^.*Property 'initial' is missing/],
  [`Entity.make({ ...account, apply: { Deposited: () => 0 } })`, /Property 'Withdrawn' is missing/],
  [
    `Entity.make({ ...account, apply: { Deposited: () => 0, Withdrawn: () => 0, Old: () => 0 } })`,
    /^.*'Old' does not exist/
  ],
  [
    `Entity.make({ ...account, apply: { Deposited: () => "0", Withdrawn: () => 0 } })`,
    /^.*'string' is not assignable to type 'number'/
  ],
  [`Entity.make({ ...account, events: [Deposited] })`, /^.*'\(typeof Deposited\)\[\]'.* 'TypedView/],
  [`accounts.execute("anna", () => new Old({ sum: 1 }))`, /'Old' is not assignable to type .*Deposited \| Withdrawn/],
  [`accounts.execute("anna", () => [], { Key: "a" })`, /^.*Did you mean to write 'key'/],
  // A failure that nobody has handled.
  [`refused satisfies Loading`, /Type '.*\bOverdrawn\b.*' is not assignable to type 'InvalidInput \| StoreError'/],
  // A service that nobody provides.
  [
    `Transactor.withTransaction(accounts.load("anna")) satisfies Loading`,
    /'Transactor' is not assignable to type 'never'/
  ],
  [`queue.enqueue(new Withdrawn({ sum: 1 }))`, /^.*Property 'amount' is missing in type 'Withdrawn'/],
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
