/** The rule by which processes divide shards, on random histories of joins, leaves and offers. */
import { assert, describe, it } from "@effect/vitest"
import type { Member, Offer } from "../../src/projection/Records.ts"
import { divide } from "../../src/projection/run/Division.ts"

/** Numbers that only look random: a history that fails can be run again by its seed. */
const randomOf = (seed: number) => {
  let state = seed
  return (below: number): number => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) | 0
    return ((state ^ (state >>> 13)) >>> 0) % below
  }
}

type Random = ReturnType<typeof randomOf>

const range = (count: number) => Array.from({ length: count }, (_, index) => index)

const shuffled = <A>(all: ReadonlyArray<A>, random: Random): ReadonlyArray<A> => {
  const rest = [...all]
  return range(all.length).flatMap(() => rest.splice(random(rest.length), 1))
}

const loadOf = ({ offers }: Member) => offers.reduce((sum, { own }) => sum + own.length, 0)

const unitsOf = ({ id, offers }: Member) =>
  offers.flatMap(({ name, own }) => own.map((shard) => [`${name}/${shard}`, id] as const))

const ownersOf = (members: ReadonlyArray<Member>): ReadonlyMap<string, string> => new Map(members.flatMap(unitsOf))

const shardsOf = (members: ReadonlyArray<Member>) =>
  new Set(
    members.flatMap(({ offers }) =>
      offers.flatMap(({ name, shards }) => range(shards).map((shard) => `${name}/${shard}`))
    )
  )

/** Every shard that is offered has one owner, which offers it. */
const assertComplete = (members: ReadonlyArray<Member>) => {
  assert.deepStrictEqual(
    members
      .flatMap(unitsOf)
      .map(([unit]) => unit)
      .sort(),
    [...shardsOf(members)].sort()
  )
}

/** How many shards of members that stay are somewhere else than before. */
const movedBetween = (before: ReadonlyArray<Member>, after: ReadonlyArray<Member>): number => {
  const stay = new Set(after.map(({ id }) => id))
  const owners = ownersOf(after)
  return [...ownersOf(before)].filter(([unit, id]) => stay.has(id) && owners.has(unit) && owners.get(unit) !== id)
    .length
}

const spreadOf = (members: ReadonlyArray<Member>) => {
  const loads = members.map(loadOf)
  return Math.max(...loads) - Math.min(...loads)
}

/** The fewest shards that any division moves in which no two members differ by more than one. */
const fewestMoves = (before: ReadonlyArray<Member>, after: ReadonlyArray<Member>): number => {
  const total = shardsOf(after).size
  const kept = after
    .map(({ id }) => before.find((member) => member.id === id))
    .map((member) => (member === undefined ? 0 : loadOf(member)))
    .sort((a, b) => b - a)
  const least = Math.floor(total / after.length)
  // Those that have the most may keep one more.
  return kept.reduce((sum, load, index) => sum + Math.max(0, load - least - (index < total % after.length ? 1 : 0)), 0)
}

const histories = range(60)

describe("the division of shards, where all processes offer the same", () => {
  it.each(histories)(
    "is even within one, and moves only what must move, through joins and leaves: history %i",
    (seed) => {
      const random = randomOf(seed)
      const offers = range(1 + random(20)).map((n): Offer => ({
        name: `p${n}`,
        shards: [1, 1, 4, 16][random(4)] ?? 1,
        own: []
      }))
      let members: ReadonlyArray<Member> = []
      for (const step of range(20)) {
        const isLeaving = members.length > 1 && random(3) === 0
        const gone = random(Math.max(1, members.length))
        const next = isLeaving
          ? members.filter((_, index) => index !== gone)
          : [...members, { id: `m${seed}-${step}`, offers }]
        const divided = divide(next)
        assertComplete(divided)
        assert.isAtMost(spreadOf(divided), 1)
        assert.strictEqual(movedBetween(members, divided), fewestMoves(members, divided))
        // Whoever divides has the same result, in whatever order the members stand, and nothing is left to move.
        assert.deepStrictEqual(divide(shuffled(next, random)), divided)
        assert.deepStrictEqual(divide(divided), divided)
        members = divided
      }
    }
  )

  it("runs twelve projections of one shard on four processes three each", () => {
    const offers = range(12).map((n): Offer => ({ name: `p${n}`, shards: 1, own: [] }))
    assert.deepStrictEqual(divide(["a", "b", "c", "d"].map((id) => ({ id, offers }))).map(loadOf), [3, 3, 3, 3])
  })

  it("spreads each projection, too: a busy one is not left to one process", () => {
    const offers = range(4).map((n): Offer => ({ name: `p${n}`, shards: 16, own: [] }))
    let members: ReadonlyArray<Member> = []
    for (const id of range(8).map((n) => `m${n}`)) {
      members = divide([...members, { id, offers }])
      for (const { offers } of members) {
        for (const { own } of offers) assert.closeTo(own.length, 16 / members.length, 2)
      }
    }
  })
})

/** The highest load in the best of all divisions. */
const leastHighest = (members: ReadonlyArray<Member>): number => {
  const units = [...shardsOf(members)]
  const loads = new Map(members.map(({ id }) => [id, 0]))
  const eligible = units.map((unit) =>
    members.filter(({ offers }) =>
      offers.some(({ name, shards }) => range(shards).some((n) => `${name}/${n}` === unit))
    )
  )
  const best = (index: number): number => {
    const candidates = eligible[index]
    if (candidates === undefined) return Math.max(...loads.values())
    return Math.min(
      ...candidates.map(({ id }) => {
        loads.set(id, (loads.get(id) ?? 0) + 1)
        const found = best(index + 1)
        loads.set(id, (loads.get(id) ?? 0) - 1)
        return found
      })
    )
  }
  return best(0)
}

describe("the division of shards, where processes offer different projections", () => {
  it.each(histories)("loads no process more than the best division does: history %i", (seed) => {
    const random = randomOf(seed + 1000)
    const counts = new Map(range(4).map((n) => [`p${n}`, 1 + random(2)]))
    let members: ReadonlyArray<Member> = []
    for (const step of range(8)) {
      const offers = [...counts].flatMap(([name, shards]): ReadonlyArray<Offer> =>
        random(2) === 0 ? [{ name, shards, own: [] }] : []
      )
      const stay = members.filter(() => random(4) > 0).slice(-3)
      const next = [...stay, { id: `m${seed}-${step}`, offers }]
      const divided = divide(next)
      assertComplete(divided)
      assert.strictEqual(Math.max(...divided.map(loadOf)), leastHighest(next))
      assert.deepStrictEqual(divide(shuffled(next, random)), divided)
      members = divided
    }
  })

  it("gives a specialised process its own, and takes from it what others can do", () => {
    const general = { id: "a", offers: [{ name: "common", shards: 4, own: [0, 1, 2, 3] }] }
    const special = {
      id: "b",
      offers: [
        { name: "common", shards: 4, own: [] },
        { name: "special", shards: 4, own: [] }
      ]
    }
    assert.deepStrictEqual(divide([general, special]), [
      general,
      {
        id: "b",
        offers: [
          { name: "common", shards: 4, own: [] },
          { name: "special", shards: 4, own: [0, 1, 2, 3] }
        ]
      }
    ])
  })

  it("moves shards on by way of a third process", () => {
    const offer = (name: string, own: ReadonlyArray<number>): Offer => ({ name, shards: own.length, own })
    const divided = divide([
      { id: "a", offers: [offer("x", [0, 1, 2])] },
      { id: "b", offers: [{ name: "x", shards: 3, own: [] }, offer("y", [0, 1])] },
      { id: "c", offers: [{ name: "y", shards: 2, own: [] }] }
    ])
    assert.isAtMost(Math.max(...divided.map(loadOf)), 2)
    assertComplete(divided)
  })

  it("gives a shard that two have to one of them", () => {
    const offers = [{ name: "x", shards: 2, own: [0, 1] }]
    const divided = divide([
      { id: "a", offers },
      { id: "b", offers }
    ])
    assertComplete(divided)
    assert.deepStrictEqual(divided.map(loadOf), [1, 1])
  })
})
