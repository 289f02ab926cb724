/**
 * Jobs of many fibers, done together: what arrives while some are being done goes with the next ones.
 *
 * **Details**
 *
 * A job that finds nothing under way is done at once, in the caller's own fiber, unless there was a crowd just now. Others
 * queue, and go in one run as soon as one of two may start, so that the server does one while this process prepares the
 * other. Jobs name what they touch by keys. Those that have a key in common are done in the order of their submission: in one
 * run if both share it, else one after the other. So the jobs of one run never depend on each other.
 *
 * A run leaves out the jobs that would have to wait for somebody else, as far as that can be known. Each of these is then
 * done alone, waiting, beside the runs: nobody queues behind it but those with a key in common. A run that waits all the
 * same holds up its own jobs, and after a moment no others.
 */
import { Cause, Effect, Exit, FiberSet, Semaphore } from "effect"

/** How many runs may be under way. */
const lanes = 2

/** So many jobs are not divided among runs: each run costs as much by itself as several jobs. */
const handful = 32

/** How many jobs may wait for somebody else at a time, each on a connection; and how many runs, beside those two. */
const waiters = 4

/** A run that takes longer than this, and less than twice as long, waits for somebody else: another one may start. */
const patience = "100 millis"

/** What one run may hold, unless it is one job. A key is a lock on the server, where there is room for some thousands. */
const most = { jobs: 1000, keys: 200, size: 1_000_000 }

export interface Job {
  /** What it touches, and others of the same run may, too. */
  readonly shared: ReadonlyArray<string>
  /** What it alone touches. */
  readonly exclusive: ReadonlyArray<string>
  /** Only jobs of the same kind go together. */
  readonly kind: string
  readonly size: number
}

/** How jobs are done. */
export interface Work<J, A, E> {
  /** Does one, and `blocked` if it would have to wait for somebody else. */
  readonly alone: (job: J, blocked: () => Effect.Effect<A, E>) => Effect.Effect<A, E>
  /** Does them in one run. `undefined` stands for one that would have to wait for somebody else. */
  readonly attempt: (jobs: ReadonlyArray<J>) => Effect.Effect<ReadonlyArray<Exit.Exit<A, E> | undefined>>
  /** Does one, and waits if it has to. */
  readonly patiently: (job: J) => Effect.Effect<A, E>
}

/** A run that is under way. */
interface Running {
  /** By the watch, once: the next time it is slow. */
  seen: boolean
  slow: boolean
}

interface Entry<J, A, E> {
  readonly job: J
  /** With `undefined` it is the caller who waits. */
  readonly resume: (result: Effect.Effect<Exit.Exit<A, E> | undefined, E>) => void
  /** Alone, with its keys. */
  waiting: boolean
  /** The caller has its result, or was interrupted. */
  gone: boolean
}

/**
 * Returns how to do a job, until the scope closes: then what is queued, or done for others, fails with `closed`.
 *
 * Whoever is interrupted while its job is queued, or waits, takes it back. While it is being done with others it goes on.
 */
export const make = Effect.fnUntraced(function* <J extends Job, A, E>(work: Work<J, A, E>, closed: E) {
  const fork = yield* FiberSet.makeRuntime()
  const waiting = yield* Semaphore.make(waiters)

  /** In the order of submission. */
  const queue = new Set<Entry<J, A, E>>()
  /** The keys of the jobs that are being done. */
  const busy = new Set<string>()
  const runs = new Set<Running>()
  let running = 0
  let slow = 0
  let scheduled = false
  /** Whether the last run was of several jobs: those who come now are the same fibers, probably, and will be several. */
  let crowded = false
  let watched = false
  let open = true
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      open = false
      for (const { resume } of queue) resume(Effect.fail(closed))
      queue.clear()
    })
  )

  const begin = ({ exclusive, shared }: J) => {
    for (const key of shared) busy.add(key)
    for (const key of exclusive) busy.add(key)
  }

  const end = ({ exclusive, shared }: J) => {
    for (const key of shared) busy.delete(key)
    for (const key of exclusive) busy.delete(key)
  }

  /** Takes from the queue what can be done in one run. Nobody overtakes a job with which it has a key in common. */
  const take = (): ReadonlyArray<Entry<J, A, E>> => {
    const taken: Array<Entry<J, A, E>> = []
    const share = Math.min(most.jobs, Math.max(handful, Math.ceil(queue.size / (lanes - running))))
    // By the jobs that are taken; and by those, too, that are left.
    const shared = new Set<string>()
    const exclusive = new Set<string>()
    let keys = 0
    let size = 0
    for (const entry of queue) {
      const { job } = entry
      const first = taken[0]?.job
      keys += job.shared.length + job.exclusive.length
      size += job.size
      if (first !== undefined && (taken.length === share || keys > most.keys || size > most.size)) break
      if (
        (first === undefined || job.kind === first.kind) &&
        job.shared.every((key) => !busy.has(key) && !exclusive.has(key)) &&
        job.exclusive.every((key) => !busy.has(key) && !exclusive.has(key) && !shared.has(key))
      ) {
        taken.push(entry)
        for (const key of job.shared) shared.add(key)
        for (const key of job.exclusive) exclusive.add(key)
      } else {
        keys -= job.shared.length + job.exclusive.length
        size -= job.size
        for (const key of job.shared) exclusive.add(key)
        for (const key of job.exclusive) exclusive.add(key)
      }
    }
    for (const entry of taken) {
      queue.delete(entry)
      begin(entry.job)
    }
    return taken
  }

  type Results = ReadonlyArray<Exit.Exit<A, E> | undefined>

  const finish = (entries: ReadonlyArray<Entry<J, A, E>>, exit: Exit.Exit<Results>) => {
    const results = Exit.isSuccess(exit) ? exit.value : undefined
    // All of them, before anybody goes on: that may be with the next job, which goes with the next run.
    scheduled = true
    crowded = entries.length > 1
    for (const { job } of entries) end(job)
    const blocked =
      results === undefined ? [] : entries.filter((entry, index) => results[index] === undefined && !entry.gone)
    const later: Array<Entry<J, A, E>> = []
    for (const entry of blocked) {
      // It shares the key with one that waits already, and comes after it.
      if (entry.job.shared.some((key) => busy.has(key))) later.push(entry)
      else {
        begin(entry.job)
        entry.waiting = true
      }
    }
    if (later.length > 0) {
      const rest = [...queue]
      queue.clear()
      for (const entry of [...later, ...rest]) queue.add(entry)
    }
    const failure = Exit.isSuccess(exit)
      ? undefined
      : Cause.hasInterruptsOnly(exit.cause)
        ? Exit.fail(closed)
        : Exit.failCause(exit.cause)
    entries.forEach(({ resume, waiting }, index) => {
      const result = results?.[index]
      if (failure !== undefined) resume(failure)
      else if (result !== undefined || waiting) resume(Effect.succeed(result))
    })
    flush()
  }

  const flush = () => {
    scheduled = false
    while (queue.size > 0 && running < lanes) {
      const entries = take()
      if (entries.length === 0) return
      const run: Running = { seen: false, slow: false }
      runs.add(run)
      running++
      const done = (exit: Exit.Exit<Results>) => {
        runs.delete(run)
        if (run.slow) slow--
        else running--
        finish(entries, exit)
      }
      const jobs = entries.map(({ job }) => job)
      fork(Effect.onExit(work.attempt(jobs), (exit) => Effect.sync(() => done(exit))))
    }
    if (queue.size > 0) watchRuns()
  }

  const watchRuns = () => {
    if (watched) return
    watched = true
    fork(Effect.delay(watch, patience))
  }

  const watch = Effect.sync(() => {
    watched = false
    for (const run of runs) {
      if (run.seen && !run.slow && slow < waiters) {
        run.slow = true
        running--
        slow++
      }
      run.seen = true
    }
    flush()
  })

  /** After the fibers that can go on now, as they may have jobs, too. */
  const schedule = () => {
    if (scheduled) return
    scheduled = true
    fork(Effect.andThen(Effect.yieldNow, Effect.sync(flush)))
  }

  const patiently = (job: J) => waiting.withPermit(work.patiently(job))

  const over = (job: J) => {
    end(job)
    flush()
  }

  const together = (job: J) =>
    Effect.suspend(() => {
      let entry: Entry<J, A, E> | undefined
      const result = Effect.callback<Exit.Exit<A, E> | undefined, E>((resume) => {
        entry = { job, resume, waiting: false, gone: false }
        queue.add(entry)
        if (running < lanes) schedule()
        else watchRuns()
      })
      const settled = Effect.flatMap(result, (done): Effect.Effect<A, E> => done ?? patiently(job))
      return Effect.onExitPrimitive(settled, () => {
        if (entry === undefined) return undefined
        entry.gone = true
        queue.delete(entry)
        if (entry.waiting) over(job)
        return undefined
      })
    })

  return (job: J): Effect.Effect<A, E> =>
    // Nobody can interrupt it in between, and leave its keys busy for ever.
    Effect.uninterruptibleMask((restore) => {
      if (!open) return Effect.fail(closed)
      if (busy.size > 0 || queue.size > 0 || crowded) return restore(together(job))
      begin(job)
      return Effect.onExitPrimitive(restore(work.alone(job, () => patiently(job))), () => {
        over(job)
        return undefined
      })
    })
})
