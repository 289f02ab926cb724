/** Orders to a projection, from any process: they are given in the database, and every runner obeys them. */
import { Effect } from "effect"
import { DurableStateStore } from "../../DurableStateStore.ts"
import { EventStore } from "../../EventStore.ts"
import { check } from "../../internal/Arguments.ts"
import { named } from "../../internal/Named.ts"
import { InvalidInput } from "../../InvalidInput.ts"
import { OffsetStore } from "../../OffsetStore.ts"
import { Transactor } from "../../Transactor.ts"
import { At, ByName } from "../Definition.ts"
import { Control, controlId, controlOf, forget, holdAll, records, runnersId, unknown } from "../Records.ts"

/** Changes the control record while no batch is under way: every run of a shard ends, and begins again by the new record. */
export const change = <E = never, R = never>(name: string, f: (control: Control) => Effect.Effect<Control, E, R>) =>
  Effect.gen(function* () {
    const { withWatchedTransaction } = yield* Transactor
    const { control } = yield* records
    return yield* withWatchedTransaction(
      Effect.gen(function* () {
        yield* holdAll(name)
        yield* controlOf(name)
        return yield* control.modify(controlId(name), f)
      })
    )
  })

const setPaused = Effect.fnUntraced(
  function* (operation: string, name: string, paused: boolean) {
    yield* check(ByName, "Projection", operation, { name })
    const { value } = yield* controlOf(name)
    if (value.paused === paused) return
    yield* change(name, (control) => Effect.succeed(new Control({ ...control, paused })))
  },
  (effect, operation) => Effect.mapError(effect, named("Projection", operation))
)

/**
 * Stops the handling of events, in every process: once `pause` has returned, no batch of the projection commits until it is
 * resumed. `pause` waits for the batches that are under way, and after a second a warning says in which shard.
 */
export const pause = (name: string) => setPaused("pause", name, true)

/** Lets a projection that was paused go on. */
export const resume = (name: string) => setPaused("resume", name, false)

/**
 * Moves every shard to a version, 0 unless given, in every process: later events are handled again. Events that were parked
 * or skipped are forgotten.
 *
 * **Details**
 *
 * The reset waits for the batches that are under way. Inside a transaction the reset commits with it: so the read model can
 * be emptied in the same transaction, after the reset.
 *
 * **Gotchas**
 *
 * The reset does not touch the read model: a handler that adds up would add again what it has added already.
 */
export const reset = Effect.fnUntraced(
  function* (name: string, version: bigint = 0n) {
    yield* check(At, "Projection", "reset", { name, version })
    const { latestVersion } = yield* EventStore
    const offsets = yield* OffsetStore
    const head = yield* latestVersion
    if (version > head) {
      const issue = { field: "version", message: `Expected at most ${head}, the version of the last event` }
      return yield* new InvalidInput({ store: "Projection", operation: "reset", issues: [issue] })
    }
    yield* change(
      name,
      Effect.fnUntraced(function* (control) {
        yield* offsets.resetOffset(name, version)
        yield* forget(name, control.shards)
        return control
      })
    )
  },
  Effect.mapError(named("Projection", "reset"))
)

/**
 * Forgets the projection: its offsets and its records. After that it may run with another number of shards, from the first
 * event on. Its run ends with `UnknownProjection` in every process.
 */
export const remove = Effect.fnUntraced(
  function* (name: string) {
    yield* check(ByName, "Projection", "remove", { name })
    const offsets = yield* OffsetStore
    const states = yield* DurableStateStore
    const { withWatchedTransaction } = yield* Transactor
    yield* withWatchedTransaction(
      Effect.gen(function* () {
        yield* holdAll(name)
        const { value } = yield* controlOf(name)
        const { control } = yield* records
        yield* forget(name, value.shards)
        // The record stays, as its version must not come again: a runner may not have seen yet that it has changed.
        yield* control.modify(controlId(name), () => unknown)
        yield* states.deleteState(runnersId(name))
        yield* offsets.deleteOffsets(name)
      })
    )
  },
  Effect.mapError(named("Projection", "remove"))
)
