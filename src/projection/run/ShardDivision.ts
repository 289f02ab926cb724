/**
 * Which shards a process runs: the processes that run a projection divide its shards evenly.
 *
 * **Details**
 *
 * Each process says that it lives by counting up a number, its beat, in one record of all runners. A process that sees the
 * beat of another one stand still for three of its own beats removes that runner from the record: so no clock is compared
 * with the clock of another machine, and while the database is down no runner is removed. The shards of each runner follow
 * from the record, so every process comes to the same result.
 *
 * The division only decides who does the work: for a moment two processes may run the same shard, or none does. The
 * compare-and-set of the offset protects the read model.
 */
import { Clock, Duration, Effect, type Scope, type Stream, SubscriptionRef } from "effect"
import type { DurableStateStore } from "../../DurableStateStore.ts"
import { idGenerator } from "../../internal/Ids.ts"
import { isTransient } from "../../internal/Transient.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import type { StoreError } from "../../StoreError.ts"
import type { Settings } from "../Definition.ts"
import { records, type Runner, Runners, runnersId } from "../Records.ts"
import { runnersOfShards } from "../Shards.ts"

/** A runner whose beat has stood still for so many beats of another one is removed. */
const mostSilentBeats = 3

/** How long a process that stops tries to remove itself from the runners. The others miss it soon enough anyway. */
const longestGoodbye = Duration.seconds(1)

/** The shards that a process runs. */
export interface Share {
  readonly shards: Effect.Effect<ReadonlyArray<number>>
  /** Emits at once, and whenever the shards have changed. */
  readonly changes: Stream.Stream<unknown>
  /** Looks again, because another process seems to run one of these shards. */
  readonly refresh: Effect.Effect<void, InvalidInput | StoreError>
  /** Takes part in the division for as long as it runs. Its failure ends the projection. */
  readonly keep: Effect.Effect<never, InvalidInput | StoreError>
}

/** How a process comes by its share of a projection, for as long as the scope is open. */
export type ShardDivision = (
  projection: Pick<Settings, "name" | "shards" | "heartbeat">
) => Effect.Effect<Share, InvalidInput | StoreError, DurableStateStore | Scope.Scope>

/** What a process has seen of another one: its last beat, and for how many own beats that has stood still. */
interface Sighting {
  readonly beat: number
  readonly silentBeats: number
}

export const evenly: ShardDivision = Effect.fnUntraced(function* ({ heartbeat, name, shards }) {
  const ownId = yield* (yield* idGenerator).uuidV7()
  const record = yield* records
  const own = yield* SubscriptionRef.make<ReadonlyArray<number>>([])
  const every = Duration.toMillis(heartbeat)
  let seen: ReadonlyMap<string, Sighting> = new Map()

  const divide = Effect.fnUntraced(function* (runners: ReadonlyArray<Runner>) {
    const now = [...runnersOfShards(runners, shards)].flatMap(([shard, id]) => (id === ownId ? [shard] : []))
    if (now.join() !== SubscriptionRef.getUnsafe(own).join()) yield* SubscriptionRef.set(own, now)
  })

  const isAlive = ({ beat, id }: Runner) => {
    const last = seen.get(id)
    return last === undefined || last.beat !== beat || last.silentBeats + 1 < mostSilentBeats
  }

  const beat = Effect.gen(function* () {
    const at = yield* Clock.currentTimeMillis
    const { value } = yield* record.runners.modify(runnersId(name), ({ runners }) => {
      const last = runners.find(({ id }) => id === ownId)
      const others = runners.filter((runner) => runner.id !== ownId && isAlive(runner))
      return new Runners({ runners: [...others, { id: ownId, beat: (last?.beat ?? 0) + 1, at, every }] })
    })
    seen = new Map(
      value.runners.map(({ beat, id }) => {
        const last = seen.get(id)
        return [id, { beat, silentBeats: last?.beat === beat ? last.silentBeats + 1 : 0 }]
      })
    )
    yield* divide(value.runners)
  })

  const leave = record.runners.modify(
    runnersId(name),
    ({ runners }) => new Runners({ runners: runners.filter(({ id }) => id !== ownId) })
  )
  yield* Effect.addFinalizer(() => leave.pipe(Effect.timeoutOption(longestGoodbye), Effect.ignore))

  return {
    shards: SubscriptionRef.get(own),
    changes: SubscriptionRef.changes(own),
    refresh: Effect.flatMap(record.runners.read(runnersId(name)), ({ value }) => divide(value.runners)),
    // While the database cannot be reached the shards stay as they are: the next beat is soon enough.
    keep: beat.pipe(
      Effect.catchIf(isTransient, () => Effect.void),
      Effect.andThen(Effect.sleep(heartbeat)),
      Effect.forever
    )
  }
})
