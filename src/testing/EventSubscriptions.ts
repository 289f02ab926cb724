/** What subscriptions to every `EventStore` do: a part of its suite. */
import { assert, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Queue, Scope, Stream } from "effect"
import { type Cursor, EventNotification, EventStore, type Step, type StoredEvent } from "../EventStore.ts"
import { InvalidInput } from "../InvalidInput.ts"
import { StoreError } from "../StoreError.ts"
import { Transactor } from "../Transactor.ts"

const fresh = () => `aggregate ${crypto.randomUUID()}`

const event = (aggregateId: string, data: number | string, eventType = "Happened") => ({ aggregateId, eventType, data })

const append = (...args: Parameters<EventStore["Service"]["append"]>) =>
  EventStore.use((events) => events.append(...args))

const transaction = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Transactor.use(({ withTransaction }) => withTransaction(effect))

const dataOf = (events: ReadonlyArray<StoredEvent>) => events.map(({ data }) => data)

const latestVersion = EventStore.use((events) => events.latestVersion)

/** Follows in the background, and hands over what has come when it is asked. */
const follow = Effect.fnUntraced(function* (subscription: Parameters<EventStore["Service"]["subscribe"]>[0]) {
  const events = yield* EventStore
  const queue = yield* Queue.bounded<StoredEvent>(1)
  const fiber = yield* Effect.forkScoped(
    Stream.runForEach(events.subscribe(subscription), (event) => Queue.offer(queue, event)),
    { startImmediately: true }
  )
  const next = Effect.raceFirst(
    Queue.take(queue),
    Effect.flatMap(Fiber.join(fiber), () => Effect.die("it has ended"))
  )
  return { fiber, next, take: (count: number) => Effect.replicateEffect(next, count) }
})

const status = (wanted: string) =>
  EventStore.use(({ listener }) =>
    listener.changes.pipe(
      Stream.filter((current) => current === wanted),
      Stream.take(1),
      Stream.runDrain
    )
  )

/** Registers the suite. */
export const suite = <E>(
  name: string,
  layer: Layer.Layer<EventStore | Transactor, E>,
  { interleaving }: { readonly interleaving: boolean }
): void => {
  it.layer(layer, { timeout: "2 minutes", excludeTestServices: true })(`EventStore subscriptions (${name})`, (it) => {
    it.effect("gives the stored events, then new ones, in order, each once", () =>
      Effect.gen(function* () {
        const aggregateId = fresh()
        const after = yield* latestVersion
        const before = yield* append([event(aggregateId, 1), event(aggregateId, 2)])
        const { take } = yield* follow({ after })
        assert.deepStrictEqual(yield* take(2), [...before])
        const first = yield* append(event(aggregateId, 3))
        const rest = yield* append([event(aggregateId, 4), event(aggregateId, 5)])
        assert.deepStrictEqual(yield* take(3), [...first, ...rest])
      })
    )

    it.effect("says how far the log was passed where no event is described, with the id of the event there", () =>
      Effect.gen(function* () {
        const events = yield* EventStore
        const type = crypto.randomUUID()
        const after = yield* latestVersion
        const stored = yield* append([
          event(fresh(), 1),
          event(fresh(), 2, type),
          ...Array.from({ length: 20 }, () => event(fresh(), 3))
        ])
        const queue = yield* Queue.bounded<Step>(1)
        yield* Effect.forkScoped(
          Stream.runForEach(events.follow({ after, eventTypes: [type], batchSize: 5 }), (step) =>
            Queue.offer(queue, step)
          )
        )
        const passed = Effect.fnUntraced(function* (last: StoredEvent | undefined) {
          const found: Array<StoredEvent> = []
          let upTo: Cursor = { version: after }
          while (upTo.version < (last?.version ?? 0n)) {
            const step = yield* Queue.take(queue)
            for (const { version } of step.events) assert.isTrue(version > upTo.version && version <= step.upTo.version)
            found.push(...step.events)
            upTo = step.upTo
          }
          if (upTo.version === last?.version) assert.strictEqual(upTo.id, last.id)
          return dataOf(found)
        })
        assert.deepStrictEqual(yield* passed(stored.at(-1)), [2])
        // And as the log grows.
        const other = yield* append([event(fresh(), 4), event(fresh(), 5)])
        assert.deepStrictEqual(yield* passed(other.at(-1)), [])
        const own = yield* append([event(fresh(), 6, type), event(fresh(), 7)])
        assert.deepStrictEqual(yield* passed(own.at(-1)), [6])
      })
    )

    it.effect("gives everything from the start, in pages of any size", () =>
      Effect.gen(function* () {
        const events = yield* EventStore
        yield* append([1, 2, 3, 4, 5].map((data) => event(fresh(), data)))
        const all = yield* events.load()
        for (const batchSize of [1, 2, 1000]) {
          const stream = Stream.take(events.subscribe({ after: "start", batchSize }), all.length)
          assert.deepStrictEqual(yield* Stream.runCollect(stream), all)
        }
      })
    )

    it.effect("gives no event that was stored before, if it begins at the end", () =>
      Effect.gen(function* () {
        const aggregateId = fresh()
        yield* append(event(aggregateId, "before"))
        const { next } = yield* follow({ after: "end", aggregateIds: [aggregateId] })
        // The subscription has begun once an event has come that was appended after the call.
        const knocking = yield* append(event(aggregateId, "since")).pipe(
          Effect.andThen(Effect.yieldNow),
          Effect.forever,
          Effect.forkChild
        )
        assert.strictEqual((yield* next).data, "since")
        yield* Fiber.interrupt(knocking)
        yield* append(event(aggregateId, "last"))
        const seen = new Set<unknown>(["since"])
        while (!seen.has("last")) seen.add((yield* next).data)
        assert.deepStrictEqual([...seen], ["since", "last"])
      })
    )

    it.effect("gives only the events that a filter describes: by aggregates, types, data and metadata", () =>
      Effect.gen(function* () {
        const [a, b] = [fresh(), fresh()]
        const type = crypto.randomUUID()
        const after = yield* latestVersion
        const subscriptions = yield* Effect.forEach(
          [
            { aggregateIds: [a] },
            { aggregateIds: [a, b], eventTypes: [type] },
            { data: { amount: 1 } },
            { metadata: { by: "x" } },
            { aggregateIds: [b], data: { amount: 1 }, metadata: {} }
          ],
          (filter) => follow({ after, ...filter })
        )
        const batch = [
          { aggregateId: a, eventType: "Other", data: { amount: 1, more: [] } },
          { aggregateId: b, eventType: type, data: { amount: 2 }, metadata: { by: "x", at: 1 } },
          { aggregateId: b, eventType: "Other", data: { amount: 1 }, metadata: { by: "y" } },
          { aggregateId: a, eventType: type, data: [1] }
        ]
        // In the first round they may still read the log, in the second one they have come to its end.
        for (let round = 0; round < 2; round++) {
          const stored = yield* append(batch)
          const expected = [[0, 3], [1, 3], [0, 2], [1], [2]].map((places) => places.map((place) => stored[place]))
          for (const [index, { take }] of subscriptions.entries()) {
            assert.deepStrictEqual(yield* take(expected[index]?.length ?? 0), expected[index])
          }
        }
      })
    )

    it.effect("passes the holes that rolled back appends leave, and gives none of their events", () =>
      Effect.gen(function* () {
        const aggregateId = fresh()
        const { take } = yield* follow({ after: yield* latestVersion })
        for (const data of [1, 2, 3]) {
          yield* Effect.exit(transaction(Effect.andThen(append(event(aggregateId, "never")), Effect.fail("no"))))
          yield* append(event(aggregateId, data))
        }
        yield* transaction(
          Effect.andThen(
            Effect.exit(transaction(Effect.andThen(append(event(aggregateId, "never")), Effect.fail("no")))),
            append(event(aggregateId, 4))
          )
        )
        assert.deepStrictEqual(dataOf(yield* take(4)), [1, 2, 3, 4])
      })
    )

    it.effect("gives a slow subscriber everything, and the others do not wait for it", () =>
      Effect.gen(function* () {
        const aggregateId = fresh()
        const after = yield* latestVersion
        const [slow, fast] = [yield* follow({ after }), yield* follow({ after })]
        yield* append(event(aggregateId, 0))
        assert.deepStrictEqual(dataOf([yield* slow.next, yield* fast.next]), [0, 0])
        // More events than a backend keeps for subscribers that are behind.
        const rounds = 12
        for (let round = 0; round < rounds; round++) {
          const numbers = Array.from({ length: 500 }, (_, index) => round * 500 + index + 1)
          yield* append(numbers.map((data) => event(aggregateId, data)))
          assert.deepStrictEqual(dataOf(yield* fast.take(500)), numbers)
        }
        const all = Array.from({ length: rounds * 500 }, (_, index) => index + 1)
        assert.deepStrictEqual(dataOf(yield* slow.take(all.length)), all)
      })
    )

    it.effect("serves a thousand subscribers", () =>
      Effect.gen(function* () {
        const aggregates = Array.from({ length: 1000 }, fresh)
        const after = yield* latestVersion
        const subscriptions = yield* Effect.forEach(aggregates, (id) => follow({ after, aggregateIds: [id] }))
        for (const data of [1, 2]) {
          yield* append(aggregates.map((id) => event(id, data)))
          const got = yield* Effect.forEach(subscriptions, ({ next }) => next)
          assert.deepStrictEqual(
            got.map(({ aggregateId }) => aggregateId),
            aggregates
          )
          assert.isTrue(got.every((stored) => stored.data === data))
        }
      })
    )

    it.effect("notifies of what is appended, by aggregate and by type, without the data", () =>
      Effect.gen(function* () {
        const events = yield* EventStore
        const [a, b] = [fresh(), fresh()]
        const type = crypto.randomUUID()
        const listen = Effect.fnUntraced(function* (topic: Parameters<typeof events.notifications>[0]) {
          const queue = yield* Queue.unbounded<EventNotification>()
          yield* Effect.forkScoped(
            Stream.runForEach(events.notifications(topic), (notification) => Queue.offer(queue, notification))
          )
          return queue
        })
        const queues = yield* Effect.forEach([{ aggregateId: a }, { eventType: type }, undefined], listen)
        // Each begins to hear at some moment: once each has heard an event, all of them hear.
        const knocking = yield* append(event(a, "knock", type)).pipe(
          Effect.andThen(Effect.yieldNow),
          Effect.forever,
          Effect.forkChild
        )
        yield* Effect.forEach(queues, (queue) => Queue.take(queue))
        yield* Fiber.interrupt(knocking)
        const stored = yield* append([event(a, 1), event(b, 2, type), event(b, 3)])
        const expected = stored.map(
          ({ aggregateId, createdAt, eventType, id, streamName, version }) =>
            new EventNotification({ version, id, aggregateId, eventType, streamName, createdAt })
        )
        const until = (queue: Queue.Dequeue<EventNotification>, last: EventNotification | undefined) =>
          Effect.gen(function* () {
            const got: Array<EventNotification> = []
            while (got.at(-1)?.version !== last?.version) got.push(yield* Queue.take(queue))
            return got.filter(({ version }) => version >= (stored[0]?.version ?? 0n))
          })
        const [byAggregate, byType, everything] = queues
        assert.isDefined(byAggregate)
        assert.isDefined(byType)
        assert.isDefined(everything)
        assert.deepStrictEqual(yield* until(byAggregate, expected[0]), expected.slice(0, 1))
        assert.deepStrictEqual(yield* until(byType, expected[1]), expected.slice(1, 2))
        assert.deepStrictEqual(yield* until(everything, expected[2]), expected)
      })
    )

    it.effect("is connected while somebody subscribes, and stopped when nobody does", () =>
      Effect.gen(function* () {
        const { listener, stats } = yield* EventStore
        yield* status("stopped")
        assert.strictEqual((yield* stats).subscribers, 0)
        const scope = yield* Scope.make()
        yield* Scope.provide(follow({ after: "end" }), scope)
        yield* status("connected")
        assert.strictEqual(yield* listener.status, "connected")
        assert.strictEqual((yield* stats).subscribers, 1)
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(yield* listener.status, "stopped")
        assert.strictEqual((yield* stats).subscribers, 0)
        yield* transaction(
          Effect.gen(function* () {
            yield* append(event(fresh(), 1))
            const { idle, inUse, openConnections } = yield* stats
            assert.isAtLeast(inUse, interleaving ? 1 : 0)
            assert.strictEqual(idle + inUse, openConnections)
          })
        )
      })
    )

    it.effect("ends with an error when its layer does", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const context = yield* Effect.provideService(Layer.build(Layer.fresh(layer)), Scope.Scope, scope)
        const { fiber, next } = yield* Effect.provideContext(follow({ after: "start" }), context)
        yield* Context.get(context, EventStore).append(event(fresh(), 1))
        yield* next
        yield* Scope.close(scope, Exit.void)
        const error = yield* Effect.flip(Fiber.join(fiber))
        assert.instanceOf(error, StoreError)
        assert.strictEqual(error.reason._tag, "Closed")
        assert.strictEqual(error.operation, "subscribe")
      })
    )

    it.effect("refuses an invalid cursor and an invalid filter", () =>
      Effect.gen(function* () {
        const events = yield* EventStore
        for (const wrong of [{ after: -1n }, { after: 2n ** 63n }, { eventTypes: [""] }, { batchSize: 0 }]) {
          const error = yield* Effect.flip(Stream.runDrain(events.subscribe({ after: 0n, ...wrong })))
          assert.instanceOf(error, InvalidInput)
        }
        assert.instanceOf(yield* Effect.flip(Stream.runDrain(events.notifications({ aggregateId: "" }))), InvalidInput)
      })
    )

    if (!interleaving) return

    it.effect("gives the event of an open transaction once it commits, and later events only after it", () =>
      Effect.gen(function* () {
        const [a, b] = [fresh(), fresh()]
        const { next, take } = yield* follow({ after: yield* latestVersion })
        const drawn = yield* Deferred.make<void>()
        const end = yield* Deferred.make<void>()
        const open = yield* append(event(a, "first")).pipe(
          Effect.andThen(Deferred.succeed(drawn, undefined)),
          Effect.andThen(Deferred.await(end)),
          transaction,
          Effect.forkChild
        )
        yield* Deferred.await(drawn)
        yield* append(event(b, "second"))
        const waiting = yield* Effect.forkChild(next, { startImmediately: true })
        // A read of one aggregate does not wait: the committed event is there.
        assert.deepStrictEqual(dataOf(yield* EventStore.use((events) => events.loadByAggregate(b))), ["second"])
        yield* Effect.replicateEffect(latestVersion, 20)
        assert.strictEqual(waiting.pollUnsafe(), undefined)
        yield* Deferred.succeed(end, undefined)
        yield* Fiber.join(open)
        assert.strictEqual((yield* Fiber.join(waiting)).data, "first")
        assert.deepStrictEqual(dataOf(yield* take(1)), ["second"])
      })
    )
  })
}
