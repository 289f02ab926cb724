/**
 * What a projection keeps in the database beside its offsets: states in the `DurableStateStore`, all under
 * `strata/projection/`.
 *
 * **Details**
 *
 * The handling of events depends on `control` and `shard` alone. A transaction that changes such a record first
 * holds the offsets of the shards that the record matters to. A batch holds the offset of its shard from its start, too. So
 * the change and the batch happen one after the other, and a batch that comes second sees the changed record.
 */
import { Duration, Effect, Option, Schema, Stream } from "effect"
import { type DurableState, DurableStateStore, StaleState, typed } from "../DurableStateStore.ts"
import { Version } from "../EventStore.ts"
import { InvalidInput } from "../InvalidInput.ts"
import { type Offset, OffsetStore } from "../OffsetStore.ts"
import * as StateCodec from "../StateCodec.ts"
import { Contention, StoreError } from "../StoreError.ts"
import { Failure } from "./Definition.ts"
import { ProjectionFailed, UnknownProjection } from "./Errors.ts"
import { Slot } from "./Slot.ts"

/** What every runner of a projection obeys. */
export class Control extends Schema.Class<Control>("effect-strata/Projection/Control")({
  /** 0 once the projection has been removed: its versions are never counted again. */
  shards: Schema.Int,
  paused: Schema.Boolean,
  /** The copy of the read model that is served. */
  slot: Slot,
  /** Whether somebody has asked for the read model to be built anew, and no process has begun yet. */
  rebuildAsked: Schema.optionalKey(Schema.Boolean),
  /** Why a process could not begin to build it anew. */
  rebuildFailure: Schema.optionalKey(Schema.String)
}) {}

/** An aggregate that is parked: its events wait, from the failed event on, until they are retried. */
export class Parked extends Failure.extend<Parked>("effect-strata/Projection/Parked")({
  /** When a retry was asked for, in epoch milliseconds, by `Clock`. Absent once the retry was made. */
  retryAskedAt: Schema.optionalKey(Schema.Int)
}) {}

/** The events that a shard has not handled. */
export class ShardRecord extends Schema.Class<ShardRecord>("effect-strata/Projection/ShardRecord")({
  parked: Schema.Array(Parked),
  /** How many events were skipped: each has a record of its own. */
  skipped: Schema.Int
}) {}

/** The last failure of a shard, or the failure of an event that was skipped. */
export class LastFailure extends Schema.Class<LastFailure>("effect-strata/Projection/LastFailure")({
  failure: Schema.NullOr(Failure),
  /** After how many attempts the projection has stopped before the event. Absent while it is tried again. */
  stoppedAfter: Schema.optionalKey(Schema.Int)
}) {}

/**
 * The event up to which a shard has read: the one with the version of its offset, or an earlier one, as an offset that only
 * passes events of others is not followed at once.
 */
export class LastRead extends Schema.Class<LastRead>("effect-strata/Projection/LastRead")({
  version: Version,
  id: Schema.String
}) {}

/** A projection that a process could run, and the shards of it that the process is to run. */
export const Offer = Schema.Struct({ name: Schema.String, shards: Schema.Int, own: Schema.Array(Schema.Int) })
export type Offer = typeof Offer.Type

/** A process that runs projections, with those whose shards are divided among processes. */
export const Member = Schema.Struct({ id: Schema.String, offers: Schema.Array(Offer) })
export type Member = typeof Member.Type

/**
 * Which process is to run which shard of every projection. It only changes when a process, or a projection of one, comes or goes.
 */
export class Division extends Schema.Class<Division>("effect-strata/Projection/Division")({
  members: Schema.Array(Member)
}) {}

/** What a process says of itself, again with each of its beats. */
export class Beat extends Schema.Class<Beat>("effect-strata/Projection/Beat")({
  /** How often it has said that it lives. */
  beat: Schema.Int,
  /** When it last said so, in epoch milliseconds, by its own `Clock`: to be shown, not to be relied on. */
  at: Schema.Int,
  /** How often it says so, in milliseconds. */
  every: Schema.Finite,
  /** Since when it has run projections, in epoch milliseconds, by its own `Clock`. */
  since: Schema.Int,
  name: Schema.String,
  host: Schema.String,
  pid: Schema.Int,
  /** The shards that it runs. */
  runs: Schema.Array(Schema.Struct({ name: Schema.String, shards: Schema.Array(Schema.Int) }))
}) {}

/** A process of a version that divided each projection by itself. */
export const Runner = Schema.Struct({
  id: Schema.String,
  beat: Schema.Int,
  at: Schema.Int,
  every: Schema.Finite
})
export type Runner = typeof Runner.Type

/** The processes of such a version that run the projection: they run all of its shards. */
export class Runners extends Schema.Class<Runners>("effect-strata/Projection/Runners")({
  runners: Schema.Array(Runner)
}) {}

/** What the ids of all states begin with that projections keep about themselves in the `DurableStateStore`. */
export const idPrefix = "strata/projection/"

export const divisionId = `${idPrefix}division`
export const beatId = (process: string) => `${idPrefix}process/${process}`
export const controlId = (name: string) => `${idPrefix}control/${name}`
export const runnersId = (name: string) => `${idPrefix}runners/${name}`
export const shardId = (name: string, shard: number) => `${idPrefix}shard/${shard}/${name}`
export const failureId = (name: string, shard: number) => `${idPrefix}failure/${shard}/${name}`
export const lastReadId = (name: string, shard: number) => `${idPrefix}read/${shard}/${name}`
export const skippedId = (name: string, shard: number, index: number) => `${idPrefix}skipped/${shard}/${index}/${name}`

/** Reads and writes one kind of record as values of its schema. */
const kind = <A, E>(schema: Schema.Codec<A, E>, manifest: string, initial: A) =>
  Effect.map(
    typed({ codec: StateCodec.json(schema, { manifest }), initial: () => initial }),
    ({ modify, read, write }) => ({
      read,
      write,
      /** A write that loses against others for seconds fails with `Contention`: it may be tried again. */
      modify: <E2 = never, R2 = never>(id: string, f: (value: A) => A | Effect.Effect<A, E2, R2>) =>
        Effect.catchIf(
          modify(id, f),
          (error): error is StaleState & typeof error => error instanceof StaleState,
          (error) => {
            const reason = new Contention({
              message: `too many write the record "${id}" at once; try again`,
              cause: error
            })
            return Effect.fail(new StoreError({ store: "DurableStateStore", operation: "modify", reason }))
          }
        )
    })
  )

/** The control record of a projection that has not run, or was removed. */
export const unknown = new Control({ shards: 0, paused: false, slot: "blue" })

/** A kind of record that is written in one statement, whatever was there before. */
const overwritten = <A, E>(schema: Schema.Codec<A, E>, manifest: string, initial: A) => {
  const codec = StateCodec.json(schema, { manifest })
  const stateOf = (persistenceId: string, versionNumber: bigint, value: A) =>
    Effect.mapBoth(codec.encode(value), {
      onSuccess: (encoded) => ({ persistenceId, versionNumber, ...encoded }),
      onFailure: ({ message }) =>
        new InvalidInput({ store: "Projection", operation: "run", issues: [{ field: "id", message }] })
    })
  return Effect.map(
    Effect.all({ states: DurableStateStore, kept: kind(schema, manifest, initial) }),
    ({ kept, states }) => ({
      read: kept.read,
      write: (id: string, versionNumber: bigint, value: A) =>
        Effect.flatMap(stateOf(id, versionNumber, value), states.overwriteState),
      /** Writes the record, and gets states as they were before, in the same statement. */
      writeAndGet: (id: string, versionNumber: bigint, value: A, ids: Iterable<string>) =>
        Effect.flatMap(stateOf(id, versionNumber, value), (state) => states.overwriteAndGet(state, [...new Set(ids)]))
    })
  )
}

const failureManifest = "strata.Projection.Failure"
const failureCodec = StateCodec.json(LastFailure, { manifest: failureManifest })

/** The events before which these shards have stopped, in one statement. */
const stops = Effect.map(
  DurableStateStore,
  (states) => (name: string, shards: ReadonlyArray<number>) =>
    Effect.map(
      Effect.flatMap(states.getStates(shards.map((shard) => failureId(name, shard))), (found) =>
        // A record that another version of the library has written differently tells nothing.
        Effect.forEach(found, (state) => Effect.option(failureCodec.decode(state)))
      ),
      (all) =>
        all.flatMap((decoded) => {
          const { failure, stoppedAfter } = Option.getOrUndefined(decoded) ?? { failure: null }
          if (failure === null || stoppedAfter === undefined) return []
          const { error, ...event } = failure
          return [new ProjectionFailed({ ...event, projectionName: name, attempts: stoppedAfter, cause: error })]
        })
    )
)

/** Every kind of record. */
export const records = Effect.all({
  control: kind(Control, "strata.Projection.Control", unknown),
  division: kind(Division, "strata.Projection.Division", new Division({ members: [] })),
  beat: overwritten(
    Beat,
    "strata.Projection.Beat",
    new Beat({ beat: 0, at: 0, every: 0, since: 0, name: "", host: "", pid: 0, runs: [] })
  ),
  runners: kind(Runners, "strata.Projection.Runners", new Runners({ runners: [] })),
  shard: kind(ShardRecord, "strata.Projection.Shard", new ShardRecord({ parked: [], skipped: 0 })),
  failure: kind(LastFailure, failureManifest, new LastFailure({ failure: null })),
  stops,
  lastRead: overwritten(LastRead, "strata.Projection.LastRead", new LastRead({ version: 0n, id: "" }))
})

/** The records among these states: to read one of them takes no statement. */
export const recordsIn = Effect.fnUntraced(function* (all: ReadonlyArray<DurableState>) {
  const states = yield* DurableStateStore
  const found = new Map(all.map((state) => [state.persistenceId, state]))
  const read = DurableStateStore.of({
    ...states,
    getLatestState: (id) => Effect.succeed(Option.fromUndefinedOr(found.get(id)))
  })
  return yield* Effect.provideService(records, DurableStateStore, read)
})

/** The records with these ids, as they are at one moment, in one statement. */
export const recordsAt = (ids: Iterable<string>) =>
  Effect.flatMap(
    DurableStateStore.use(({ getStates }) => getStates([...new Set(ids)])),
    recordsIn
  )

export type RecordsAt = Effect.Success<ReturnType<typeof recordsAt>>

/** The control record of a projection that has run. */
export const controlOf = Effect.fnUntraced(function* (name: string) {
  const { control } = yield* records
  const state = yield* control.read(controlId(name))
  return state.value.shards === 0 ? yield* new UnknownProjection({ projectionName: name }) : state
})

/** Holds the offset of a shard until the end of the transaction, and returns it; nothing if the shard has none. */
export const hold = (
  offset: Pick<Offset, "projectionName" | "shardNumber" | "value">
): Effect.Effect<Offset | undefined, InvalidInput | StoreError, OffsetStore> =>
  OffsetStore.use((offsets) =>
    offsets.advanceOffset(offset, { from: Option.some(offset.value), to: offset.value })
  ).pipe(
    // A conflict holds the offset, too, and says where it is.
    Effect.catchTag("OffsetConflict", ({ actual }) =>
      Option.match(actual, {
        onNone: () => Effect.undefined,
        onSome: (value) => hold({ ...offset, value })
      })
    )
  )

/** After this time without an answer it is said what is waited for. */
const silence = Duration.seconds(1)

/** Says after a moment what keeps an order waiting: a batch of the shard. */
const sayWhatHolds = ({ projectionName, shardNumber, value }: Offset) =>
  Effect.logWarning(
    `waiting for shard ${shardNumber} of projection "${projectionName}": the batch that it handles after version ${value} ` +
      "has not ended yet; a handler that hangs can be ended by stopping its process, or by the projection's `timeout`"
  ).pipe(Effect.delay(silence), Effect.andThen(Effect.never))

/** Holds every offset of a projection, so that none of its batches is under way until the transaction has ended. */
export const holdAll = Effect.fnUntraced(function* (name: string) {
  const offsets = yield* OffsetStore
  const held: Array<Offset> = []
  for (const offset of yield* Stream.runCollect(offsets.listOffsets(name))) {
    const current = yield* Effect.raceFirst(hold(offset), sayWhatHolds(offset))
    if (current !== undefined) held.push(current)
  }
  return held
})

/** Forgets what the shards have parked and skipped, their last failures, and which event they have read last. */
export const forget = Effect.fnUntraced(function* (name: string, shards: number) {
  const states = yield* DurableStateStore
  const record = yield* records
  for (let shard = 0; shard < shards; shard++) {
    const { value } = yield* record.shard.read(shardId(name, shard))
    for (let index = 0; index < value.skipped; index++) yield* states.deleteState(skippedId(name, shard, index))
    yield* states.deleteState(shardId(name, shard))
    yield* states.deleteState(failureId(name, shard))
    yield* states.deleteState(lastReadId(name, shard))
  }
})
