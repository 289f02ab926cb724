/**
 * Does the jobs of many fibers together: the jobs that arrive while others are being done go with the next batch.
 *
 * **Details**
 *
 * `JobQueue` has the rules: which jobs go together, in which order, and how many batches are under way. A job that finds
 * nothing under way is done at once, in the caller's own fiber, unless the last batch had several jobs.
 */
import { Cause, Duration, Effect, Exit, FiberSet, type Scope, Semaphore } from "effect"
import { realSleep } from "../../internal/RealTime.ts"
import { type Batch, type Entry, type Job, JobQueue } from "./JobQueue.ts"
import { PostgresDatabase } from "./PostgresDatabase.ts"

export type { Job } from "./JobQueue.ts"

/** How many jobs may wait for other transactions at a time: each of them keeps a connection. */
const maxWaitingJobs = 4

/** How often to look for slow batches. A batch is slow once it takes longer than this, and at the latest after twice as long. */
const watchInterval = Duration.millis(100)

/** How jobs are done. */
export interface Work<J, A, E> {
  /** Does a job that nothing is ahead of, and `blocked` if the job would have to wait for another transaction. */
  readonly alone: (job: J, blocked: () => Effect.Effect<A, E>) => Effect.Effect<A, E>
  /** Does the jobs of a batch. `undefined` stands for a job that would have to wait for another transaction. */
  readonly attempt: (jobs: ReadonlyArray<J>) => Effect.Effect<ReadonlyArray<Exit.Exit<A, E> | undefined>>
  /** Does a job, and waits for other transactions if it has to. */
  readonly patiently: (job: J) => Effect.Effect<A, E>
}

/** Tells the caller the result of its job, or with `undefined` that the caller has to do the job patiently. */
type Resume<A, E> = (result: Effect.Effect<Exit.Exit<A, E> | undefined, E>) => void

type Results<A, E> = ReadonlyArray<Exit.Exit<A, E> | undefined>

/**
 * Returns how to do a job, until the scope closes. Then the jobs that are in the queue or in a batch fail with `closed`.
 *
 * A caller that is interrupted takes its job back if the job is in the queue, or waits for another transaction. A job that
 * is in a batch is done nevertheless.
 */
export const make = <J extends Job, A, E>(
  work: Work<J, A, E>,
  closed: E
): Effect.Effect<(job: J) => Effect.Effect<A, E>, never, PostgresDatabase | Scope.Scope> =>
  Effect.gen(function* () {
    const { withoutTransaction } = yield* PostgresDatabase
    // A batch is in no transaction, also if the layer is built in one.
    const fork = yield* withoutTransaction(FiberSet.makeRuntime<never, unknown, never>())
    const runner = new Runner(work, closed, fork, yield* Semaphore.make(maxWaitingJobs))
    yield* Effect.addFinalizer(() => Effect.sync(() => runner.close()))
    return (job: J) => runner.run(job)
  })

/** Starts the batches of a queue, and tells the callers what came of their jobs. */
class Runner<J extends Job, A, E> {
  readonly #work: Work<J, A, E>
  readonly #closed: E
  readonly #fork: (effect: Effect.Effect<unknown>) => unknown
  readonly #waiting: Semaphore.Semaphore
  readonly #queue = new JobQueue<J, Resume<A, E>>()
  /** Whether `#startBatches` is about to be called, so that no other caller has to see to it. */
  #isStarting = false
  #isWatching = false
  #isOpen = true

  constructor(
    work: Work<J, A, E>,
    closed: E,
    fork: (effect: Effect.Effect<unknown>) => unknown,
    waiting: Semaphore.Semaphore
  ) {
    this.#work = work
    this.#closed = closed
    this.#fork = fork
    this.#waiting = waiting
  }

  run(job: J): Effect.Effect<A, E> {
    // Uninterruptible, so that an interruption between these steps cannot leave the keys of the job busy for ever.
    return Effect.uninterruptibleMask((restore) => {
      if (!this.#isOpen) return Effect.fail(this.#closed)
      if (!this.#queue.isQuiet) return restore(this.#together(job))
      this.#queue.begin(job)
      return Effect.onExitPrimitive(restore(this.#work.alone(job, () => this.#patiently(job))), () => {
        this.#queue.end(job)
        this.#startBatches()
        return undefined
      })
    })
  }

  close(): void {
    this.#isOpen = false
    for (const { caller } of this.#queue.clear()) caller(Effect.fail(this.#closed))
  }

  #patiently(job: J) {
    return this.#waiting.withPermit(this.#work.patiently(job))
  }

  #together(job: J): Effect.Effect<A, E> {
    return Effect.suspend(() => {
      let entry: Entry<J, Resume<A, E>> | undefined
      const result = Effect.callback<Exit.Exit<A, E> | undefined, E>((resume) => {
        entry = this.#queue.submit(job, resume)
        if (this.#queue.hasRoom) this.#startBatchesSoon()
        else this.#watch()
      })
      const done = Effect.flatMap(result, (exit): Effect.Effect<A, E> => exit ?? this.#patiently(job))
      return Effect.onExitPrimitive(done, () => {
        if (entry !== undefined && this.#queue.leave(entry)) this.#startBatches()
        return undefined
      })
    })
  }

  /** Starts batches after the fibers that can go on now have run, because they may submit jobs, too. */
  #startBatchesSoon() {
    if (this.#isStarting) return
    this.#isStarting = true
    this.#fork(
      Effect.andThen(
        Effect.yieldNow,
        Effect.sync(() => this.#startBatches())
      )
    )
  }

  #startBatches() {
    this.#isStarting = false
    for (let batch = this.#queue.take(); batch !== undefined; batch = this.#queue.take()) this.#start(batch)
    if (this.#queue.size > 0 && !this.#queue.hasRoom) this.#watch()
  }

  #start(batch: Batch<J, Resume<A, E>>) {
    const jobs = batch.entries.map(({ job }) => job)
    this.#fork(Effect.onExit(this.#work.attempt(jobs), (exit) => Effect.sync(() => this.#finish(batch, exit))))
  }

  #finish(batch: Batch<J, Resume<A, E>>, exit: Exit.Exit<Results<A, E>>) {
    const results = Exit.isSuccess(exit) ? exit.value : this.#failures(batch, exit.cause)
    this.#queue.finish(batch, (place) => results[place] === undefined)
    // A caller that goes on may submit its next job at once: that job joins the next batch, which starts after all of them.
    this.#isStarting = true
    for (const [place, entry] of batch.entries.entries()) {
      if (entry.state !== "queue") entry.caller(Effect.succeed(results[place]))
    }
    this.#startBatches()
  }

  #failures({ entries }: Batch<J, Resume<A, E>>, cause: Cause.Cause<never>): Results<A, E> {
    const failure = Cause.hasInterruptsOnly(cause) ? Exit.fail(this.#closed) : Exit.failCause(cause)
    return entries.map(() => failure)
  }

  #watch() {
    if (this.#isWatching) return
    this.#isWatching = true
    this.#fork(
      Effect.andThen(
        realSleep(watchInterval),
        Effect.sync(() => {
          this.#isWatching = false
          this.#queue.look()
          this.#startBatches()
        })
      )
    )
  }
}
