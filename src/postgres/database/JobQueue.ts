/**
 * Which jobs may be done now, and which of them go together: the rules of coalescing, without any effect.
 *
 * **Details**
 *
 * Jobs name what they touch by keys. Two jobs with a key in common are done in the order of their submission: in one batch
 * if both share the key, else one after the other. So the jobs of a batch never depend on each other, and batches that are
 * under way at the same time touch different things. A key that is `unordered` for both is the exception: such jobs may be
 * done in any order, and at the same time. Jobs that share a key go in one batch unless one of them has read what another one
 * writes.
 *
 * A job that would have to wait for another transaction is put back by its batch. It is then done alone, beside the batches, and
 * delays only the jobs that have a key in common with it. A batch that waits all the same delays its own jobs; once it is
 * slow, another batch may start in its place.
 */

/** A job, as far as the queue has to know it. */
export interface Job {
  /** What it touches, and other jobs of its batch may touch, too. */
  readonly shared: ReadonlyArray<string>
  /** What it touches, and no other job of its batch may touch. */
  readonly exclusive: ReadonlyArray<string>
  /** What it touches, and other jobs may touch before, beside or after it, unless they touch it exclusively. */
  readonly unordered: ReadonlyArray<string>
  /** What it relies on: no other job of its batch may write that. */
  readonly reads?: ReadonlyArray<string>
  /** What it writes, as far as others may have read it. */
  readonly writes?: ReadonlyArray<string>
  /** Only jobs of the same kind go together. */
  readonly kind: string
  /** About how many bytes it sends. */
  readonly size: number
}

/** What may be under way at a time. */
export interface Limits {
  /** Batches, the slow ones aside. */
  readonly batches: number
  /** Slow batches beside them. */
  readonly slowBatches: number
  /** A queue of up to so many jobs becomes one batch. */
  readonly undividedJobs: number
  /** What a batch may hold, unless it is a single job. */
  readonly batch: { readonly jobs: number; readonly keys: number; readonly bytes: number }
}

const none: ReadonlyArray<string> = []

const defaultLimits: Limits = {
  // The server does one while this process prepares the other.
  batches: 2,
  slowBatches: 4,
  // A batch costs as much by itself as several jobs.
  undividedJobs: 32,
  // A key is a lock on the server, whose table of locks has room for some thousands.
  batch: { jobs: 1000, keys: 250, bytes: 1_000_000 }
}

/** A job in the queue, from its submission until its caller has left. */
export interface Entry<J, C> {
  readonly job: J
  /** How the runner reaches the caller. The queue does not use it. */
  readonly caller: C
  /**
   * Where it is: in the `queue`, in a `batch` that is under way, done `alone` while it waits for another transaction, or
   * `left` by its caller.
   */
  state: "queue" | "batch" | "alone" | "left"
}

/** Jobs that are done together. */
export interface Batch<J, C> {
  readonly entries: ReadonlyArray<Entry<J, C>>
  /** How many looks of the watch have found it under way. At the second look it is slow. */
  looks: number
}

/** The jobs of one store. */
export class JobQueue<J extends Job, C> {
  /** In the order of submission. */
  readonly #queue = new Set<Entry<J, C>>()
  /** The keys of all jobs that are being done, except for the unordered ones. */
  readonly #busy = new Set<string>()
  /** The unordered keys of all jobs that are being done, and how many of these have them. */
  readonly #busyUnordered = new Map<string, number>()
  readonly #underWay = new Set<Batch<J, C>>()
  #slow = 0
  readonly #limits: Limits
  /** The last batch had several jobs: the fibers that submitted them will probably submit several again. */
  #crowded = false

  constructor(limits = defaultLimits) {
    this.#limits = limits
  }

  /** How many jobs have not started. */
  get size(): number {
    return this.#queue.size
  }

  /** How many batches may start. */
  get #free(): number {
    return this.#limits.batches - (this.#underWay.size - this.#slow)
  }

  /** Whether a batch may start as far as the number of batches goes. */
  get hasRoom(): boolean {
    return this.#free > 0
  }

  /** Whether a job can be started by itself: nothing is under way, and the last batch was not a crowd. */
  get isQuiet(): boolean {
    return this.#busy.size === 0 && this.#queue.size === 0 && !this.#crowded
  }

  /** Starts a job that is in no batch. `end` frees its keys. */
  begin({ exclusive, shared, unordered }: Job): void {
    for (const key of shared) this.#busy.add(key)
    for (const key of exclusive) this.#busy.add(key)
    for (const key of unordered) this.#busyUnordered.set(key, (this.#busyUnordered.get(key) ?? 0) + 1)
  }

  /** Frees the keys of a job that has been started by `begin`. */
  end({ exclusive, shared, unordered }: Job): void {
    for (const key of shared) this.#busy.delete(key)
    for (const key of exclusive) this.#busy.delete(key)
    for (const key of unordered) {
      const count = (this.#busyUnordered.get(key) ?? 0) - 1
      if (count > 0) this.#busyUnordered.set(key, count)
      else this.#busyUnordered.delete(key)
    }
  }

  /** Adds a job to the end of the queue. */
  submit(job: J, caller: C): Entry<J, C> {
    const entry: Entry<J, C> = { job, caller, state: "queue" }
    this.#queue.add(entry)
    return entry
  }

  /** Starts the next batch, if one may start. */
  take(): Batch<J, C> | undefined {
    if (this.#queue.size === 0 || !this.hasRoom) return undefined
    const entries = this.#nextEntries()
    if (entries.length === 0) return undefined
    for (const entry of entries) {
      this.#queue.delete(entry)
      entry.state = "batch"
      this.begin(entry.job)
    }
    const batch: Batch<J, C> = { entries, looks: 0 }
    this.#underWay.add(batch)
    return batch
  }

  /** What can be done in one batch. No job overtakes another one with which it has a key in common. */
  #nextEntries(): ReadonlyArray<Entry<J, C>> {
    const taken: Array<Entry<J, C>> = []
    const { batch, undividedJobs } = this.#limits
    const most = Math.min(batch.jobs, Math.max(undividedJobs, Math.ceil(this.#queue.size / this.#free)))
    // The keys of the jobs that are taken. Those of the jobs that are passed over count as exclusive, or are unordered.
    const shared = new Set<string>()
    const exclusive = new Set<string>()
    const unordered = new Set<string>()
    const read = new Set<string>()
    const written = new Set<string>()
    const isFree = (key: string) => !this.#busy.has(key) && !exclusive.has(key)
    const isOrdered = (key: string) => !this.#busyUnordered.has(key) && !unordered.has(key)
    let keys = 0
    let bytes = 0
    for (const entry of this.#queue) {
      const { job } = entry
      const { reads = none, writes = none } = job
      const first = taken[0]?.job
      const keysWithJob = keys + job.shared.length + job.exclusive.length + job.unordered.length
      const bytesWithJob = bytes + job.size
      const isFull = taken.length === most || keysWithJob > batch.keys || bytesWithJob > batch.bytes
      if (first !== undefined && isFull) break
      if (
        (first === undefined || job.kind === first.kind) &&
        job.shared.every((key) => isFree(key) && isOrdered(key)) &&
        job.exclusive.every((key) => isFree(key) && isOrdered(key) && !shared.has(key)) &&
        job.unordered.every((key) => isFree(key) && !shared.has(key)) &&
        reads.every((key) => !written.has(key)) &&
        writes.every((key) => !read.has(key))
      ) {
        taken.push(entry)
        keys = keysWithJob
        bytes = bytesWithJob
        for (const key of job.shared) shared.add(key)
        for (const key of job.exclusive) exclusive.add(key)
        for (const key of reads) read.add(key)
        for (const key of writes) written.add(key)
      } else {
        for (const key of job.shared) exclusive.add(key)
        for (const key of job.exclusive) exclusive.add(key)
      }
      for (const key of job.unordered) unordered.add(key)
    }
    return taken
  }

  /**
   * Ends a batch. `isBlocked` says whether the job at a place would have to wait for another transaction. Such a job starts
   * alone, unless it has a key in common with an earlier such job: then it goes back to the front of the queue.
   */
  finish(batch: Batch<J, C>, isBlocked: (place: number) => boolean): void {
    this.#underWay.delete(batch)
    if (isSlow(batch)) this.#slow--
    this.#crowded = batch.entries.length > 1
    for (const { job } of batch.entries) this.end(job)
    const back: Array<Entry<J, C>> = []
    const keysOfBack = new Set<string>()
    for (const [place, entry] of batch.entries.entries()) {
      if (entry.state === "left" || !isBlocked(place)) continue
      const { shared } = entry.job
      if (shared.some((key) => this.#busy.has(key) || keysOfBack.has(key))) {
        entry.state = "queue"
        back.push(entry)
        for (const key of shared) keysOfBack.add(key)
      } else {
        entry.state = "alone"
        this.begin(entry.job)
      }
    }
    if (back.length === 0) return
    const rest = [...this.#queue]
    this.#queue.clear()
    for (const entry of [...back, ...rest]) this.#queue.add(entry)
  }

  /**
   * Takes leave of a job, because it is done, or because its caller was interrupted. A job in the queue is not done then; a
   * batch that is under way goes on with it. Returns whether other jobs may be able to start now.
   */
  leave(entry: Entry<J, C>): boolean {
    const { job, state } = entry
    entry.state = "left"
    if (state === "alone") this.end(job)
    else if (state !== "queue") return false
    else this.#queue.delete(entry)
    return this.#queue.size > 0
  }

  /** Empties the queue, and returns what was in it. */
  clear(): ReadonlyArray<Entry<J, C>> {
    const entries = [...this.#queue]
    this.#queue.clear()
    for (const entry of entries) entry.state = "left"
    return entries
  }

  /** Looks at the batches that are under way: a batch that was there at the last look, too, is slow, and makes room. */
  look(): void {
    for (const batch of this.#underWay) {
      if (batch.looks === 1 && this.#slow === this.#limits.slowBatches) continue
      if (batch.looks === 1) this.#slow++
      if (batch.looks < 2) batch.looks++
    }
  }
}

const isSlow = ({ looks }: Batch<unknown, unknown>) => looks === 2
