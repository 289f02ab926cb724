/** What can be done to a projection, from any process: it happens in the database. */
import { Effect, Stream } from "effect"
import { DurableStateStore } from "../../DurableStateStore.ts"
import { EventStore } from "../../EventStore.ts"
import { check } from "../../internal/Arguments.ts"
import { InvalidInput } from "../../InvalidInput.ts"
import { OffsetStore } from "../../OffsetStore.ts"
import { Transactor } from "../../Transactor.ts"
import { At, ByName } from "../Definition.ts"
import {
  Control,
  controlId,
  controlOf,
  failureId,
  holdAll,
  records,
  runnersId,
  shardId,
  skippedId,
  unknown
} from "../Records.ts"

/** Changes what runners go by, while no batch is under way. */
export const change = <E = never, R = never>(name: string, f: (control: Control) => Effect.Effect<Control, E, R>) =>
  Effect.gen(function* () {
    const { withTransaction } = yield* Transactor
    const { control } = yield* records
    return yield* withTransaction(
      Effect.gen(function* () {
        yield* holdAll(name)
        yield* controlOf(name)
        return yield* control.modify(controlId(name), f)
      })
    )
  })

const byName = <A, E, R>(operation: string, name: string, body: Effect.Effect<A, E, R>) =>
  Effect.andThen(check(ByName, "Projection", operation, { name }), body)

const setPaused = (operation: string, name: string, paused: boolean) =>
  byName(
    operation,
    name,
    Effect.flatMap(controlOf(name), ({ value }) =>
      value.paused === paused
        ? Effect.void
        : Effect.asVoid(change(name, (control) => Effect.succeed(new Control({ ...control, paused }))))
    )
  )

/**
 * Stops the handling of events, in every process: once this has returned, no batch of the projection commits until it is
 * resumed. A batch that is under way is waited for.
 */
export const pause = (name: string) => setPaused("pause", name, true)

/** Lets a projection that has been paused go on. */
export const resume = (name: string) => setPaused("resume", name, false)

/** Forgets what the shards have parked and skipped, and how they failed. */
export const forget = Effect.fnUntraced(function* (name: string, shards: number) {
  const states = yield* DurableStateStore
  const record = yield* records
  for (let shard = 0; shard < shards; shard++) {
    const { value } = yield* record.shard.read(shardId(name, shard))
    for (let index = 0; index < value.skipped; index++) yield* states.deleteState(skippedId(name, shard, index))
    yield* states.deleteState(shardId(name, shard))
    yield* states.deleteState(failureId(name, shard))
  }
})

/**
 * Moves every shard to a version, 0 unless given, in every process: what comes after it is handled again. What was parked
 * and skipped is forgotten.
 *
 * **Details**
 *
 * A batch that is under way is waited for. Inside a transaction it commits with it: so the read model can be emptied
 * together with the reset, after it.
 *
 * **Gotchas**
 *
 * It does not touch the read model: a handler that adds up would add again what it has added already.
 */
export const reset = Effect.fnUntraced(function* (name: string, version = 0n) {
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
})

/**
 * Forgets the projection: its offsets, and whatever is recorded of it. After that it may run with another number of shards,
 * from the first event on. A process that runs it fails with `UnknownProjection`.
 */
export const remove = Effect.fnUntraced(function* (name: string) {
  yield* check(ByName, "Projection", "remove", { name })
  const offsets = yield* OffsetStore
  const states = yield* DurableStateStore
  const { withTransaction } = yield* Transactor
  yield* withTransaction(
    Effect.gen(function* () {
      yield* holdAll(name)
      const { value } = yield* controlOf(name)
      const { control } = yield* records
      yield* forget(name, value.shards)
      // Its version must not come again: somebody may still go by it.
      yield* control.modify(controlId(name), () => unknown)
      yield* states.deleteState(runnersId(name))
      yield* offsets.deleteOffsets(name)
    })
  )
})

/** The shards of a projection, one after the other. */
const shardsOf = (operation: string, name: string) =>
  Stream.unwrap(
    byName(
      operation,
      name,
      Effect.map(controlOf(name), ({ value }) => Stream.range(0, value.shards - 1))
    )
  )

/** The aggregates that are parked, each with the event that failed: its events from that one on wait. */
export const parked = (name: string) =>
  Stream.flatMap(shardsOf("parked", name), (shard) =>
    Stream.fromIterableEffect(
      Effect.flatMap(records, (record) =>
        Effect.map(record.shard.read(shardId(name, shard)), ({ value }) => value.parked)
      )
    )
  )

/** The events that were skipped, with their errors. */
export const skipped = (name: string) =>
  Stream.flatMap(shardsOf("skipped", name), (shard) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const record = yield* records
        const { value } = yield* record.shard.read(shardId(name, shard))
        return Stream.range(0, value.skipped - 1).pipe(
          Stream.mapEffect((index) => record.failure.read(skippedId(name, shard, index))),
          Stream.flatMap((state) => Stream.fromIterable(state.value.failure === null ? [] : [state.value.failure]))
        )
      })
    )
  )
