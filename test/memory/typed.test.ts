import { assert, it } from "@effect/vitest"
import { Effect, Layer, Schema, Stream } from "effect"
import { EventStore } from "effect-strata"

class UserCreated extends Schema.TaggedClass<UserCreated>()("UserCreated", { name: Schema.String }) {}
class UserRenamed extends Schema.TaggedClass<UserRenamed>()("UserRenamed", { name: Schema.String }) {}
class UserRegistered extends Schema.TaggedClass<UserRegistered>()("UserRegistered", { name: Schema.String }) {}

const events = [UserCreated, UserRenamed] as const
const upcast = [EventStore.upcast({ from: UserRegistered, to: UserCreated, map: ({ name }) => ({ name }) })]

it.effect("a typed view asks the store for its own event types, and for none that it would leave out", () =>
  Effect.gen(function* () {
    const asked: Array<unknown> = []
    const store = Layer.mock(EventStore.EventStore)({
      read: (query) => Stream.sync(() => asked.push(query)).pipe(Stream.drain),
      subscribe: (subscription) => Stream.sync(() => asked.push(subscription)).pipe(Stream.drain),
      listener: { status: Effect.succeed("stopped"), changes: Stream.empty }
    })
    const own = { eventTypes: ["UserCreated", "UserRenamed", "UserRegistered"] }
    for (const [unknown, log, history] of [
      [undefined, own, {}],
      ["skip", own, own],
      ["fail", {}, {}],
      ["raw", {}, {}]
    ] as const) {
      const view = yield* Effect.provide(
        EventStore.typed({ events, upcast, ...(unknown === undefined ? {} : { unknown }) }),
        store
      )
      yield* view.load(7n)
      yield* Stream.runDrain(view.read({ limit: 1 }))
      yield* Stream.runDrain(view.subscribe({ after: "end" }))
      yield* Stream.runDrain(view.read({ aggregateIds: ["a"] }))
      yield* Stream.runDrain(view.subscribe({ after: "end", aggregateIds: ["a"] }))
      yield* Stream.runDrain(view.read({ aggregateIds: ["a"], events: [UserCreated] }))
      assert.deepStrictEqual(asked.splice(0), [
        { after: 7n, ...log },
        { limit: 1, ...log },
        { after: "end", ...log },
        { aggregateIds: ["a"], ...history },
        { after: "end", aggregateIds: ["a"], ...history },
        { aggregateIds: ["a"], eventTypes: ["UserCreated", "UserRegistered"] }
      ])
    }
  })
)
