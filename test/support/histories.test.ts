/** What the checks of histories find: each wrong history here has one mistake. */
import { assert, describe, it } from "@effect/vitest"
import {
  type Entry,
  makeTally,
  miscounted,
  mishandled,
  misplaced,
  misread,
  mistakes,
  none,
  overlaps
} from "./histories.ts"

describe("mistakes of a reader", () => {
  const stored = [1n, 2n, 4n]

  it("are none where it has seen what is stored", () => assert.deepStrictEqual(mistakes([1n, 2n, 4n], stored), none))

  it.each([
    ["lost", [1n, 4n]],
    ["duplicated", [1n, 2n, 2n, 4n]],
    ["outOfOrder", [1n, 4n, 2n]],
    ["invented", [1n, 2n, 3n, 4n]]
  ] as const)("are counted: %s", (mistake, seen) =>
    assert.deepStrictEqual(mistakes(seen, stored), { ...none, [mistake]: 1 })
  )
})

describe("the history of a reader", () => {
  const at = (version: bigint) => ({ version, id: `${version}` })
  const [one, two, three, four] = [at(1n), at(2n), at(3n), at(4n)]
  // Two was lost with three when the log was set back. Two is another event now, and nothing has come at three.
  const other = { version: 2n, id: "other" }
  const stored = [one, other, four]
  const setBack = [two, three]

  it("is right where nobody has seen what was lost, or the reader was told of it, as often as the log was set back", () => {
    assert.deepStrictEqual(misread([[one], [other, four]], stored, setBack), [])
    assert.deepStrictEqual(misread([[one, two, three], { told: 1n }, [other], [four]], stored, setBack), [])
    const twice = [[one, two], { told: 1n }, [other, three], { told: 2n }, [four]]
    assert.deepStrictEqual(misread(twice, stored, setBack), [])
  })

  it.each([
    ["lost: 1", [[one, four]]],
    [
      "duplicated: 1",
      [
        [one, other],
        [other, four]
      ]
    ],
    ["outOfOrder: 1", [[one, four, other]]],
    ["invented: 1", [[one, other, { version: 3n, id: "invented" }, four]]],
    ["set back, and never told of: 1", [[one, other, three], [four]]],
    ["set back, and never told of: 1", [[one, two, three], { told: 2n }, [other, four]]],
    ["lost: 1", [[one, two], { told: 1n }, [four]]],
    ["duplicated: 1", [[one, two], { told: 1n }, [one, other, four]]],
    ["was told to go back to 3: nothing was lost above it", [[one, other, four], { told: 3n }, [four]]]
  ])("is wrong: %s", (mistake, history) => assert.deepStrictEqual(misread(history, stored, setBack), [mistake]))

  describe("whose cursor is all that is known", () => {
    const kept = { keepsCursor: true }
    const begun = { begun: true }

    it("is right where nobody has the version of its last event, or it was told", () => {
      assert.deepStrictEqual(misread([[one], [three], [four]], [one, four], setBack, kept), [])
      assert.deepStrictEqual(misread([[one, two, three], [four]], [one, four], setBack, kept), [])
      assert.deepStrictEqual(misread([begun, [one, three], begun, [four]], [one, four], setBack), [])
      assert.deepStrictEqual(misread([begun, [one, three], begun, [four]], stored, setBack), [])
      assert.deepStrictEqual(misread([begun, [one, two], { told: 1n }, begun, [other, four]], stored, setBack), [])
    })

    it("is wrong: it passes over an event below one that is there", () =>
      assert.deepStrictEqual(misread([begun, [one, four], begun], stored, setBack), ["lost: 1"]))

    it.each([
      ["another event has the version", [[one, two], [four]], kept],
      ["it has not begun again", [begun, [one, two], [four]], { keepsCursor: false }],
      ["it has gone on when it begins again", [begun, [one, two], [four], begun], { keepsCursor: false }]
    ])("is wrong: %s", (_, history, options) =>
      assert.deepStrictEqual(misread(history, stored, setBack, options), ["lost: 1", "set back, and never told of: 1"])
    )
  })

  it("is wrong: another event has taken the place of an event that was seen", () =>
    assert.deepStrictEqual(misread([[one, two, four]], stored, setBack), ["lost: 1", "set back, and never told of: 1"]))
})

describe("a tally", () => {
  it("knows each of many versions", () => {
    const tally = makeTally()
    const versions = Array.from({ length: 50_000 }, (_, index) => BigInt(index * 3 + 1))
    for (const version of versions) if (version !== 90_001n) tally.see(version)
    for (const version of versions) tally.store(version)
    assert.deepStrictEqual(tally.mistakes(), { ...none, lost: 1 })
    assert.deepStrictEqual([tally.seen(), tally.last()], [49_999, 149_998n])
  })
})

describe("writes, by their numbers of events", () => {
  it("are right", () =>
    assert.deepStrictEqual(
      miscounted(
        [
          { write: "a", events: 3, end: "acknowledged" },
          { write: "b", events: 3, end: "rolled back" },
          { write: "c", events: 3, end: "in doubt" },
          { write: "d", events: 3, end: "in doubt" }
        ],
        new Map([
          ["a", 3],
          ["d", 3]
        ])
      ),
      { counts: { acknowledged: 1, "rolled back": 1, "in doubt": 2 }, wrong: [] }
    ))

  it.each([
    ["lost", "acknowledged", 0],
    ["half there", "acknowledged", 2],
    ["stored twice", "acknowledged", 6],
    ["there in spite of a rollback", "rolled back", 1],
    ["half there, and in doubt", "in doubt", 2]
  ] as const)("are wrong: %s", (_, end, found) =>
    assert.deepStrictEqual(miscounted([{ write: "a", events: 3, end }], new Map([["a", found]])).wrong, [
      `a is ${end}: ${found} of 3`
    ])
  )

  it("are wrong: failed with an error that no fault explains", () =>
    assert.deepStrictEqual(miscounted([{ write: "a", events: 3, end: "in doubt", surprise: "Odd" }], new Map()).wrong, [
      "a: Odd"
    ]))

  it("are wrong: stored, but written by no process", () =>
    assert.deepStrictEqual(miscounted([], new Map([["x", 1]])).wrong, ["nobody has written x"]))
})

describe("writes", () => {
  const began = { write: "w", events: ["a", "b"], undone: ["u"], messages: ["m"] }
  const ended = (end: "acknowledged" | "rolled back" | "in doubt"): Entry => ({ write: "w", end })
  const all = { events: ["a", "b"], messages: ["m"] }
  const nothing = { events: [], messages: [] }
  const half = { events: ["a", "b"], messages: [] }

  it.each([
    ["acknowledged and there", [began, ended("acknowledged")], all],
    ["rolled back and gone", [began, ended("rolled back")], nothing],
    ["in doubt and there", [began, ended("in doubt")], all],
    ["in doubt and gone", [began, ended("in doubt")], nothing],
    ["of a process that was killed", [began], all]
  ] as const)("are right: %s", (_, history, stored) => assert.deepStrictEqual(misplaced(history, stored).wrong, []))

  it("are right: acknowledged, and gone, where the log was set back", () => {
    const acknowledged = [began, ended("acknowledged")]
    const lost = (...ids: ReadonlyArray<string>) => misplaced(acknowledged, nothing, new Set(ids)).wrong
    assert.deepStrictEqual(lost("a", "b", "m", "of another"), [])
    assert.deepStrictEqual(lost("a", "b"), ["w was acknowledged: 0 of 3"])
    assert.deepStrictEqual(misplaced(acknowledged, half, new Set(["m"])).wrong, ["w was acknowledged: 2 of 3"])
  })

  it.each([
    ["acknowledged and lost", [began, ended("acknowledged")], nothing, "w was acknowledged: 0 of 3"],
    ["acknowledged and half there", [began, ended("acknowledged")], half, "w was acknowledged: 2 of 3"],
    ["rolled back and there", [began, ended("rolled back")], all, "w was rolled back: 3 of 3"],
    ["in doubt and half there", [began, ended("in doubt")], half, "w is half there: 2 of 3"],
    ["of a killed process, half there", [began], half, "w is half there: 2 of 3"],
    [
      "with an undone savepoint that is there",
      [began],
      { ...all, events: ["a", "b", "u"] },
      "w has undone 1 that are there"
    ],
    ["stored twice", [began], { ...all, events: ["a", "b", "b"] }, "1 ids are stored more than once"],
    ["stored, but written by no process", [], { events: ["x"], messages: [] }, "nobody has written x"],
    [
      "failed with an error that no fault explains",
      [began, { write: "w", end: "in doubt", surprise: "Odd" }],
      nothing,
      "w: Odd"
    ]
  ] as const)("are wrong: %s", (_, history, stored, wrong) =>
    assert.deepStrictEqual(misplaced(history, stored).wrong, [wrong])
  )
})

describe("leases", () => {
  const lease = 3000
  const base = { id: "m", early: false, attemptsBefore: 0, attempts: 1, kept: false }
  const claimed = { ...base, from: 0, to: 1, began: 10_000, at: 10_010 }
  const released = { ...base, from: 1, to: 0, early: true, attemptsBefore: 1, attempts: 0, began: 10_020, at: 10_030 }
  const recovered = { ...base, from: 1, to: 0, attemptsBefore: 1, began: 13_005, at: 13_010 }
  const archived = { ...base, from: 1, to: 5, attemptsBefore: 1, began: 11_000, at: 11_000 }
  const renewed = { ...base, from: 1, to: 1, attemptsBefore: 1, kept: true, began: 12_000, at: 12_010 }
  const failed = { ...archived, to: 2 }

  it("may be renewed, and last longer then", () => {
    const later = { ...recovered, began: 15_005, at: 15_010 }
    assert.deepStrictEqual(overlaps([claimed, renewed, later], lease), [])
  })

  it("may be settled, may be released, and may be recovered once they have ended", () =>
    assert.deepStrictEqual(
      overlaps([claimed, released, claimed, recovered, claimed, failed, { ...claimed, from: 2 }, archived], lease),
      []
    ))

  it.each([
    [
      "taken from a worker that has one",
      [claimed, { ...claimed, from: 1, attemptsBefore: 1, attempts: 2 }],
      "m was claimed while it was active"
    ],
    ["taken over by another worker", [claimed, { ...renewed, kept: false }], "m was claimed while it was active"],
    [
      "recovered too soon after they were renewed",
      [claimed, renewed, { ...recovered, at: 14_990 }],
      "m was recovered before its lease had ended"
    ],
    [
      "recovered while they have time left",
      [claimed, { ...recovered, early: true }],
      "m was recovered before its lease had ended"
    ],
    [
      "recovered too soon, though their end is said to have come",
      [claimed, { ...recovered, at: 12_990 }],
      "m was recovered before its lease had ended"
    ],
    [
      "given for a message that has been settled",
      [claimed, archived, { ...claimed, from: 5 }],
      "m went from 5 to 1 after 5"
    ],
    ["given twice, one after the other", [claimed, claimed], "m went from 0 to 1 after 1"],
    ["settled by a worker that had none", [{ ...archived, from: 0 }], "m went from 0 to 5 after 0"]
  ] as const)("must not be %s", (_, transitions, wrong) =>
    assert.deepStrictEqual(overlaps(transitions, lease), [wrong])
  )
})

describe("messages", () => {
  const messages = [
    { id: "a:fine", state: 5 },
    { id: "b:hopeless", state: 4 }
  ]

  it("are handled once, or bounce without a trace", () => assert.deepStrictEqual(mishandled(messages, ["a:fine"]), []))

  it("may be handled again outside of transactions", () =>
    assert.deepStrictEqual(mishandled([{ id: "a:slow", state: 5 }], ["a:slow", "a:slow"]), []))

  it.each([
    ["never handled, and slow", [{ id: "a:slow", state: 5 }], [], "a:slow is in state 5, and was handled 0 times"],
    ["never handled", messages, [], "a:fine is in state 5, and was handled 0 times"],
    ["handled twice", messages, ["a:fine", "a:fine"], "a:fine is in state 5, and was handled 2 times"],
    ["half undone", messages, ["a:fine", "b:hopeless"], "b:hopeless is in state 4, and was handled 1 times"],
    ["not settled", [{ id: "a:fine", state: 1 }], ["a:fine"], "a:fine is in state 1, and was handled 1 times"]
  ] as const)("are wrong: %s", (_, stored, handled, wrong) =>
    assert.deepStrictEqual(mishandled(stored, handled), [wrong])
  )
})
