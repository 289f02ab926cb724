/** What errors say: what the caller has called, where it is wrong, what was found there, and what to do. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Schedule, Schema } from "effect"
import { DurableStateStore, Entity, EventStore, Projection, Spool, StateCodec, type SpoolStore } from "effect-strata"
import * as Memory from "effect-strata/memory"
import { elsewhere } from "../../src/testing/ProjectionScene.ts"

class Address extends Schema.Class<Address>("Address")({ street: Schema.String }) {}
class Mail extends Schema.Class<Mail>("my-app/Mail")({
  to: Schema.String,
  subject: Schema.String,
  from: Schema.optionalKey(Address),
  tries: Schema.Int.pipe(Schema.withConstructorDefault(Effect.succeed(0)))
}) {}
class UserCreated extends Schema.TaggedClass<UserCreated>()("UserCreated", { name: Schema.String }) {}

const mails = Spool.make({ name: "mails", payload: Mail })
const mail = new Mail({ to: "a", subject: "b" })

/** What a program in JavaScript gives, or one that has read it from somewhere. */
const isUntyped = (_value: unknown): _value is never => true
const untyped = (value: unknown): never => (isUntyped(value) ? value : assert.fail())

const fresh = Layer.fresh(Memory.layer)

const messageOf = <A, E extends Error, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.flip(effect), ({ message }) => message)

describe("a plain object where an instance is meant", () => {
  const cases: ReadonlyArray<readonly [unknown, string]> = [
    [{ to: "a", subject: "b" }, ""],
    [{ to: "a", subject: 1 }, "; subject: Expected string"],
    [{ to: "a" }, "; subject: Missing key"],
    [{ to: "a", subject: "b", from: { street: 1 } }, "; from.street: Expected string"]
  ]
  const expected = "Expected Mail, found a plain object: use new Mail(..)"

  it.effect.each(cases)("is told with the fields that do not fit: %j", ([value, fields]) =>
    Effect.gen(function* () {
      assert.strictEqual(
        yield* messageOf(mails.enqueue(untyped(value))),
        `Spool.enqueue: invalid input: ${expected}${fields}`
      )
    }).pipe(Effect.provide(fresh))
  )

  it.effect("is told wherever it is in an instance, and which of several messages has it", () =>
    Effect.gen(function* () {
      const inner = Object.assign(new Mail({ to: "a", subject: "b" }), { from: { street: "c" } })
      assert.strictEqual(
        yield* messageOf(mails.enqueueAll([{ payload: mail }, { payload: inner }])),
        "Spool.enqueueAll: invalid input: messages.1.from: Expected Address, found a plain object: use new Address(..)"
      )
    }).pipe(Effect.provide(fresh))
  )

  it.effect("is told by the typed views", () =>
    Effect.gen(function* () {
      const users = yield* EventStore.typed({ events: [UserCreated] })
      assert.strictEqual(
        yield* messageOf(users.append("a", untyped({ _tag: "UserCreated", name: 1 }))),
        "EventStore.append: invalid input: events.0.event: Expected UserCreated, found a plain object: use new UserCreated(..); " +
          "events.0.event.name: Expected string"
      )
      const states = yield* DurableStateStore.typed({ codec: StateCodec.json(Mail), initial: () => mail })
      const error = yield* Effect.flip(states.modify("a", () => untyped({ to: "a", subject: 1 })))
      assert.strictEqual(
        error.message,
        `DurableStateStore.modify: invalid input: value: no "my-app/Mail": ${expected}; subject: Expected string`
      )
    }).pipe(Effect.provide(fresh))
  )
})

describe("what is no JSON", () => {
  const cycle: Record<string, unknown> = {}
  cycle["self"] = cycle
  const gap: Array<number> = [1]
  gap[2] = 3
  const cases: ReadonlyArray<readonly [unknown, string]> = [
    [{ a: { b: undefined } }, "data.a.b: Expected JSON, found undefined"],
    [{ a: [1, new Date()] }, "data.a.1: Expected JSON, found an instance of Date"],
    [new UserCreated({ name: "x" }), "data: Expected JSON, found an instance of UserCreated"],
    [Object.create({}), "data: Expected JSON, found an instance of Object"],
    [[() => 1], "data.0: Expected JSON, found a function"],
    [[1n], "data.0: Expected JSON, found a bigint, which the option largeIntegers of the layer allows"],
    [{ a: Number.NaN }, "data.a: Expected JSON, found NaN"],
    [{ a: "\0" }, "data.a: Expected JSON, found a string with a NUL character"],
    [{ a: "\ud800" }, "data.a: Expected JSON, found a string with half of a surrogate pair"],
    [{ a: { "\0": 1 } }, "data.a: Expected JSON, found a key with a NUL character"],
    [{ a: gap }, "data.a.1: Expected JSON, found undefined"],
    [cycle, "data: Expected JSON, found more than 500 levels, or a cycle"],
    ["x".repeat(16_000_000), "data: Expected JSON of at most 15712256 bytes, found 16000002 bytes"]
  ]

  it.effect("is told with its path and what was found there", () =>
    Effect.gen(function* () {
      const events = yield* EventStore.EventStore
      for (const [data, says] of cases) {
        const message = yield* messageOf(events.append({ aggregateId: "a", eventType: "b", data: untyped(data) }))
        assert.strictEqual(message, `EventStore.append: invalid input: events.0.${says}`)
      }
      for (const [metadata, says] of [
        [[1], "metadata: Expected a JSON object, found an array"],
        [
          { by: { id: 1n } },
          "metadata.by.id: Expected JSON, found a bigint, which the option largeIntegers of the layer allows"
        ]
      ]) {
        const event = { aggregateId: "a", eventType: "b", data: 1, metadata: untyped(metadata) }
        assert.strictEqual(yield* messageOf(events.append(event)), `EventStore.append: invalid input: events.0.${says}`)
      }
    }).pipe(Effect.provide(fresh))
  )
})

describe("errors name the operation that was called, and its arguments", () => {
  const cases: ReadonlyArray<readonly [Effect.Effect<unknown, Error, SpoolStore.SpoolStore>, string]> = [
    [mails.enqueue(mail, { id: "" }), "Spool.enqueue: invalid input: id: Expected a non-empty string"],
    [
      mails.enqueue(mail, { policy: untyped("\0") }),
      "Spool.enqueue: invalid input: policy: Expected a string without NUL characters"
    ],
    [
      mails.enqueueAll([{ payload: mail }, { payload: mail, priority: 11 }]),
      "Spool.enqueueAll: invalid input: messages.1.priority: Expected a value between 1 and 10"
    ],
    [mails.hold("", "why"), "Spool.hold: invalid input: id: Expected a non-empty string"],
    [mails.hold("a", "\0"), "Spool.hold: invalid input: reason: Expected a string without NUL characters"],
    [mails.release(""), "Spool.release: invalid input: id: Expected a non-empty string"],
    [mails.requeue(""), "Spool.requeue: invalid input: id: Expected a non-empty string"]
  ]

  it.effect("where an argument is wrong", () =>
    Effect.gen(function* () {
      for (const [effect, message] of cases) assert.strictEqual(yield* messageOf(effect), message)
    }).pipe(Effect.provide(fresh))
  )

  it.effect("of an entity, but not what its decision calls", () =>
    Effect.gen(function* () {
      const users = yield* Entity.make({
        name: "users",
        events: EventStore.typed({ events: [UserCreated] }),
        initial: () => 0,
        apply: (count) => count + 1
      })
      assert.match(yield* messageOf(users.load("")), /^Entity\.load: invalid input: aggregateId: Expected a non-empty/)
      assert.match(yield* messageOf(users.execute("", () => [])), /^Entity\.execute: invalid input: aggregateId: /)
      assert.match(
        yield* messageOf(users.execute("a", () => [untyped({ _tag: "UserCreated" })])),
        /^Entity\.execute: invalid input: events\.0\.event: .*use new UserCreated\(\.\.\); events\.0\.event\.name: /
      )
      assert.match(
        yield* messageOf(users.execute("a", () => mails.requeue("").pipe(Effect.as([])))),
        /^Spool\.requeue: /
      )
    }).pipe(Effect.provide(fresh))
  )

  it.effect("and where the store cannot be used", () =>
    Effect.gen(function* () {
      const closed = yield* Effect.scoped(Layer.build(fresh))
      const called: ReadonlyArray<readonly [Effect.Effect<unknown, Error, SpoolStore.SpoolStore>, string]> = [
        [mails.enqueue(mail), "enqueue"],
        [mails.enqueueAll([{ payload: mail }]), "enqueueAll"],
        [mails.requeue("a"), "requeue"],
        [mails.stats, "stats"]
      ]
      for (const [effect, name] of called) {
        const message = yield* messageOf(Effect.provide(effect, closed))
        assert.strictEqual(message, `Spool.${name}: the scope of this SpoolStore has ended; keep its layer alive`)
      }
    })
  )
})

it.live("awaitVersion tells at once that the projection has stopped, and why, until it runs again", () =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const [stored] = yield* events.append({ aggregateId: "a", eventType: "b", data: 1 })
    let isMended = false
    const handling = yield* Deferred.make<void>()
    const gate = yield* Deferred.make<void>()
    const projection = Projection.make({
      name: "stops",
      retry: Schedule.recurs(1),
      handler: () =>
        isMended
          ? Effect.andThen(Deferred.succeed(handling, undefined), Deferred.await(gate))
          : Effect.fail(new Error("no such table"))
    })
    const waiting = yield* Effect.forkChild(Effect.flip(Projection.awaitVersion("stops", 1n, "1 hour")), {
      startImmediately: true
    })
    yield* Effect.flip(Projection.run(projection))
    // The one that has waited before is told, and the one that comes later.
    for (const error of [
      yield* Fiber.join(waiting),
      yield* Effect.flip(Projection.awaitVersion("stops", 1n, "1 hour"))
    ]) {
      assert.instanceOf(error, Projection.ProjectionFailed)
      assert.match(error.message, /^Projection "stops" stopped before event 1 .*: the handler failed twice/)
      assert.match(String(error.cause), /no such table/)
    }
    const awaited = Projection.awaitVersion("stops", stored?.version ?? 0n, "4 minutes")
    isMended = true
    yield* Effect.forkScoped(Projection.run(projection))
    // What it has said before is over once it runs again: in this process, as soon as the run begins.
    const here = yield* Effect.forkChild(awaited, { startImmediately: true })
    yield* Deferred.await(handling)
    // And in others, once the shard does.
    const there = yield* Effect.forkChild(elsewhere(awaited), { startImmediately: true })
    yield* Effect.repeat(Effect.yieldNow, { times: 100 })
    yield* Deferred.succeed(gate, undefined)
    yield* Fiber.join(here)
    yield* Fiber.join(there)
  }).pipe(Effect.scoped, Effect.provide(fresh))
)
