/** What the parts of the projections' suite share. */
import { Effect, Fiber, Schedule, Schema } from "effect"
import { typed } from "../DurableStateStore.ts"
import { EventStore, type StoredEvent } from "../EventStore.ts"
import { OffsetStore } from "../OffsetStore.ts"
import * as Projection from "../Projection.ts"
import * as StateCodec from "../StateCodec.ts"

/** A name that no other test uses: all tests of a suite share one log. */
export const fresh = (what: string) => `${what} ${crypto.randomUUID()}`

/** So that others take over at once, and failures are final at once. */
export const quick = { heartbeat: "50 millis", retry: Schedule.recurs(1) } as const

export const long = "30 seconds"

export const append = (...args: Parameters<EventStore["Service"]["append"]>) =>
  EventStore.use((events) => events.append(...args))

export const latestVersion = EventStore.use((events) => events.latestVersion)

/** As if the effect ran in another process. */
export const elsewhere = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  OffsetStore.use((offsets) => Effect.provideService(effect, OffsetStore, OffsetStore.of({ ...offsets })))

export const Sum = Schema.Struct({ sum: Schema.Int, seen: Schema.Array(Schema.Int) })

/** A read model that shows what was handled twice, left out or out of order: per aggregate a sum, and what it is made of. */
const model = Effect.fnUntraced(function* (name: string) {
  const sums = yield* typed({
    codec: StateCodec.json(Sum, { manifest: "Sum" }),
    initial: () => ({ sum: 0, seen: [] })
  })
  const idOf = (aggregateId: string, slot: Projection.Slot) => `${slot} ${name.slice(-40)} ${aggregateId}`
  return {
    add: ({ aggregateId, data }: StoredEvent, slot: Projection.Slot) =>
      sums.modify(idOf(aggregateId, slot), ({ seen, sum }) => {
        const amount = Number(data)
        return { sum: sum + amount, seen: [...seen, amount] }
      }),
    clear: (slot: Projection.Slot, aggregateIds: ReadonlyArray<string>) =>
      Effect.forEach(aggregateIds, (aggregateId) => sums.modify(idOf(aggregateId, slot), () => ({ sum: 0, seen: [] }))),
    seen: (aggregateId: string, slot: Projection.Slot = "blue") =>
      Effect.map(sums.read(idOf(aggregateId, slot)), ({ value }) => value.seen)
  }
})

/** A log of its own, as far as one type of events makes one, and a projection of it. */
export const scene = Effect.fnUntraced(function* (what = "projection") {
  const name = fresh(what)
  const type = fresh("type")
  const { add, clear, seen } = yield* model(name)
  return {
    name,
    type,
    add,
    clear,
    seen,
    options: { ...quick, name, eventTypes: [type] },
    append: (aggregateId: string, ...amounts: ReadonlyArray<number>) =>
      append(amounts.map((data) => ({ aggregateId, eventType: type, data }))),
    /** Everything that is in the log now has been handled. */
    settled: Effect.flatMap(latestVersion, (version) => Projection.awaitVersion(name, version, long))
  }
})

export const start = <R>(projection: Projection.Projection<R>) =>
  Effect.forkScoped(Projection.run(projection), { startImmediately: true })

export const range = (count: number) => Array.from({ length: count }, (_, index) => index)

/** The error with which a run ends. */
export const ending = <A, E>(fiber: Fiber.Fiber<A, E>) => Effect.flip(Fiber.join(fiber))

export interface SuiteOptions {
  /** Whether two transactions can be open at the same time. */
  readonly interleaving: boolean
}
