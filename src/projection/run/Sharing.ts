/**
 * Which shards are this process's: those who run a projection divide its shards evenly.
 *
 * **Details**
 *
 * Each says that it lives by counting up a number, in one record. Whoever sees a number stand still for three of its own
 * beats removes its owner: no clock is compared with another one's, and while the database is down nobody is removed. The
 * shards of a list of runners follow from it, so everybody comes to the same result.
 *
 * Nothing depends on this but who does the work: for a moment two can take a shard for theirs, or nobody does. The
 * compare-and-set of the offset decides.
 */
import { Clock, Duration, Effect, type Scope, type Stream, SubscriptionRef } from "effect"
import type { DurableStateStore } from "../../DurableStateStore.ts"
import { idGenerator } from "../../internal/Ids.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import type { StoreError } from "../../StoreError.ts"
import { isTransient } from "../Definition.ts"
import { records, type Runner, Runners, runnersId } from "../Records.ts"

/** For how many beats of the others a runner may be silent. */
const silences = 3

/** Which shards a process is to run: now, and as a stream that begins with now. */
export interface Share {
  readonly shards: Effect.Effect<ReadonlyArray<number>>
  readonly changes: Stream.Stream<unknown>
  /** Looks again, because somebody else seems to have one of these shards. */
  readonly refresh: Effect.Effect<void, InvalidInput | StoreError>
}

/** How a process comes by its share, for as long as the scope is open. What it fails with ends the projection. */
export type Sharing = (projection: {
  readonly name: string
  readonly shards: number
  readonly heartbeat: Duration.Duration
}) => Effect.Effect<
  { readonly share: Share; readonly keep: Effect.Effect<never, InvalidInput | StoreError> },
  InvalidInput | StoreError,
  DurableStateStore | Scope.Scope
>

/** Whose each shard is: everybody who knows the same runners comes to the same result. */
export const sharedAmong = (runners: ReadonlyArray<Runner>, shards: number): ReadonlyMap<number, string> => {
  const ids = runners.map(({ id }) => id).sort()
  return new Map(
    Array.from({ length: shards }, (_, shard) => shard).flatMap((shard) => {
      const id = ids[shard % ids.length]
      return id === undefined ? [] : [[shard, id] as const]
    })
  )
}

export const evenly: Sharing = Effect.fnUntraced(function* ({ heartbeat, name, shards }) {
  const id = yield* (yield* idGenerator).uuidV7()
  const record = yield* records
  const share = yield* SubscriptionRef.make<ReadonlyArray<number>>([])
  const every = Duration.toMillis(heartbeat)
  let seen = new Map<string, { readonly beat: number; readonly silent: number }>()

  const tell = Effect.fnUntraced(function* (runners: ReadonlyArray<Runner>) {
    const now = [...sharedAmong(runners, shards)].flatMap(([shard, runner]) => (runner === id ? [shard] : []))
    if (now.join() !== SubscriptionRef.getUnsafe(share).join()) yield* SubscriptionRef.set(share, now)
  })

  const isAlive = (runner: Runner) => {
    const last = seen.get(runner.id)
    return last === undefined || last.beat !== runner.beat || last.silent + 1 < silences
  }

  const beat = Effect.gen(function* () {
    const at = yield* Clock.currentTimeMillis
    const { value } = yield* record.runners.modify(runnersId(name), ({ runners }) => {
      const me = runners.find((runner) => runner.id === id)
      const others = runners.filter((runner) => runner.id !== id && isAlive(runner))
      return new Runners({ runners: [...others, { id, beat: (me?.beat ?? 0) + 1, at, every }] })
    })
    seen = new Map(
      value.runners.map((runner) => {
        const last = seen.get(runner.id)
        return [runner.id, { beat: runner.beat, silent: last?.beat === runner.beat ? last.silent + 1 : 0 }]
      })
    )
    yield* tell(value.runners)
  })

  const leave = record.runners.modify(
    runnersId(name),
    ({ runners }) => new Runners({ runners: runners.filter((runner) => runner.id !== id) })
  )
  // Who cannot say goodbye is missed soon enough.
  yield* Effect.addFinalizer(() => leave.pipe(Effect.timeoutOption("1 second"), Effect.ignore))

  return {
    share: {
      shards: SubscriptionRef.get(share),
      changes: SubscriptionRef.changes(share),
      refresh: Effect.flatMap(record.runners.read(runnersId(name)), ({ value }) => tell(value.runners))
    },
    // The next beat is soon enough where the database cannot be reached: until then the shards are as they were.
    keep: beat.pipe(
      Effect.catchIf(isTransient, () => Effect.void),
      Effect.andThen(Effect.sleep(heartbeat)),
      Effect.forever
    )
  }
})
