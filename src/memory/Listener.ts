/** How subscribers hear of changes: at once, unless a test has cut the listener off. */
import { Effect, type Scope, Stream, SubscriptionRef } from "effect"
import type { ListenerStatus } from "../EventStore.ts"
import type { Reason } from "../StoreError.ts"

export class Listener {
  readonly status: SubscriptionRef.SubscriptionRef<ListenerStatus>
  private readonly waiting = new Set<() => void>()
  private attached = 0
  private isCut = false
  private failure: Reason | undefined

  constructor(status: SubscriptionRef.SubscriptionRef<ListenerStatus>) {
    this.status = status
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
      const attempt = (): boolean => {
        if (this.failure !== undefined) {
          resume(Effect.fail(this.failure))
          return true
        }
        const found = this.isCut ? undefined : look()
        if (found === undefined) return false
        resume(Effect.succeed(found))
        return true
      }
      if (attempt()) return
      const wake = () => {
        if (attempt()) this.waiting.delete(wake)
      }
      this.waiting.add(wake)
      return Effect.sync(() => this.waiting.delete(wake))
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

  /** Makes everything that waits look again. */
  wake(): void {
    for (const wake of this.waiting) wake()
  }

  /** Cuts all subscribers off: they hear of nothing until `restore`. */
  readonly cut: Effect.Effect<void> = Effect.suspend(() => {
    this.isCut = true
    return this.tell
  })

  /** Ends the cut: subscribers go on where they were. */
  readonly restore: Effect.Effect<void> = Effect.suspend(() => {
    this.isCut = false
    this.wake()
    return this.tell
  })

  /** Fails everything that waits now, as when a reconnect schedule ends. */
  end(reason: Reason): Effect.Effect<void> {
    return Effect.andThen(
      SubscriptionRef.set(this.status, "stopped"),
      Effect.sync(() => {
        this.failure = reason
        this.wake()
        this.failure = undefined
      })
    )
  }

  private readonly tell: Effect.Effect<void> = Effect.suspend(() => {
    const status = this.attached === 0 ? "stopped" : this.isCut ? "reconnecting" : "connected"
    return SubscriptionRef.getUnsafe(this.status) === status ? Effect.void : SubscriptionRef.set(this.status, status)
  })
}
