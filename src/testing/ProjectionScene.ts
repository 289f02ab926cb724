/** What the parts of the projections' suite share. */
import { Duration, Effect, Fiber, Logger, Result, Schedule, Schema, Stream } from "effect"
import { typed } from "../DurableStateStore.ts"
import { EventStore, type StoredEvent } from "../EventStore.ts"
import { OffsetStore } from "../OffsetStore.ts"
import * as Projection from "../Projection.ts"
import * as StateCodec from "../StateCodec.ts"

/** A name that no other test uses: all tests of a suite share one log. */
export const fresh = (what: string) => `${what} ${crypto.randomUUID()}`

/** Other processes take over at once, and failures are final at once. */
export const quick = { heartbeat: "50 millis", retry: Schedule.recurs(1) } as const

/** Longer than a test may wait for anything: its own time limit ends the wait before. */
export const long = "10 minutes"

/** How long a projection may stand still, on a busy machine, before a test stops waiting for it. */
const longestStandstill = Duration.seconds(45)

/** The time between two looks at whether the projection stands still. */
const lookInterval = Duration.seconds(5)

/**
 * Waits until the projection has handled the version, for as long as it takes: it fails with `AwaitTimeout` only where no
 * offset of the projection has moved for 45 seconds.
 */
export const untilHandled = Effect.fnUntraced(function* (name: string, version: bigint) {
  const offsets = yield* OffsetStore
  const look = Effect.map(Stream.runCollect(offsets.listOffsets(name)), (all) => all.map(({ value }) => value).join())
  const mostLooks = Duration.toMillis(longestStandstill) / Duration.toMillis(lookInterval)
  let seen = yield* look
  let looksWithoutMove = 0
  while (true) {
    const handled = yield* Effect.result(Projection.awaitVersion(name, version, lookInterval))
    if (Result.isSuccess(handled)) return
    const now = yield* look
    looksWithoutMove = now === seen ? looksWithoutMove + 1 : 0
    seen = now
    if (handled.failure._tag !== "AwaitTimeout" || looksWithoutMove === mostLooks) return yield* handled.failure
  }
})

export const append = (...args: Parameters<EventStore["Service"]["append"]>) =>
  EventStore.use((events) => events.append(...args))

export const latestVersion = EventStore.use((events) => events.latestVersion)

/** Runs the effect as if it were in another process. */
export const elsewhere = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  OffsetStore.use((offsets) => Effect.provideService(effect, OffsetStore, OffsetStore.of({ ...offsets })))

export const Sum = Schema.Struct({ sum: Schema.Int, seen: Schema.Array(Schema.Int) })

/** A read model that shows events that were handled twice, left out or out of order: per aggregate a sum, and its amounts. */
const model = Effect.fnUntraced(function* (name: string) {
  const sums = yield* typed({
    codec: StateCodec.json(Sum, { manifest: "Sum" }),
    initial: () => ({ sum: 0, seen: [] })
  })
  const idOf = (aggregateId: string, slot: Projection.Slot) => `${slot} ${name.slice(-40)} ${aggregateId}`
  return {
    add: ({ aggregateId, data }: Pick<StoredEvent, "aggregateId" | "data">, slot: Projection.Slot) =>
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

/** A projection, its read model, and a type of events that no other test uses: as if the test had a log of its own. */
export const scene = Effect.fnUntraced(function* (what: string = "projection") {
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
    /** Waits until every event that is in the log now was handled. */
    caughtUp: Effect.flatMap(latestVersion, (version) => untilHandled(name, version))
  }
})

export const start = <R>(projection: Projection.Projection<R>) =>
  Effect.forkScoped(Projection.run(projection), { startImmediately: true })

export const range = (count: number) => Array.from({ length: count }, (_, index) => index)

/** Keeps what an effect logs. */
export const keepsLog = () => {
  const logged: Array<string> = []
  const logger = Logger.make(({ message }) => void logged.push(String(message)))
  return {
    logged,
    withLog: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, Logger.layer([logger]))
  }
}

/** The error with which a run ends. */
export const ending = <A, E>(fiber: Fiber.Fiber<A, E>) => Effect.flip(Fiber.join(fiber))

export interface SuiteOptions {
  /** Whether two transactions can be open at the same time. */
  readonly interleaving: boolean
}
