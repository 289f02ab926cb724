/** What projections that choose events by tags do on every backend: a part of their suite. */
import { assert, it } from "@effect/vitest"
import { Effect, type Layer, Ref, Schema, Stream } from "effect"
import { EventStore, type StoredEvent, typed } from "../EventStore.ts"
import { InvalidInput } from "../InvalidInput.ts"
import * as Projection from "../Projection.ts"
import { append, ending, fresh, latestVersion, long, quick, start, untilHandled } from "./ProjectionScene.ts"

class Joined extends Schema.TaggedClass<Joined>()("suite/Joined", { club: Schema.String, member: Schema.String }) {}
class Left extends Schema.TaggedClass<Left>()("suite/Left", { club: Schema.String, member: Schema.String }) {}

const Clubs = typed({
  events: [Joined, Left],
  tags: {
    "suite/Joined": ({ club, member }) => [`club:${club}`, `member:${member}`],
    "suite/Left": ({ club, member }) => [`club:${club}`, `member:${member}`]
  }
})

const event = (
  data: number,
  tags: ReadonlyArray<string>,
  aggregateId = fresh("aggregate"),
  eventType = "Happened"
) => ({
  aggregateId,
  eventType,
  data,
  tags
})

const collector = Effect.map(Ref.make<ReadonlyArray<unknown>>([]), (seen) => ({
  seen: Ref.get(seen),
  clear: () => Ref.set(seen, []),
  add: ({ data }: StoredEvent) => Ref.update(seen, (all) => [...all, data])
}))

/** Waits until every event that is in the log now was handled or passed. */
const caughtUp = (name: string) => Effect.flatMap(latestVersion, (version) => untilHandled(name, version))

/** Registers the suite. */
export const suite = <E>(name: string, layer: Layer.Layer<Projection.Services, E>): void => {
  it.layer(layer, { timeout: "2 minutes", excludeTestServices: true })(`Projection by tags (${name})`, (it) => {
    it.effect("handles the events with all of its tags, or that match an item, and passes the others", () =>
      Effect.gen(function* () {
        const [a, b] = [fresh("a"), fresh("b")]
        yield* append([event(1, [a]), event(2, [a, b]), event(3, [b])])
        const byTags = yield* collector
        const byItems = yield* collector
        const projections = [
          Projection.make({ ...quick, name: fresh("tags"), tags: [a], eventTypes: ["Happened"], handler: byTags.add }),
          Projection.make({
            ...quick,
            name: fresh("items"),
            shards: 2,
            items: [{ tags: [a, b] }, { tags: [b], eventTypes: ["Other"] }],
            handler: byItems.add
          })
        ]
        yield* Effect.forEach(projections, start)
        yield* Effect.forEach(projections, (projection) => caughtUp(projection.name))
        assert.deepStrictEqual([yield* byTags.seen, yield* byItems.seen], [[1, 2], [2]])
        yield* append([event(4, [a]), event(5, [b], fresh("aggregate"), "Other"), event(6, [])])
        // The offsets move past what does not match, also where it is the end of the log.
        yield* Effect.forEach(projections, (projection) => caughtUp(projection.name))
        assert.deepStrictEqual(
          [yield* byTags.seen, (yield* byItems.seen).toSorted()],
          [
            [1, 2, 4],
            [2, 5]
          ]
        )
        const statuses = yield* Effect.forEach(projections, (projection) => Projection.status(projection.name))
        for (const { lag } of statuses.flat()) assert.strictEqual(lag, 0n)
      })
    )

    it.effect("names classes of a view and the view's own tags, and folds by them", () =>
      Effect.gen(function* () {
        const clubs = yield* Clubs
        const [club, other, member] = [fresh("club"), fresh("club"), fresh("member")]
        const joined = yield* Ref.make(0)
        const projection = Projection.make({
          ...quick,
          name: fresh("typed"),
          events: Clubs,
          items: [{ events: [Joined], tags: [`club:${club}`] }, { tags: [`club:${other}`, `member:${member}`] }],
          on: {
            "suite/Joined": () => Ref.update(joined, (count) => count + 1),
            "suite/Left": () => Ref.update(joined, (count) => count - 10)
          }
        })
        yield* start(projection)
        yield* clubs.append("clubs", [
          new Joined({ club, member }),
          new Left({ club, member }),
          new Joined({ club: other, member: "m" }),
          new Joined({ club: other, member }),
          new Left({ club: other, member })
        ])
        yield* caughtUp(projection.name)
        assert.strictEqual(yield* Ref.get(joined), 1 + 1 - 10)
        const folded = Projection.fold({ events: Clubs, tags: [`club:${club}`] }, 0, (count) => count + 1)
        assert.strictEqual(yield* folded, 2)
      })
    )

    it.effect("retries of a parked aggregate only the events that are its own", () =>
      Effect.gen(function* () {
        const [a, aggregate] = [fresh("a"), fresh("aggregate")]
        const { add, seen } = yield* collector
        let isBroken = true
        const name = fresh("parked")
        const handler = (event: StoredEvent) => (isBroken ? Effect.fail("broken") : add(event))
        yield* start(Projection.make({ ...quick, name, tags: [a], onFailure: "park", handler }))
        yield* append([event(1, [a], aggregate), event(2, [], aggregate), event(3, [a], aggregate)])
        yield* append([event(4, [a, fresh("b")], aggregate)])
        yield* caughtUp(name)
        isBroken = false
        const retried = yield* Projection.retryParked(name, long)
        assert.deepStrictEqual(
          retried.map(({ state }) => state),
          ["handled"]
        )
        assert.deepStrictEqual(yield* seen, [1, 3, 4])
      })
    )

    it.effect("is rebuilt from its own events, those that were tagged afterwards among them", () =>
      Effect.gen(function* () {
        const a = fresh("a")
        const store = yield* EventStore
        const { add, clear, seen } = yield* collector
        const projection = Projection.make({ ...quick, name: fresh("rebuilt"), tags: [a], handler: add })
        yield* start(projection)
        const stored = yield* append([event(1, [a]), event(2, []), event(3, [a])])
        yield* caughtUp(projection.name)
        yield* store.tag(stored.map(({ id, version }) => ({ id, version, tags: [a] })))
        yield* append(event(4, [a]))
        yield* caughtUp(projection.name)
        assert.deepStrictEqual(yield* seen, [1, 3, 4])
        yield* Stream.runDrain(Projection.rebuild(projection, { mode: "in place", clear }))
        assert.deepStrictEqual(yield* seen, [1, 2, 3, 4])
        yield* clear()
        yield* Stream.runDrain(Projection.rebuild(projection, { mode: "beside", clear }))
        assert.deepStrictEqual(yield* seen, [1, 2, 3, 4])
      })
    )

    it.effect("refuses tags and items that are none", () =>
      Effect.gen(function* () {
        const wrong = [{ tags: ["a", "a"] }, { tags: [""] }, { items: [] }, { items: [{ tags: ["x".repeat(256)] }] }]
        for (const filter of wrong) {
          const projection = Projection.make({ name: fresh("wrong"), ...filter, handler: () => Effect.void })
          const error = yield* ending(yield* start(projection))
          assert.instanceOf(error, InvalidInput)
          assert.include(error.message, Object.keys(filter).join())
        }
      })
    )
  })
}
