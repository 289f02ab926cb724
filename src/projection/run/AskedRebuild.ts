/** Begins to build a read model anew, once somebody has asked for it: `admin/Rebuilding` asks. */
import { Cause, Effect, Struct } from "effect"
import { prettyOf } from "../../internal/FailureLog.ts"
import { OffsetStore } from "../../OffsetStore.ts"
import { Transactor } from "../../Transactor.ts"
import type { Projection } from "../Definition.ts"
import { Control, controlId, controlOf, forget, holdAll, records } from "../Records.ts"

/** The read model cannot be emptied. */
class CannotClear {
  readonly _tag = "CannotClear"
  readonly reason: string
  constructor(reason: string) {
    this.reason = reason
  }
}

const noClear =
  "the projection has no `clear`, which would empty it; give Projection.make one, or call Projection.rebuild"

/** The order is done with: it is obeyed, or there is a reason why not. */
const answer = (name: string, rebuildFailure?: string) =>
  Effect.flatMap(records, ({ control }) =>
    control.modify(controlId(name), (now) => {
      const reason = rebuildFailure === undefined ? {} : { rebuildFailure }
      return new Control({ ...Struct.omit(now, ["rebuildAsked"]), ...reason })
    })
  )

/** Empties the read model, and has every shard begin with the first event: all in one transaction, in one process. */
export const begin = Effect.fnUntraced(function* <R>({ clear, name }: Pick<Projection<R>, "clear" | "name">) {
  const { withWatchedTransaction } = yield* Transactor
  const offsets = yield* OffsetStore
  const emptied = Effect.gen(function* () {
    // Held before the read model is touched, as a batch does it.
    yield* holdAll(name)
    const { value: control } = yield* controlOf(name)
    if (control.rebuildAsked !== true) return
    if (clear === undefined) return yield* Effect.fail(new CannotClear(noClear))
    yield* offsets.resetOffset(name, 0n)
    yield* forget(name, control.shards)
    yield* Effect.catchCause(
      Effect.suspend(() => clear(control.slot)),
      (cause) => (Cause.hasInterruptsOnly(cause) ? Effect.interrupt : Effect.fail(new CannotClear(prettyOf(cause))))
    )
    yield* answer(name)
  })
  yield* Effect.catchTag(withWatchedTransaction(emptied), "CannotClear", ({ reason }) =>
    Effect.andThen(
      Effect.logWarning(`the read model of projection "${name}" is not built anew: ${reason}`),
      answer(name, reason)
    )
  )
})
