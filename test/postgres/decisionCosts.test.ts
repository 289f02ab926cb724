/** What decisions cost on a server, where nothing is in their way. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Option } from "effect"
import type { EventStore } from "effect-strata"
import { event, serveEvents, session, untilBlocked } from "./events.harness.ts"
import { query } from "./harness.ts"
import { counted } from "./states.harness.ts"

const tagged = (aggregateId: string, ...tags: ReadonlyArray<string>) => ({ ...event(aggregateId), tags })

describe("an append with a condition", () => {
  it.live("is one round trip, whatever comes of it, and so is the read before it", () =>
    Effect.gen(function* () {
      // Notifications go beside the appends.
      const { requests, stream } = counted("strata_wakeups")
      const elsewhere = yield* serveEvents()
      const { events, withTransaction } = yield* serveEvents({
        client: { maxConnections: 1, stream },
        options: { schema: elsewhere.schema }
      })
      /** How many requests it sends, and what comes of it. */
      const tripsOf = <A, E extends { readonly _tag: string }, R>(effect: Effect.Effect<A, E, R>) =>
        Effect.gen(function* () {
          const before = requests()
          const exit = yield* Effect.exit(effect)
          const error = Option.getOrUndefined(Exit.findErrorOption(exit))
          return [requests() - before, error?._tag ?? "stored"]
        })
      // Conditions that others have read: what looks for a younger mark beside a read would be counted.
      const read = (...items: ReadonlyArray<EventStore.QueryItem>) =>
        Effect.map(elsewhere.events.readForDecision(items), ({ condition }) => condition)
      const types = ["Happened"]
      const own = yield* read({ tags: ["t", "tenant"] }, { tags: ["u"], eventTypes: types })
      const appendIf = (condition: EventStore.Condition, ...tags: ReadonlyArray<string>) =>
        events.append(tagged(crypto.randomUUID(), ...tags), { condition })
      // The first ones prepare the statement.
      for (let times = 0; times < 3; times++) yield* appendIf(own, "beside")
      const all = yield* read({})
      assert.deepStrictEqual(yield* tripsOf(appendIf(own, "t")), [1, "stored"])
      assert.deepStrictEqual(yield* tripsOf(appendIf(own, "tenant", "t")), [1, "stored"])
      assert.deepStrictEqual(yield* tripsOf(appendIf(own, "beside")), [1, "ConditionFailed"])
      assert.deepStrictEqual(yield* tripsOf(appendIf(all, "t")), [1, "ConditionFailed"])
      const seen = yield* read({ tags: ["t"] }, { eventTypes: types })
      const both = { condition: seen, expected: "none" } as const
      assert.deepStrictEqual(yield* tripsOf(events.append(tagged("a", "t", "u", "v"), both)), [1, "stored"])
      assert.deepStrictEqual(yield* tripsOf(events.append(tagged("a", "t"), both)), [1, "VersionConflict"])
      yield* withTransaction(
        Effect.gen(function* () {
          for (let times = 0; times < 3; times++) yield* events.readForDecision([{ tags: ["t"] }])
          const before = requests()
          const { condition } = yield* events.readForDecision([{ tags: ["t"] }])
          assert.strictEqual(requests() - before, 1)
          assert.deepStrictEqual(yield* tripsOf(appendIf(condition, "t")), [1, "stored"])
        })
      )
    })
  )
})

describe("decisions upon one tag", () => {
  it.live("share a commit, up to one that writes what the others have read", () =>
    Effect.gen(function* () {
      const { applicationName, events, table } = yield* serveEvents()
      const items = [{ tags: ["account", "tenant"], eventTypes: ["Closed", "Opened"] }]
      const { condition } = yield* events.readForDecision(items)
      const foreign = yield* session()
      yield* foreign("BEGIN")
      yield* foreign(`LOCK TABLE ${table} IN SHARE MODE`)
      // What is submitted while an append is under way goes together, as far as it may.
      const busy = yield* Effect.forkChild(events.append(event("busy")), { startImmediately: true })
      yield* untilBlocked(1, applicationName)
      const decide = (eventType: string) =>
        Effect.forkChild(
          Effect.exit(
            events.append({ ...event("a"), eventType, tags: ["tenant", "account", crypto.randomUUID()] }, { condition })
          )
        )
      const types = [...Array.from({ length: 10 }, () => "Deposited"), "Closed", "Deposited", "Deposited"]
      const fibers = yield* Effect.forEach(types, decide)
      yield* untilBlocked(2, applicationName)
      yield* foreign("COMMIT")
      yield* Fiber.join(busy)
      const exits = yield* Effect.forEach(fibers, (fiber) => Fiber.join(fiber))
      assert.deepStrictEqual(
        exits.map((exit) => Option.getOrUndefined(Exit.findErrorOption(exit))?._tag ?? "stored"),
        [...Array.from({ length: 11 }, () => "stored"), "ConditionFailed", "ConditionFailed"]
      )
      const commits = yield* query(
        `SELECT count(*)::int FROM ${table} WHERE event_type <> 'Happened' GROUP BY xmin::text ORDER BY 1`
      )
      assert.deepStrictEqual(commits, [[1], [10]])
    })
  )
})
