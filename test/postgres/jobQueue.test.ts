/** The rules by which jobs go together, over random programs that submit, start, finish and cancel them. */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Schema } from "effect"
import { type Batch, type Entry, type Job, JobQueue } from "../../src/postgres/database/JobQueue.ts"

/** Small, so that random programs reach each of them. */
const limits = { batches: 2, slowBatches: 2, undividedJobs: 3, batch: { jobs: 5, keys: 6, bytes: 100 } }

interface NumberedJob extends Job {
  /** Its place in the order of submission. */
  readonly number: number
}

const smallInt = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
const letter = Schema.Literals(["a", "b", "c", "d", "e", "f"])
const keys = Schema.Union([Schema.Tuple([]), Schema.Tuple([letter]), Schema.Tuple([letter, letter])])

/** A step of a program. A number stands for one of the batches, or of the entries, that there are. */
const Step = Schema.Struct({
  action: Schema.Literals(["submit", "submit", "submit", "take", "take", "look", "finish", "endAlone", "cancel"]),
  shared: keys,
  exclusive: keys,
  unordered: keys,
  reads: keys,
  writes: keys,
  kind: Schema.Literals(["plain", "plain", "plain", "checked"]),
  size: smallInt(60),
  place: smallInt(20),
  blocked: Schema.Tuple([Schema.Boolean, Schema.Boolean, Schema.Boolean, Schema.Boolean, Schema.Boolean])
})

const programs = Arbitrary.array(Arbitrary.schema(Step), { minLength: 40, maxLength: 120 })

const orderedKeysOf = ({ exclusive, shared }: Job) => [...shared, ...exclusive]
const keysOf = (job: Job) => [...orderedKeysOf(job), ...job.unordered]

/** Whether the jobs can neither be done at the same time, nor in another order. */
const conflict = (one: Job, other: Job) =>
  orderedKeysOf(one).some((key) => keysOf(other).includes(key)) ||
  orderedKeysOf(other).some((key) => keysOf(one).includes(key))

const overtakes = ({ writes = [] }: Job, { reads = [] }: Job) => writes.some((key) => reads.includes(key))

/** Whether the jobs can be done in the same batch. */
const together = (one: Job, other: Job) =>
  one.kind === other.kind &&
  !overtakes(one, other) &&
  !overtakes(other, one) &&
  !one.exclusive.some((key) => keysOf(other).includes(key)) &&
  !other.exclusive.some((key) => keysOf(one).includes(key))

/** Runs a program on a queue, and checks after each step what the queue promises. */
class Model {
  readonly queue = new JobQueue<NumberedJob, undefined>(limits)
  readonly queued = new Set<Entry<NumberedJob, undefined>>()
  readonly batches: Array<{ readonly batch: Batch<NumberedJob, undefined>; looks: number }> = []
  readonly alone = new Set<Entry<NumberedJob, undefined>>()
  readonly done: Array<NumberedJob> = []
  readonly cancelled = new Set<NumberedJob>()
  submitted = 0

  get underWay() {
    return [...this.batches.map(({ batch }) => batch.entries), ...[...this.alone].map((entry) => [entry])]
  }

  submit(job: Job) {
    const shared = job.shared.filter((key, index) => job.shared.indexOf(key) === index)
    const exclusive = job.exclusive.filter(
      (key, index) => job.exclusive.indexOf(key) === index && !shared.includes(key)
    )
    const unordered = job.unordered.filter(
      (key, index) => job.unordered.indexOf(key) === index && ![...shared, ...exclusive].includes(key)
    )
    this.queued.add(this.queue.submit({ ...job, shared, exclusive, unordered, number: this.submitted++ }, undefined))
  }

  take() {
    const [head] = this.queued
    const batch = this.queue.take()
    const isFree = (entry: Entry<NumberedJob, undefined>) =>
      !this.underWay.flat().some((other) => conflict(entry.job, other.job))
    if (batch === undefined) {
      const slow = this.batches.filter(({ looks }) => looks === 2).length
      // With room for a batch, the first job of the queue waits only for a job that is under way.
      if (this.batches.length - slow < limits.batches) assert.isFalse(head !== undefined && isFree(head))
      return false
    }
    const { entries } = batch
    const jobs = entries.map(({ job }) => job)
    assert.isAbove(entries.length, 0)
    for (const [place, entry] of entries.entries()) {
      assert.isTrue(this.queued.delete(entry), "it was in the queue")
      assert.isTrue(isFree(entry), "it does not touch what is under way")
      assert.isTrue(
        jobs.slice(0, place).every((other) => together(entry.job, other)),
        "it goes with the others"
      )
      assert.isFalse(
        [...this.queued].some(({ job }) => job.number < entry.job.number && conflict(job, entry.job)),
        "it overtakes no job that it has a key in common with"
      )
    }
    // The first job of the queue goes as soon as it can, so no job waits for ever.
    if (head !== undefined && isFree(head)) assert.include(entries, head)
    if (jobs.length > 1) {
      assert.isAtMost(jobs.length, limits.batch.jobs)
      assert.isAtMost(jobs.flatMap(keysOf).length, limits.batch.keys)
      assert.isAtMost(
        jobs.reduce((sum, { size }) => sum + size, 0),
        limits.batch.bytes
      )
    }
    this.batches.push({ batch, looks: 0 })
    const slow = this.batches.filter(({ looks }) => looks === 2).length
    assert.isAtMost(this.batches.length - slow, limits.batches)
    return true
  }

  look() {
    this.queue.look()
    for (const running of this.batches) {
      const slow = this.batches.filter(({ looks }) => looks === 2).length
      if (running.looks === 0 || (running.looks === 1 && slow < limits.slowBatches)) running.looks++
    }
    assert.isAtMost(this.batches.filter(({ looks }) => looks === 2).length, limits.slowBatches)
  }

  finish(index: number, wishes: ReadonlyArray<boolean>) {
    const [running] = this.batches.splice(index % Math.max(1, this.batches.length), 1)
    if (running === undefined) return
    const { entries } = running.batch
    // A job whose key another transaction holds blocks the jobs that come after it with the same key.
    const blocked: Array<boolean> = []
    for (const [place, { job }] of entries.entries()) {
      blocked.push(
        wishes[place] === true || entries.some((other, before) => blocked[before] === true && conflict(job, other.job))
      )
    }
    const back: Array<Entry<NumberedJob, undefined>> = []
    this.queue.finish(running.batch, (place) => blocked[place] === true)
    for (const [place, entry] of entries.entries()) {
      if (blocked[place] !== true) {
        this.done.push(entry.job)
        this.queue.leave(entry)
      } else if (this.cancelled.has(entry.job)) {
        assert.strictEqual(entry.state, "left")
      } else if (entry.state === "alone") {
        assert.isFalse(
          [...this.alone].some(({ job }) => conflict(job, entry.job)),
          "no job that is done alone has a key in common with it"
        )
        this.alone.add(entry)
      } else {
        assert.strictEqual(entry.state, "queue")
        assert.isTrue(
          [...this.alone, ...back].some(({ job }) => conflict(job, entry.job)),
          "a job that waits before it has a key in common with it"
        )
        back.push(entry)
      }
    }
    const rest = [...this.queued]
    this.queued.clear()
    for (const entry of [...back, ...rest]) this.queued.add(entry)
  }

  endAlone(index: number) {
    const entry = [...this.alone][index % Math.max(1, this.alone.size)]
    if (entry === undefined) return
    this.alone.delete(entry)
    this.queue.leave(entry)
    this.done.push(entry.job)
  }

  cancel(index: number) {
    const all = [...this.queued, ...this.underWay.flat()].filter(({ state }) => state !== "left")
    const entry = all[index % Math.max(1, all.length)]
    if (entry === undefined) return
    const before = entry.state
    this.queue.leave(entry)
    this.cancelled.add(entry.job)
    if (before !== "batch") {
      this.queued.delete(entry)
      this.alone.delete(entry)
    }
  }

  step(step: typeof Step.Type) {
    const { action, blocked, exclusive, kind, place, reads, shared, size, unordered, writes } = step
    switch (action) {
      case "submit":
        return this.submit({ shared, exclusive, unordered, reads, writes, kind, size })
      case "finish":
        return this.finish(place, blocked)
      case "endAlone":
        return this.endAlone(place)
      case "cancel":
        return this.cancel(place)
      default:
        return this[action]()
    }
  }

  /** Goes on until nothing is left to do. */
  drain() {
    let rounds = 0
    while (this.queued.size > 0 || this.underWay.length > 0) {
      assert.isBelow(rounds++, 1000, "it comes to an end")
      while (this.take()) this.look()
      this.finish(0, [])
      this.endAlone(0)
    }
  }
}

describe("the queue of jobs", () => {
  it.effect.prop(
    "does each job once, in order where jobs have a key in common, within its limits",
    [programs],
    ([program]) =>
      Effect.sync(() => {
        const model = new Model()
        for (const step of program) model.step(step)
        model.drain()
        const numbers = model.done.map(({ number }) => number)
        assert.strictEqual(new Set(numbers).size, numbers.length, "no job is done twice")
        const missing = [...Array(model.submitted).keys()].filter((number) => !numbers.includes(number))
        const cancelled = [...model.cancelled].map(({ number }) => number)
        assert.includeMembers(cancelled, missing, "only a cancelled job is not done")
        for (const [place, job] of model.done.entries()) {
          const overtaken = model.done
            .slice(place + 1)
            .find((other) => other.number < job.number && conflict(other, job))
          assert.isUndefined(overtaken, "jobs with a key in common are done in their order")
        }
        assert.isTrue(model.queue.size === 0 && model.queue.hasRoom)
      }),
    { arbitrary: { runs: 3000 } }
  )

  it("divides a queue among the batches that may start, if it is long", () => {
    const queue = new JobQueue<Job, undefined>()
    const job = (key: number): Job => ({ shared: [], exclusive: [String(key)], unordered: [], kind: "plain", size: 1 })
    for (let key = 0; key < 80; key++) queue.submit(job(key), undefined)
    assert.deepStrictEqual(
      [queue.take()?.entries.length, queue.take()?.entries.length, queue.take()],
      [40, 40, undefined]
    )
    const short = new JobQueue<Job, undefined>()
    for (let key = 0; key < 32; key++) short.submit(job(key), undefined)
    assert.strictEqual(short.take()?.entries.length, 32)
  })

  it("is quiet once the last batch had a single job", () => {
    const queue = new JobQueue<Job, undefined>()
    const run = (count: number) => {
      for (let key = 0; key < count; key++) {
        queue.submit({ shared: [String(key)], exclusive: [], unordered: [], kind: "plain", size: 1 }, undefined)
      }
      assert.isFalse(queue.isQuiet)
      const batch = queue.take()
      assert.isFalse(queue.isQuiet)
      if (batch !== undefined) queue.finish(batch, () => false)
      return queue.isQuiet
    }
    assert.deepStrictEqual([queue.isQuiet, run(2), run(1)], [true, false, true])
  })
})
