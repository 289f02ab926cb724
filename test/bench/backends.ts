/** The memory backend beside Postgres: the same calls on both. */
import { Effect, Layer, Stream } from "effect"
import { DurableStateStore, EventStore, OffsetStore, SpoolStore } from "effect-strata"
import * as Memory from "effect-strata/memory"
import { event } from "./events.ts"
import { fibers, type Figure, type Load, type Services } from "./harness.ts"

type Stores = Memory.Stores

/** One load, on a memory database of its own and on Postgres. */
const both = <E>(load: Effect.Effect<Load, E, Stores>) =>
  Effect.gen(function* () {
    const memory = yield* Layer.build(Layer.fresh(Memory.layer))
    const postgres = yield* Effect.context<Services>()
    return {
      strata: yield* Effect.provideContext(load, memory),
      other: yield* Effect.provideContext(load, postgres)
    }
  })

const appends = EventStore.EventStore.use((events) =>
  Effect.succeed(fibers(16, (fiber) => events.append(event(fiber))))
)

/** Each append expects the version before, in a log that is not short any more. */
const expecting = EventStore.EventStore.use((events) =>
  Effect.gen(function* () {
    yield* events.append(Array.from({ length: 10_000 }, (_, index) => event(index % 100)))
    const aggregateId = `expecting-${crypto.randomUUID()}`
    let expected: EventStore.Expected = "none"
    return fibers(1, () =>
      Effect.map(events.append({ ...event(0), aggregateId }, { expected }), ([stored]) => {
        expected = stored?.version ?? "none"
      })
    )
  })
)

const reads = EventStore.EventStore.use((events) =>
  Effect.gen(function* () {
    const aggregateId = `read-${crypto.randomUUID()}`
    yield* events.append(Array.from({ length: 1_000 }, () => ({ ...event(0), aggregateId })))
    return (operations: number) =>
      Effect.repeat(Stream.runDrain(events.read({ aggregateIds: [aggregateId] })), {
        times: Math.ceil(operations / 1_000) - 1
      })
  })
)

const offsets = OffsetStore.OffsetStore.use((offsets) =>
  Effect.succeed(
    fibers(1, (shardNumber, value) =>
      offsets.writeOffset({ projectionName: "backends", shardNumber, value, timestamp: value })
    )
  )
)

const payload = Uint8Array.from({ length: 200 }, (_, index) => index)

const states = DurableStateStore.DurableStateStore.use((states) => {
  let versionNumber = 0n
  const write = () =>
    states.writeState({ persistenceId: "backends", versionNumber: versionNumber++, payload, manifest: "bytes" })
  return Effect.succeed(fibers(1, write))
})

/** Stored, claimed and settled, 100 at a time. */
const messages = SpoolStore.SpoolStore.use((spool) => {
  const queue = "backends"
  let claims = 0
  const hundred = Effect.gen(function* () {
    const owner = `backends ${claims++}`
    yield* spool.storeMany(Array.from({ length: 100 }, () => ({ id: crypto.randomUUID(), queue, payload: { n: 1 } })))
    const claimed = yield* spool.claim({ queue, limit: 100, lease: "1 minute", owner })
    yield* spool.settle(claimed.map(({ attempts, id }) => ({ outcome: "done", id, owner, attempt: attempts })))
  })
  return Effect.succeed((operations: number) => Effect.repeat(hundred, { times: Math.ceil(operations / 100) - 1 }))
})

const figure = <E>(
  name: string,
  unit: string,
  operations: number,
  conditions: string,
  load: Effect.Effect<Load, E, Stores>
): Figure => ({
  name: `memory-backend/${name}`,
  unit,
  otherName: "same on Postgres",
  operations,
  conditions,
  sides: both(load)
})

export const figures: ReadonlyArray<Figure> = [
  figure("append", "events/s", 4_000, "16 fibers", appends),
  figure("append-expected", "events/s", 2_000, "1 fiber, a log of 10,000 events", expecting),
  figure("read", "events/s", 40_000, "1 fiber, an aggregate of 1,000 events at a time", reads),
  figure("offset", "writes/s", 2_000, "1 fiber", offsets),
  figure("state", "writes/s", 2_000, "1 fiber", states),
  figure("spool", "messages/s", 4_000, "1 fiber, 100 stored, claimed and settled at a time", messages)
]
