/** How subscribers hear of changes: at once, unless a test has cut the listener off. */
import { Effect, type Scope, Stream, SubscriptionRef } from "effect"
import { type Interest, type Interested, Waiting } from "../events/Waiting.ts"
import type { ListenerStatus } from "../EventStore.ts"
import type { Reason } from "../StoreError.ts"
import type { EventLog } from "./EventLog.ts"
import type { EventRow } from "./EventRow.ts"

/** A subscriber that waits for events. */
interface Reader extends Interested {
  /** Makes it look. Up to this version nothing was for it. */
  readonly wake: (passed: bigint) => void
}

export class Listener {
  readonly status: SubscriptionRef.SubscriptionRef<ListenerStatus>
  private readonly log: EventLog
  private readonly waiting = new Set<() => void>()
  private readonly readers = new Waiting<Reader, EventRow>()
  /** The settled version of which the readers have been told. */
  private told = 0n
  private isTelling = false
  private attached = 0
  private isCut = false
  private failure: Reason | undefined

  constructor(status: SubscriptionRef.SubscriptionRef<ListenerStatus>, log: EventLog) {
    this.status = status
    this.log = log
  }

  /** Counts a subscriber until the scope ends. */
  readonly attach: Effect.Effect<void, never, Scope.Scope> = Effect.acquireRelease(
    Effect.suspend(() => {
      this.attached++
      return this.tell
    }),
    () =>
      Effect.suspend(() => {
        this.attached--
        return this.tell
      })
  )

  /** Waits until `look` finds something. While the listener is cut off it does not look; it looks again when that is over. */
  await<A>(look: () => A | undefined): Effect.Effect<A, Reason> {
    return Effect.callback((resume) => {
      if (this.attempt(look, resume)) return
      const wake = () => {
        if (this.attempt(look, resume)) this.waiting.delete(wake)
      }
      this.waiting.add(wake)
      return Effect.sync(() => this.waiting.delete(wake))
    })
  }

  /**
   * The same for settled events, but it looks only where one may be of interest. `look` is told up to which version there was
   * none.
   */
  awaitEvents<A>(interest: Interest, look: (passed: bigint) => A | undefined): Effect.Effect<A, Reason> {
    return Effect.callback((resume) => {
      if (this.attempt(() => look(0n), resume)) return
      const reader: Reader = {
        interest,
        wake: (passed) => {
          if (this.attempt(() => look(passed), resume)) this.readers.leave(reader)
        }
      }
      this.readers.enter(reader)
      return Effect.sync(() => this.readers.leave(reader))
    })
  }

  /** Emits at once, and then whenever a transaction has committed something of the table. */
  changes(table: { readonly commits: number }): Stream.Stream<void, Reason> {
    return Stream.unwrap(
      Effect.map(this.attach, () => {
        let seen = -1
        const change = this.await(() => (table.commits === seen ? undefined : table.commits))
        return Stream.fromEffectRepeat(
          Effect.map(change, (commits) => {
            seen = commits
          })
        )
      })
    )
  }

  /** A transaction has ended: what waits looks again, and readers of events where something may be for them. */
  wake(): void {
    for (const wake of this.waiting) wake()
    this.tellReaders()
  }

  /** Cuts all subscribers off: they hear of nothing until `restore`. */
  readonly cut: Effect.Effect<void> = Effect.suspend(() => {
    this.isCut = true
    return this.tell
  })

  /** Ends the cut: subscribers go on where they were. */
  readonly restore: Effect.Effect<void> = Effect.suspend(() => {
    this.isCut = false
    this.wakeAll()
    return this.tell
  })

  /** Fails everything that waits now, as when a reconnect schedule ends. */
  end(reason: Reason): Effect.Effect<void> {
    return Effect.andThen(
      SubscriptionRef.set(this.status, "stopped"),
      Effect.sync(() => {
        this.failure = reason
        this.wakeAll()
        this.failure = undefined
      })
    )
  }

  /**
   * Tells of what is settled now. A reader goes on at once, and may commit more while others have not been told yet: they are
   * told of that in another turn.
   */
  private tellReaders(): void {
    if (this.isCut || this.isTelling) return
    this.isTelling = true
    while (true) {
      const passed = this.told
      const rows = this.log.settledAfter(passed, Number.POSITIVE_INFINITY)
      const last = rows.at(-1)
      if (last === undefined) break
      this.told = last.version
      this.readers.tell(
        rows,
        ({ tags }) => tags,
        ({ wake }) => wake(passed)
      )
    }
    this.isTelling = false
  }

  /** Makes everything that waits look again. */
  private wakeAll(): void {
    this.wake()
    for (const { wake } of this.readers.readers) wake(0n)
  }

  /** Whether the wait is over. */
  private attempt<A>(look: () => A | undefined, resume: (found: Effect.Effect<A, Reason>) => void): boolean {
    if (this.failure !== undefined) {
      resume(Effect.fail(this.failure))
      return true
    }
    const found = this.isCut ? undefined : look()
    if (found === undefined) return false
    resume(Effect.succeed(found))
    return true
  }

  private readonly tell: Effect.Effect<void> = Effect.suspend(() => {
    const status = this.attached === 0 ? "stopped" : this.isCut ? "reconnecting" : "connected"
    return SubscriptionRef.getUnsafe(this.status) === status ? Effect.void : SubscriptionRef.set(this.status, status)
  })
}
