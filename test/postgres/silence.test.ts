/** When a connection that is silent is lost, without a server: samples of it go in, and what a server would say. */
import { assert, describe, it } from "@effect/vitest"
import * as Silence from "../../src/postgres/database/Silence.ts"

const seconds = 1000

/** A statement of a few bytes is sent in second 0, and nothing arrives. */
const sampleAt = (second: number, changes: Partial<Silence.Sample> = {}): Silence.Sample => ({
  at: second * seconds,
  received: 0,
  isAwaiting: true,
  quietAt: 0,
  sentSince: 100,
  ...changes
})

const begun = (onlyReads = false) => Silence.begin(sampleAt(0, { isAwaiting: false }), onlyReads)

const idle = (since = "noon", lastCameSecondsAgo = 0): Silence.Finding => ({
  _tag: "Idle",
  since,
  lastCameMillisAgo: lastCameSecondsAgo * seconds
})

type Say = (second: number) => Silence.Finding

/** Looks each second, and asks when it is due. Returns the loss, and the seconds in which the server was asked. */
const watch = (say: Say, sample = sampleAt, seconds = 60, onlyReads = false) => {
  let seen = begun(onlyReads)
  const asked: Array<number> = []
  for (let second = 1; second <= seconds; second++) {
    seen = Silence.see(seen, sample(second))
    if (!Silence.isDue(seen, sample(second).at)) continue
    asked.push(second)
    const judged = Silence.judge(seen, say(second), sample(second))
    if (Silence.isLoss(judged)) return { loss: judged, asked }
    seen = judged
  }
  return { loss: undefined, asked }
}

describe("a connection", () => {
  it("that answers is never asked about", () => {
    assert.deepStrictEqual(
      watch(
        () => idle(),
        (second) => sampleAt(second, { received: second })
      ).asked,
      []
    )
  })

  it("that waits for nothing is never asked about", () => {
    assert.deepStrictEqual(
      watch(
        () => idle(),
        (second) => sampleAt(second, { isAwaiting: false })
      ).asked,
      []
    )
  })

  it("is lost at once if its backend is gone", () => {
    assert.deepStrictEqual(
      watch(() => ({ _tag: "Gone" })),
      { loss: { _tag: "Gone" }, asked: [2] }
    )
  })

  it("is lost if its backend is idle at two looks", () => {
    assert.deepStrictEqual(
      watch(() => idle()),
      { loss: { _tag: "Idle", hasArrived: true }, asked: [2, 4] }
    )
  })

  it("is lost with a statement that has not arrived, if the last one came before that was sent", () => {
    const { loss } = watch((second) => idle("noon", second + 1))
    assert.deepStrictEqual(loss, { _tag: "Idle", hasArrived: false })
  })

  it("is not lost while its backend works, and the server is asked less often", () => {
    assert.deepStrictEqual(
      watch(() => ({ _tag: "Working" })),
      { loss: undefined, asked: [2, 4, 8, 16, 24, 32, 40, 48, 56] }
    )
  })

  it("is not lost if its backend has done something between two looks", () => {
    assert.isUndefined(watch((second) => idle(`second ${second}`)).loss)
  })

  it("is not lost if its backend was idle, then worked", () => {
    const { loss } = watch((second) => (second % 4 === 0 ? idle() : { _tag: "Working" }))
    assert.isUndefined(loss)
  })

  it("is not lost if part of the answer comes between two looks", () => {
    const { loss } = watch(
      () => idle(),
      (second) => sampleAt(second, { received: Math.floor(second / 3) })
    )
    assert.isUndefined(loss)
  })

  it("is not lost while a large statement may still be on its way", () => {
    const sentSince = 64 * 20 * seconds
    const { loss, asked } = watch(
      () => idle(),
      (second) => sampleAt(second, { sentSince })
    )
    assert.deepStrictEqual(loss, { _tag: "Idle", hasArrived: true })
    assert.isAbove(asked.at(-1) ?? 0, 20)
  })

  it("is lost if nobody can be reached for ten seconds", () => {
    const { asked, loss } = watch(() => ({ _tag: "Unreachable" }))
    assert.deepStrictEqual(loss, { _tag: "Unreachable" })
    assert.strictEqual(asked.at(-1), 10)
  })

  it("is not lost at the first look of a process that was busy for long", () => {
    const { loss } = watch(
      () => ({ _tag: "Unreachable" }),
      (second) => sampleAt(second * 100),
      2
    )
    assert.isUndefined(loss)
  })

  it("is not lost where the server does not say what the backend does", () => {
    assert.isUndefined(watch(() => ({ _tag: "Untold" })).loss)
  })

  it("is lost where nobody can tell, if everything on it only reads", () => {
    const { asked, loss } = watch(() => ({ _tag: "Untold" }), sampleAt, 60, true)
    assert.deepStrictEqual(loss, { _tag: "Untold" })
    assert.strictEqual(asked.at(-1), 16)
  })
})
