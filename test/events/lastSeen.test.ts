/** The rule for what a reader has seen, without a database. */
import { assert, describe, it } from "@effect/vitest"
import { Option } from "effect"
import { EventStore } from "effect-strata"
import * as LastSeen from "../../src/events/LastSeen.ts"

const event = (version: number, id: string | undefined = `id ${version}`): LastSeen.SeenEvent => ({
  version: BigInt(version),
  id
})

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => event(from + index))

/** A reader that has seen the versions 1 to 10 on server A. */
const seen = LastSeen.add(LastSeen.of(0n), range(1, 10), 10n, "A")

const found = (server: string, events: ReadonlyArray<LastSeen.SeenEvent>, end = events.at(-1)?.version ?? 0n) => ({
  server,
  end,
  ids: new Map(events.flatMap(({ id, version }) => (id === undefined ? [] : [[version, id] as const])))
})

const replaced = (result: LastSeen.Seen | EventStore.LogReplaced) => {
  assert.instanceOf(result, EventStore.LogReplaced)
  return {
    version: result.version,
    found: Option.getOrUndefined(result.foundId),
    latest: result.latest,
    agreed: Option.getOrUndefined(result.lastAgreed)
  }
}

const goesOn = (result: LastSeen.Seen | EventStore.LogReplaced) => {
  assert.notInstanceOf(result, EventStore.LogReplaced)
  return result
}

describe("a reader that has seen events on a server", () => {
  it("goes on where they are still there, whichever server answers", () => {
    assert.deepStrictEqual(goesOn(LastSeen.compare(seen, found("A", range(1, 12)))), seen)
    assert.deepStrictEqual(goesOn(LastSeen.compare(seen, found("B", range(1, 12)))), { ...seen, server: "B" })
  })

  it("is told where another event has a version, and up to which version the log agrees", () => {
    const other = [...range(1, 6), event(7, "other"), ...range(8, 12)]
    for (const server of ["A", "B"]) {
      assert.deepStrictEqual(replaced(LastSeen.compare(seen, found(server, other))), {
        version: 10n,
        found: "id 10",
        latest: 12n,
        agreed: 6n
      })
    }
  })

  it("is told by another server where the last event is gone, at the end of the log and below it", () => {
    for (const end of [7n, 73n]) {
      const error = replaced(LastSeen.compare(seen, found("B", range(1, 7), end)))
      assert.deepStrictEqual(error, { version: 10n, found: undefined, latest: end, agreed: 7n })
    }
  })

  describe("has seen an event that was committed late, and is gone, below one that is still there", () => {
    const without = (gone: number) => range(1, 12).filter(({ version }) => version !== BigInt(gone))
    const look = (server: string) => ({ server, cursorId: "id 10", isAbove: true })

    it("is told by another server, which it asks, and of no version above the event as agreed", () => {
      assert.isFalse(LastSeen.isCertain(seen, look("B")))
      assert.strictEqual(replaced(LastSeen.compare(seen, found("B", without(4)))).agreed, 3n)
      const replacedToo = [...without(4).slice(0, 7), event(9, "other")]
      assert.strictEqual(replaced(LastSeen.compare(seen, found("B", replacedToo))).agreed, 3n)
    })

    it("goes on, on the same server and where it has seen the event long ago: it was deleted", () => {
      assert.isTrue(LastSeen.isCertain(seen, look("A")))
      assert.strictEqual(goesOn(LastSeen.compare(seen, found("A", without(4)))).version, 10n)
      const at = (millis: number) => performance.now() + millis
      let later = LastSeen.add(LastSeen.of(0n), range(1, 5), 5n, "A", at(0))
      later = LastSeen.add(later, [event(6)], 6n, "A", at(40_000))
      assert.strictEqual(replaced(LastSeen.compare(later, found("B", without(4)))).agreed, 3n)
      later = LastSeen.add(later, range(7, 10), 10n, "A", at(80_000))
      assert.strictEqual(goesOn(LastSeen.compare(later, found("B", without(4)))).version, 10n)
      assert.strictEqual(replaced(LastSeen.compare(later, found("B", without(6)))).agreed, 5n)
    })
  })

  it("remembers on the same server that events are gone, and is told if others come in their place", () => {
    for (const end of [7n, 73n]) {
      const after = goesOn(LastSeen.compare(seen, found("A", range(1, 7), end)))
      assert.strictEqual(after.version, 10n)
      assert.deepStrictEqual(after.events.slice(6), [
        event(7),
        { version: 8n, id: undefined },
        { version: 9n, id: undefined },
        { version: 10n, id: undefined }
      ])
      assert.deepStrictEqual(goesOn(LastSeen.compare(after, found("A", range(1, 7), end))), after)
      assert.strictEqual(replaced(LastSeen.compare(after, found("A", [...range(1, 7), event(8, "new")]))).agreed, 7n)
    }
  })

  it("goes back on another server to what is left, if it knew that the rest had been deleted", () => {
    const after = goesOn(LastSeen.compare(seen, found("A", range(1, 7))))
    assert.strictEqual(goesOn(LastSeen.compare(after, found("B", range(1, 7)))).version, 7n)
    const empty = goesOn(LastSeen.compare(seen, found("A", [])))
    assert.strictEqual(goesOn(LastSeen.compare(empty, found("B", []))).version, 0n)
    // With what is left, the other server has lost more.
    assert.strictEqual(replaced(LastSeen.compare(after, found("B", range(1, 6)))).agreed, 6n)
  })
})

describe("a cursor that was kept elsewhere", () => {
  const cursor = LastSeen.of({ version: 10n, id: "id 10" })

  it("is compared by its id, and is told where the log ends before it", () => {
    assert.strictEqual(goesOn(LastSeen.compare(cursor, found("A", range(1, 12)))).server, "A")
    assert.strictEqual(replaced(LastSeen.compare(cursor, found("A", [event(10, "other")]))).found, "other")
    for (const kept of [cursor, LastSeen.of(10n)]) {
      assert.strictEqual(replaced(LastSeen.compare(kept, found("A", range(1, 9)))).latest, 9n)
    }
  })

  it("counts as deleted where nothing is there below the end", () => {
    for (const kept of [cursor, LastSeen.of(10n)]) {
      const after = goesOn(LastSeen.compare(kept, found("A", [event(12)])))
      assert.deepStrictEqual(LastSeen.atCursor(after), { version: 10n, id: undefined })
    }
  })
})

describe("a cursor in what is archived, whose event was not looked up there", () => {
  it("is none of a deleted event, so that the event is no other one once it is restored", () => {
    const kept = LastSeen.of(10n)
    const now = goesOn(LastSeen.compare(kept, found("A", [event(12)])))
    const restored = found("A", [event(10), event(12)])
    assert.strictEqual(goesOn(LastSeen.compare(LastSeen.knownBelow(now, 11n, kept), restored)).version, 10n)
    // Where nothing is archived, it has come in the place of one that was gone.
    assert.strictEqual(replaced(LastSeen.compare(LastSeen.knownBelow(now, 0n, kept), restored)).found, "id 10")
  })
})

describe("what is remembered", () => {
  it("is bounded: the last events one by one, and the further back the fewer", () => {
    let many = LastSeen.of(0n)
    for (let first = 1; first < 100_000; first += 50) {
      many = LastSeen.add(many, range(first, first + 49), BigInt(first + 49), "A")
    }
    const versions = many.events.map(({ version }) => Number(version))
    assert.isAtMost(versions.length, 256)
    assert.deepStrictEqual(
      versions.slice(-100),
      range(99_901, 100_000).map(({ version }) => Number(version))
    )
    assert.isAtMost(versions[0] ?? 0, 50_000)
  })
})
