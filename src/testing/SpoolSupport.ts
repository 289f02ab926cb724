/** What the suites of `SpoolStore` share. */
import { DateTime, Deferred, Effect, Fiber } from "effect"
import {
  type Lease,
  leaseOf,
  type MessageKey,
  type NewMessage,
  type Outcome,
  type SpoolMessage,
  SpoolStore
} from "../SpoolStore.ts"
import { Transactor } from "../Transactor.ts"

export type Input = (typeof NewMessage)["~type.make.in"]

export const fresh = (name = "message") => `${name} ${crypto.randomUUID()}`

export const store = (message: Input) => SpoolStore.use((spool) => spool.storeMeta(message))

/** Stores messages in a queue that no other test uses, and returns the queue. Their ids are their numbers, as in other queues. */
export const queueOf = Effect.fnUntraced(function* (messages: ReadonlyArray<Omit<Input, "id" | "queue">>) {
  const queue = fresh("queue")
  const spool = yield* SpoolStore
  yield* spool.storeMany(messages.map((message, number) => ({ ...message, id: `${number}`, queue })))
  return queue
})

export const plain = (count: number): ReadonlyArray<object> => Array.from({ length: count }, () => ({}))

export const numberOf = ({ id }: { readonly id: string }) => Number(id)
export const numbersOf = (messages: ReadonlyArray<{ readonly id: string }>) => messages.map(numberOf)

let claims = 0

/** Claims, under a name of its own. */
export const claim = (queue: string, { lease = "1 minute", limit = 100, ...rest }: Partial<ClaimInput> = {}) =>
  SpoolStore.use((spool) =>
    Effect.gen(function* () {
      const owner = `claim ${++claims}`
      const messages = yield* spool.claim({ queue, limit, lease, owner, ...rest })
      return messages.map(withLease(owner))
    })
  )

export type ClaimInput = Parameters<SpoolStore["Service"]["claim"]>[0]
export interface Claimed extends SpoolMessage {
  readonly lease: typeof Lease.Type
}

const withLease =
  (owner: string) =>
  (message: SpoolMessage): Claimed => ({
    ...message,
    lease: leaseOf(message, owner)
  })

export const done = (lease: typeof Lease.Type): Outcome => ({ outcome: "done", ...lease })
export const deferred = (lease: typeof Lease.Type): Outcome => ({
  outcome: "deferred",
  delay: 0,
  error: "late",
  ...lease
})

export const bounced = (lease: typeof Lease.Type): Outcome => ({ outcome: "bounced", error: "late", ...lease })

export const settle = (outcomes: ReadonlyArray<Outcome>) => SpoolStore.use((spool) => spool.settle(outcomes))

export const getMeta = (message: MessageKey) => SpoolStore.use((spool) => spool.getMeta(message))
export const stateOf = (message: MessageKey) => Effect.map(getMeta(message), ({ state }) => state)

export const statesOf = (queue: string) =>
  SpoolStore.use((spool) => spool.countByState(queue)).pipe(
    Effect.map((counts) => Object.fromEntries(Object.entries(counts).filter(([, count]) => count > 0)))
  )

export const transaction = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Transactor.use(({ withTransaction }) => withTransaction(effect))

/** A transaction that stays open, with the effect done, until it is told to go on. */
export const open = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const done = yield* Deferred.make<void>()
    const end = yield* Deferred.make<void>()
    const fiber = yield* Effect.forkScoped(
      transaction(Effect.tap(effect, () => Effect.andThen(Deferred.succeed(done, undefined), Deferred.await(end))))
    )
    yield* Effect.raceFirst(Deferred.await(done), Effect.asVoid(Fiber.join(fiber)))
    return Effect.andThen(Deferred.succeed(end, undefined), Fiber.join(fiber))
  })

export const past = DateTime.makeUnsafe("2020-01-01T00:00:00Z")
export const future = DateTime.makeUnsafe("2200-01-01T00:00:00Z")
