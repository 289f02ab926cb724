/** What `Entity` does on every backend, as a suite for Vitest. */
import { assert, it } from "@effect/vitest"
import { Effect, Latch, type Layer, Ref, Result, Schedule, Schema, Stream } from "effect"
import * as DurableStateStore from "../DurableStateStore.ts"
import * as Entity from "../Entity.ts"
import { EventStore, typed } from "../EventStore.ts"
import * as StateCodec from "../StateCodec.ts"
import * as Transactor from "../Transactor.ts"
import { fresh, range, Sum } from "./ProjectionScene.ts"

class Added extends Schema.TaggedClass<Added>()("suite/Added", { amount: Schema.Int }) {}
class Cleared extends Schema.TaggedClass<Cleared>()("suite/Cleared", {}) {}
class TooMuch extends Schema.TaggedError<TooMuch>()("TooMuch", {}) {}

const Amounts = typed({ events: [Added] })
const initial = (): typeof Sum.Type => ({ sum: 0, seen: [] })
const apply = ({ seen, sum }: typeof Sum.Type, { event: { amount } }: { readonly event: Added }) => ({
  sum: sum + amount,
  seen: [...seen, amount]
})
const Counter = Entity.make({ name: "counter", events: Amounts, initial, apply })

/** Adds one, up to a sum of 5. */
const addOne = ({ sum }: typeof Sum.Type) =>
  sum < 5 ? Effect.succeed([new Added({ amount: 1 })]) : Effect.fail(new TooMuch())

/** Registers the suite. */
export const suite = <E>(
  name: string,
  layer: Layer.Layer<EventStore | DurableStateStore.DurableStateStore | Transactor.Transactor, E>,
  { interleaving = true }: { readonly interleaving?: boolean } = {}
): void => {
  it.layer(layer, { timeout: "2 minutes", excludeTestServices: true })(`Entity (${name})`, (it) => {
    it.effect("executes commands on the state that the events make", () =>
      Effect.gen(function* () {
        const counter = yield* Counter
        const id = fresh("entity")
        assert.deepStrictEqual(yield* counter.load(id), { state: initial(), version: 0n })
        const first = yield* counter.execute(id, addOne, { metadata: { by: "me" } })
        assert.deepStrictEqual(first.state, { sum: 1, seen: [1] })
        assert.deepStrictEqual(
          first.events.map(({ event, metadata }) => [event, metadata]),
          [[new Added({ amount: 1 }), { by: "me" }]]
        )
        assert.deepStrictEqual(yield* counter.execute(id, () => []), { ...first, events: [] })
        assert.deepStrictEqual(yield* counter.load(id), { state: first.state, version: first.version })
        assert.strictEqual(yield* Effect.flip(counter.execute(id, () => Effect.fail("no"))), "no")
      })
    )

    it.effect("tells each event of an aggregate with the state after it", () =>
      Effect.gen(function* () {
        const counter = yield* Counter
        const id = fresh("entity")
        assert.deepStrictEqual(yield* Stream.runCollect(counter.history(id)), [])
        const { events } = yield* counter.execute(id, () => [3, 4, 5].map((amount) => new Added({ amount })))
        assert.strictEqual(counter.name, "counter")
        assert.deepStrictEqual(
          (yield* Stream.runCollect(counter.history(id))).map(({ event, state }) => [event.version, state]),
          [3, 7, 12].map((sum, index) => [events[index]?.version ?? 0n, { sum, seen: [3, 4, 5].slice(0, index + 1) }])
        )
        assert.include(yield* Effect.flip(Stream.runDrain(counter.history(""))), {
          store: "Entity",
          operation: "history"
        })
      })
    )

    it.effect("decides anew where another command was faster, until each has found its place", () =>
      Effect.gen(function* () {
        const counter = yield* Counter
        const id = fresh("entity")
        const all = yield* Latch.make()
        let deciding = 0
        const racing = yield* Effect.forEach(
          range(8),
          () =>
            Effect.result(
              counter.execute(id, (state) =>
                // All of them have loaded the state before the first event is appended.
                Effect.andThen(
                  Effect.suspend(() => (++deciding >= 8 ? all.open : all.await)),
                  addOne(state)
                )
              )
            ),
          { concurrency: "unbounded" }
        )
        const refused = racing.filter(Result.isFailure)
        assert.deepStrictEqual(
          refused.map(({ failure }) => failure._tag),
          range(3).map(() => "TooMuch")
        )
        assert.strictEqual((yield* counter.load(id)).state.sum, 5)
        assert.isAbove(deciding, 8)
      })
    )

    it.effect("tells of a race that was lost as often as the schedule allows", () =>
      Effect.gen(function* () {
        const counter = yield* Entity.make({
          name: "counter",
          events: Amounts,
          initial,
          apply,
          retry: Schedule.recurs(2)
        })
        const amounts = yield* Amounts
        const id = fresh("entity")
        const calls = yield* Ref.make(0)
        const overtaken = counter.execute(id, () =>
          Effect.andThen(
            amounts.append(id, new Added({ amount: 7 })),
            Ref.update(calls, (count) => count + 1)
          ).pipe(Effect.as([new Added({ amount: 1 })]))
        )
        assert.strictEqual((yield* Effect.flip(overtaken))._tag, "VersionConflict")
        assert.strictEqual(yield* Ref.get(calls), 3)
        assert.deepStrictEqual((yield* counter.load(id)).state.seen, [7, 7, 7])
      })
    )

    it.effect("executes a command with a key once, however often and concurrently it is called", () =>
      Effect.gen(function* () {
        const counter = yield* Counter
        const [id, other] = [fresh("entity"), fresh("entity")]
        const add = (key: string) =>
          counter.execute(id, () => Effect.succeed([new Added({ amount: 1 }), new Added({ amount: 2 })]), { key })
        const racing = yield* Effect.forEach(range(8), () => add("one"), { concurrency: "unbounded" })
        const [first] = racing
        assert.strictEqual(first?.events.length, 2)
        for (const { events } of racing) assert.deepStrictEqual(events, first?.events)
        assert.deepStrictEqual((yield* counter.load(id)).state.seen, [1, 2])

        // Later, the events are the same, and the state is the one of now.
        const second = yield* add("two")
        assert.deepStrictEqual(second.state.seen, [1, 2, 1, 2])
        const again = yield* counter.execute(id, () => Effect.die("it decides again"), { key: "one" })
        assert.deepStrictEqual(again, { ...second, events: first?.events ?? [] })

        // A key belongs to its aggregate, and to its kind of aggregates.
        yield* counter.execute(other, addOne, { key: "one" })
        const others = yield* Entity.make({ name: "another counter", events: Amounts, initial, apply })
        yield* others.execute(id, () => [new Added({ amount: 1 })], { key: "one" })
        assert.deepStrictEqual((yield* counter.load(other)).state.seen, [1])
        assert.deepStrictEqual((yield* counter.load(id)).state.seen, [1, 2, 1, 2, 1])
      })
    )

    it.effect.each(["before", "after"])(
      "gives a command that was executed %s its search for the key, after its look at the state, as if it were its own",
      (when) =>
        Effect.gen(function* () {
          const events = yield* EventStore
          const counter = yield* Counter
          const id = fresh("entity")
          const once = ({ sum }: typeof Sum.Type) =>
            sum === 0 ? addOne({ sum, seen: [] }) : Effect.fail(new TooMuch())
          let searches = 0
          const faster = Effect.suspend(() =>
            ++searches === 1 ? Effect.orDie(counter.execute(id, once, { key: "a" })) : Effect.void
          )
          const overtaken = EventStore.of({
            ...events,
            get: (event) =>
              when === "before"
                ? Effect.andThen(faster, events.get(event))
                : Effect.tapCause(events.get(event), () => faster)
          })
          const slow = yield* Effect.provideService(Counter, EventStore, overtaken)
          const { events: found, ...loaded } = yield* slow.execute(id, once, { key: "a" })
          assert.strictEqual(found.length, 1)
          assert.deepStrictEqual(loaded, yield* counter.load(id))
          assert.deepStrictEqual(loaded.state.seen, [1])
        })
    )

    it.effect("does not fail where the command was executed while its own decision failed", () =>
      Effect.gen(function* () {
        const counter = yield* Counter
        const id = fresh("entity")
        const refuse = counter.execute(id, () => Effect.fail(new TooMuch()), { key: "b" })
        assert.strictEqual((yield* Effect.flip(refuse))._tag, "TooMuch")
        const overtaken = counter.execute(
          id,
          () => Effect.andThen(Effect.orDie(counter.execute(id, addOne, { key: "a" })), Effect.fail(new TooMuch())),
          { key: "a" }
        )
        const { events, state } = yield* overtaken
        assert.strictEqual(events.length, 1)
        assert.deepStrictEqual(state.seen, [1])
        assert.deepStrictEqual((yield* counter.load(id)).state.seen, [1])
      })
    )

    it.effect("remembers neither a failure nor a decision without events under a key", () =>
      Effect.gen(function* () {
        const counter = yield* Counter
        const id = fresh("entity")
        assert.strictEqual(yield* Effect.flip(counter.execute(id, () => Effect.fail("no"), { key: "a" })), "no")
        assert.deepStrictEqual((yield* counter.execute(id, () => [], { key: "a" })).events, [])
        assert.strictEqual((yield* counter.execute(id, addOne, { key: "a" })).events.length, 1)
        const error = yield* Effect.flip(counter.execute(id, addOne, { key: "" }))
        assert.strictEqual(error._tag, "InvalidInput")
        assert.include(error.message, "Entity.execute: invalid input: key")
      })
    )

    it.effect("commits together with what else its transaction writes, or not at all", () =>
      Effect.gen(function* () {
        const counter = yield* Counter
        const states = yield* DurableStateStore.DurableStateStore
        const { withTransaction } = yield* Transactor.Transactor
        const id = fresh("entity")
        const written = { persistenceId: id, versionNumber: 1n, payload: new Uint8Array([1]), manifest: "m", shard: 0 }
        const command = Effect.andThen(
          states.writeState({ ...written, timestamp: 0n }),
          counter.execute(id, addOne, { key: "a" })
        )
        yield* Effect.flip(withTransaction(Effect.andThen(command, Effect.fail("undone"))))
        assert.strictEqual((yield* counter.load(id)).version, 0n)
        const first = yield* withTransaction(command)
        assert.deepStrictEqual(yield* withTransaction(command), first)
        assert.deepStrictEqual((yield* counter.load(id)).state.seen, [1])
      })
    )

    it.effect("undoes what a decision has written in the caller's transaction when its race was lost", () =>
      Effect.gen(function* () {
        const counter = yield* Counter
        const amounts = yield* Amounts
        const decisions = yield* DurableStateStore.typed({
          codec: StateCodec.json(Sum, { manifest: "Sum" }),
          initial
        })
        const id = fresh("entity")
        let attempts = 0
        const command = counter.execute(
          id,
          Effect.fn(function* (state) {
            yield* decisions.modify(id, ({ seen, sum }) => ({ sum: sum + 1, seen: [...seen, state.sum] }))
            // What another append would do that was faster.
            if (++attempts === 1) yield* amounts.append(id, new Added({ amount: 7 }))
            return [new Added({ amount: 1 })]
          }),
          { key: "a" }
        )
        yield* Transactor.withTransaction(command)
        assert.strictEqual(attempts, 2)
        assert.deepStrictEqual((yield* decisions.read(id)).value, { sum: 1, seen: [0] })
        assert.deepStrictEqual((yield* counter.load(id)).state.seen, [1])

        yield* Transactor.withTransaction(command)
        assert.strictEqual((yield* decisions.read(id)).value.sum, 1)
      })
    )

    it.effect("applies events by their tags", () =>
      Effect.gen(function* () {
        const counter = yield* Entity.make({
          name: "counter by tags",
          events: typed({ events: [Added, Cleared] }),
          initial: () => 0,
          apply: { "suite/Added": (sum, { event }) => sum + event.amount, "suite/Cleared": () => 0 }
        })
        const id = fresh("entity")
        const add = (amount: number) => counter.execute(id, () => [new Added({ amount })])
        yield* add(1)
        assert.strictEqual((yield* add(2)).state, 3)
        assert.strictEqual((yield* counter.execute(id, () => [new Cleared(), new Added({ amount: 4 })])).state, 4)
        assert.strictEqual((yield* counter.load(id)).state, 4)
      })
    )

    it.effect("loads an aggregate from its last snapshot", () =>
      Effect.gen(function* () {
        const id = fresh("entity")
        const applied = yield* Ref.make(0)
        const open = (manifest: string) =>
          Entity.make({
            name: "counter",
            events: Amounts,
            initial,
            apply: (state, event) => {
              Effect.runSync(Ref.update(applied, (count) => count + 1))
              return apply(state, event)
            },
            snapshots: { codec: StateCodec.json(Sum, { manifest }), every: 10 }
          })
        const counter = yield* open("Counter")
        const first = yield* counter.execute(id, () => [new Added({ amount: 0 })], { key: "first" })
        for (const amount of range(24)) yield* counter.execute(id, () => [new Added({ amount: amount + 1 })])
        yield* Ref.set(applied, 0)
        assert.deepStrictEqual((yield* counter.load(id)).state.seen, range(25))
        assert.strictEqual(yield* Ref.get(applied), 5)

        // The event of the key is not among those that were loaded.
        const again = yield* counter.execute(id, () => [new Added({ amount: 99 })], { key: "first" })
        assert.deepStrictEqual(again.events, first.events)

        // A snapshot that another codec has written is not used.
        const renamed = yield* open("Counter.v2")
        yield* Ref.set(applied, 0)
        assert.deepStrictEqual((yield* renamed.load(id)).state.seen, range(25))
        assert.strictEqual(yield* Ref.get(applied), 25)
      })
    )

    it.effect("refuses wrong settings", () =>
      Effect.gen(function* () {
        const snapshots = { codec: StateCodec.json(Sum, { manifest: "Sum" }), every: 0 }
        const error = yield* Effect.flip(Entity.make({ name: "", events: Amounts, initial, apply, snapshots }))
        assert.deepStrictEqual(
          error.issues.map(({ field }) => field),
          ["name", "every"]
        )
      })
    )

    if (!interleaving) return

    it.effect("is made again in the caller's transaction on what others have committed meanwhile", () =>
      Effect.gen(function* () {
        const counter = yield* Counter
        const amounts = yield* Amounts
        const elsewhere = yield* Effect.context<EventStore>()
        const committed = (effect: Effect.Effect<unknown, unknown, EventStore>) =>
          Effect.promise(() => Effect.runPromiseWith(elsewhere)(effect))
        const [id, noted] = [fresh("entity"), fresh("noted")]
        const states: Array<number> = []
        const command = (options?: Entity.ExecuteOptions) =>
          counter.execute(
            id,
            Effect.fn(function* ({ sum }) {
              states.push(sum)
              if (states.length === 1) yield* committed(amounts.append(id, new Added({ amount: 7 })))
              return new Added({ amount: 1 })
            }),
            options
          )
        const noting = amounts.append(noted, new Added({ amount: 2 }))
        yield* Transactor.withTransaction(Effect.andThen(noting, command()))
        assert.deepStrictEqual(states, [0, 7])
        assert.deepStrictEqual((yield* counter.load(id)).state.seen, [7, 1])
        assert.deepStrictEqual((yield* counter.load(noted)).state.seen, [2])
        states.length = 0
        const failed = Transactor.withTransaction(command({ retry: Schedule.recurs(0) }))
        assert.strictEqual((yield* Effect.flip(failed))._tag, "VersionConflict")
      })
    )

    it.effect("gives in the caller's transaction what the same command has stored meanwhile", () =>
      Effect.gen(function* () {
        const counter = yield* Counter
        const amounts = yield* Amounts
        const elsewhere = yield* Effect.context<never>()
        const [id, noted] = [fresh("entity"), fresh("noted")]
        const deciding = Effect.fnUntraced(function* (last: Effect.Effect<Added, TooMuch>) {
          const key = fresh("key")
          let decided = 0
          const same = counter.execute(id, addOne, { key })
          const executed = Transactor.withTransaction(
            Effect.gen(function* () {
              yield* amounts.append(noted, new Added({ amount: 1 }))
              return yield* counter.execute(
                id,
                Effect.fn(function* () {
                  if (++decided === 1) yield* Effect.promise(() => Effect.runPromiseWith(elsewhere)(same))
                  return yield* last
                }),
                { key }
              )
            })
          )
          const { events, state } = yield* executed
          return [decided, events.length, state.sum]
        })
        assert.deepStrictEqual(yield* deciding(Effect.succeed(new Added({ amount: 1 }))), [1, 1, 1])
        // It refuses because of what the same command has done.
        assert.deepStrictEqual(yield* deciding(Effect.fail(new TooMuch())), [1, 1, 2])
        assert.deepStrictEqual((yield* counter.load(noted)).state.seen, [1, 1])
      })
    )
  })
}
