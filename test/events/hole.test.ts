/**
 * The rule for holes in every order of steps of a small log: no reader passes a version that may still come, and none waits
 * for one that cannot. Rules that are nearly right are found out, so the search shows something.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Hole from "../../src/events/Hole.ts"
import { type Limits, type Reader, reader, type Rule, search } from "./hole.model.ts"

const readers = ["tail", "bounded"] as const

const models = {
  "three writers and four versions": { transactions: 3, versions: 4 },
  "versions that are burned while their writer goes on": { transactions: 3, versions: 4, each: 1, burns: true },
  "prepared transactions and a crash": { transactions: 3, versions: 3, each: 1, prepares: true, crashes: 1 },
  "a standby that has stayed behind, and replaces the server": {
    transactions: 2,
    versions: 3,
    replaced: true
  }
} satisfies Record<string, Limits>

type Model = keyof typeof models

const names = Object.keys(models).filter((name): name is Model => name in models)

describe("the rule", () => {
  it.each(readers.flatMap((name) => names.map((model) => [name, model] as const)))(
    "gives a reader (%s) each event once and in order, and stalls for none that cannot come: %s",
    (name, model) => {
      const { places, wrong } = search(Hole, reader(name, Hole), models[model])
      assert.isUndefined(wrong)
      assert.isAbove(places, 8_000)
    }
  )
})

type Asking = Parameters<Rule["seeHolders"]>[0]

/** The rule, but it takes the holders for others. */
const withHolders = (change: (state: Asking, holders: ReadonlySet<string>) => Iterable<string>): Rule => ({
  ...Hole,
  seeHolders: (state, now) => Hole.seeHolders(state, { ...now, holders: new Set(change(state, now.holders)) })
})

/** The rule, but it takes all servers for one. */
const withOneServer: Rule = {
  ...Hole,
  seePage: (state, page) => Hole.seePage(state, { ...page, server: "any" }),
  seeHolders: (state, holders) => Hole.seeHolders(state, { ...holders, server: "any" })
}

const writers = "three writers and four versions"
const burned = "versions that are burned while their writer goes on"
const crash = "prepared transactions and a crash"
const standby = "a standby that has stayed behind, and replaces the server"

const wrongRules: ReadonlyArray<
  readonly [what: string, wrong: Rule, by: ReadonlyArray<Reader["name"]>, Model, RegExp]
> = [
  ["asks for the holders before the page", { ...Hole, holdersFirst: true }, readers, writers, /may still come/],
  ["passes every hole", withHolders(() => []), readers, writers, /may still come/],
  [
    "passes a hole once one of its holders is gone",
    withHolders((state, now) => (state.ask === "wait" && now.size < state.holders.size ? [] : now)),
    readers,
    writers,
    /may still come/
  ],
  [
    "passes a hole after a while",
    withHolders((state, now) => (state.ask === "wait" ? [] : now)),
    readers,
    writers,
    /may still come/
  ],
  [
    "delivers a page with its holes",
    {
      ...Hole,
      seePage: (state, page) => {
        const [first] = page.runs
        const last = page.runs.at(-1)
        return Hole.seePage(state, {
          ...page,
          runs: first === undefined || last === undefined ? [] : [{ first: state.after + 1n, last: last.last }]
        })
      }
    },
    readers,
    writers,
    /may still come/
  ],
  [
    "goes to the mark, beyond the end of a full page",
    {
      ...Hole,
      seePage: (state, page) => {
        const end =
          state.mark !== undefined && page.isFull ? [{ first: state.mark.version, last: state.mark.version }] : []
        return Hole.seePage(state, { ...page, runs: [...page.runs, ...end] })
      }
    },
    ["tail"],
    writers,
    /was not delivered/
  ],
  [
    "waits for every holder that comes later",
    {
      ...Hole,
      seeHolders: (state, now) =>
        Hole.seeHolders(state.ask === "wait" ? { ...state, holders: now.holders } : state, now)
    },
    readers,
    writers,
    /stalls/
  ],
  [
    "waits for its own transaction",
    {
      ...Hole,
      seeHolders: (state, now) =>
        Hole.seeHolders(
          state,
          state.ask === "wait" ? { ...now, holders: new Set([...now.holders, ...state.holders]) } : now
        )
    },
    readers,
    writers,
    /stalls/
  ],
  [
    "takes what it sees while it waits for what it saw before",
    {
      ...Hole,
      seePage: (state, page) => {
        const next = Hole.seePage(state, page)
        return next.ask === "wait" ? { ...next, highest: page.runs.at(-1)?.last ?? next.highest } : next
      }
    },
    ["tail"],
    burned,
    /may still come/
  ],
  [
    "asks for the holders anew after each page",
    {
      ...Hole,
      seePage: (state, page) => Hole.seePage(state.ask === "wait" ? Hole.begin(state.after, state.mark) : state, page)
    },
    ["tail"],
    writers,
    /stalls/
  ],
  [
    "goes back to a mark that it has passed",
    {
      ...Hole,
      seePage: (state, page) => {
        const { mark } = state
        return Hole.seePage(
          mark === undefined || mark.version > state.after ? state : { ...state, after: mark.version },
          page
        )
      }
    },
    ["tail"],
    writers,
    /goes back/
  ],
  [
    "delivers nothing while it waits",
    {
      ...Hole,
      seePage: (state, page) => (state.ask === "wait" ? state : Hole.seePage(state, page))
    },
    readers,
    writers,
    /stalls/
  ],
  [
    "remembers what it was told inside of a transaction",
    { ...Hole, remember: (before, state) => Hole.remember(before, state, false) },
    ["bounded"],
    writers,
    /may still come/
  ],
  [
    "takes a recovered transaction for another one",
    withHolders((state, now) => [...now].filter((id) => state.ask === "holders" || !id.startsWith("-1/"))),
    ["bounded"],
    crash,
    /may still come/
  ],
  ["takes another server for the same", withOneServer, ["bounded"], standby, /may still come/],
  [
    "takes another server for the same, and goes on where it was when its connection was lost",
    { ...withOneServer, keepsOnLoss: true },
    ["tail"],
    standby,
    /may still come/
  ],
  [
    "takes the mark of another server for its own",
    {
      ...Hole,
      seePage: (state, page) => {
        const mark = state.mark === undefined ? undefined : { ...state.mark, server: page.server }
        return Hole.seePage({ ...state, mark }, page)
      }
    },
    ["bounded"],
    standby,
    /may still come/
  ]
]

const page = (...versions: ReadonlyArray<bigint>): Hole.Page => ({
  server: "one",
  runs: Hole.runsOf(versions, (version) => version),
  isFull: false
})

const holders = (...ids: ReadonlyArray<string>): Hole.Holders => ({ server: "one", holders: new Set(ids) })

describe("a reader", () => {
  it("is asked one question after the other, and passes a dead hole when the holders are gone", () => {
    const begun = Hole.begin(9n)
    const asking = Hole.seePage(begun, page(10n, 12n))
    assert.deepStrictEqual(asking, { ask: "holders", after: 10n, mark: undefined, highest: 12n, server: "one" })
    assert(asking.ask === "holders")
    // @ts-expect-error The holders come next, and no page.
    Hole.seePage(asking, page(12n))
    // @ts-expect-error The page comes first, and no holders.
    Hole.seeHolders(begun, holders())
    const waiting = Hole.seeHolders(asking, holders("3/7", "4/9"))
    assert(waiting.ask === "wait")
    const still = Hole.seePage(waiting, page(12n, 13n))
    assert.deepStrictEqual(still, waiting)
    const marked = Hole.seeHolders(waiting, holders("5/1"))
    assert.deepStrictEqual(marked, Hole.begin(10n, { version: 12n, server: "one" }))
    assert(marked.ask === "page")
    assert.deepStrictEqual(Hole.seePage(marked, page(12n, 13n)), Hole.begin(13n, { version: 12n, server: "one" }))
  })

  it("does not trust a mark above the end of the log: the log has been set back, and draws those versions again", () => {
    const mark = { version: 12n, server: "one" }
    assert.strictEqual(Hole.seePage(Hole.begin(9n, mark), page(12n)).after, 12n)
    const back = Hole.seePage(Hole.begin(9n, mark), page(11n))
    assert.deepStrictEqual(back, { ask: "holders", after: 9n, mark: undefined, highest: 11n, server: "one" })
    assert.deepStrictEqual(Hole.seePage(Hole.begin(9n, mark), page()), Hole.begin(9n))
    // A reader that is beyond the mark forgets it, too, as another read could begin with it.
    assert.deepStrictEqual(Hole.seePage(Hole.begin(20n, mark), page(0n)), Hole.begin(20n))
    // The end of a full page is not the end of the log.
    const full = Hole.seePage(Hole.begin(9n, mark), { ...page(11n), isFull: true })
    assert.deepStrictEqual(full, Hole.begin(11n, mark))
  })

  it("sees the runs of a page, however many holes there are", () => {
    const runsOf = (...versions: ReadonlyArray<bigint>) =>
      page(...versions)
        .runs.map(({ first, last }) => `${first}-${last}`)
        .join(" ")
    assert.strictEqual(runsOf(), "")
    assert.strictEqual(runsOf(7n), "7-7")
    assert.strictEqual(runsOf(7n, 8n, 9n), "7-9")
    assert.strictEqual(runsOf(7n, 9n), "7-7 9-9")
    assert.strictEqual(runsOf(1n, 2n, 5n, 6n, 7n, 9n), "1-2 5-7 9-9")
  })

  it("does not wait any longer if what was above the hole is gone", () => {
    const asking = Hole.seePage(Hole.begin(9n), page(11n))
    assert(asking.ask === "holders")
    const waiting = Hole.seeHolders(asking, holders("3/7"))
    assert(waiting.ask === "wait")
    assert.deepStrictEqual(Hole.seePage(waiting, page()), Hole.begin(9n))
  })
})

describe("a rule is found out that", () => {
  it.each(
    wrongRules.flatMap(([what, rule, by, model, found]) => by.map((name) => [what, name, rule, model, found] as const))
  )("%s (%s)", (_, name, rule, model, found) => {
    assert.match(search(rule, reader(name, rule), models[model]).wrong ?? "nothing is wrong", found)
  })
})
