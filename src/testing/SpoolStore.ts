/** What every `SpoolStore` does, as a suite for Vitest. */
import { assert, it } from "@effect/vitest"
import { DateTime, Duration, Effect, Exit, type Layer, Option, Result, Stream } from "effect"
import { InvalidInput } from "../InvalidInput.ts"
import {
  IdConflict,
  leaseOf,
  LeaseLost,
  maxHeadersBytes,
  maxPayloadBytes,
  maxTextLength,
  MessageExists,
  MessageNotFound,
  type SpoolMessage,
  SpoolStore,
  State,
  StateConflict,
  UpdateConflict
} from "../SpoolStore.ts"
import { type Transactor } from "../Transactor.ts"
import * as SpoolClaiming from "./SpoolClaiming.ts"
import {
  bounced,
  claim,
  done,
  fresh,
  future,
  getMeta,
  type Input,
  numberOf,
  numbersOf,
  past,
  plain,
  queueOf,
  settle,
  stateOf,
  statesOf,
  store,
  transaction
} from "./SpoolSupport.ts"

/** Parts of a message that break the model, as a caller without a type checker could send them. */
const invalid: ReadonlyArray<readonly [what: string, part: object]> = [
  ["an empty id", { id: "" }],
  ["an id of 256 characters", { id: "x".repeat(256) }],
  ["an id with a NUL character", { id: "a\0b" }],
  ["an empty queue", { queue: "" }],
  ["an unknown state", { state: "lost" }],
  ["a state as RetrySpool numbers it", { state: 2 }],
  ["negative attempts", { attempts: -1 }],
  ["a fractional number of attempts", { maxAttempts: 1.5 }],
  ["attempts beyond an integer column", { maxAttempts: 2 ** 31 }],
  ["so many attempts that a claim could not count one more", { attempts: 2 ** 31 - 1 }],
  ["a priority of 0", { priority: 0 }],
  ["a priority of 11", { priority: 11 }],
  ["a negative delay", { delay: -1 }],
  ["a delay that is none", { delay: "soon" }],
  ["a time to remember that is none", { rememberId: "for ever" }],
  ["an infinite delay", { delay: Duration.infinity }],
  ["a time that is none", { nextRetry: "tomorrow" }],
  ["a time after the year 9999", { nextRetry: DateTime.makeUnsafe(8.64e15) }],
  ["a negative size", { size: -1n }],
  ["a size beyond int64", { size: 2n ** 63n }],
  ["a header that is a number", { headers: { a: 1 } }],
  ["a header with a NUL character", { headers: { a: "\0" } }],
  ["headers that are a list", { headers: ["a"] }],
  ["an error with a NUL character", { lastError: "\0" }],
  ["a policy with a lone surrogate", { retryPolicyName: "\ud800" }],
  ["a payload that is no JSON", { payload: { at: new Date(0) } }],
  ["a payload that is too large to be read again", { payload: "x".repeat(maxPayloadBytes) }],
  ["headers that are too large", { headers: { a: "x".repeat(maxHeadersBytes) } }],
  ["an error that is too long", { lastError: "x".repeat(maxTextLength + 1) }],
  ["a policy that is too long", { retryPolicyName: "x".repeat(maxTextLength + 1) }]
]

/** Registers the suite. `interleaving: false` leaves out what takes two transactions open at once. */
export const suite = <E>(
  name: string,
  layer: Layer.Layer<SpoolStore | Transactor, E>,
  { interleaving = true }: { readonly interleaving?: boolean } = {}
): void => {
  SpoolClaiming.suite(name, layer, { interleaving })

  // The suite runs on the real clock: leases end by the store's clock, which may be a server's.
  it.layer(layer, { timeout: "2 minutes", excludeTestServices: true })(`SpoolStore (${name})`, (it) => {
    it.effect("gives back a message as it was stored", () =>
      Effect.gen(function* () {
        const message: Input = {
          id: fresh("ünï 🐘 '\"\\"),
          queue: fresh("queue"),
          state: "bounce",
          attempts: 3,
          maxAttempts: 7,
          nextRetry: DateTime.makeUnsafe(1755381600123),
          created: DateTime.makeUnsafe("0001-01-01T00:00:00Z"),
          lastError: "550 no such user\n",
          size: 2n ** 53n + 1n,
          priority: 1,
          headers: { to: "anna@example.org", "": "", __proto__x: "é 🐘" },
          retryPolicyName: "aggressive",
          payload: { subject: "Hello", tags: ["a", null, 1.5, 2 ** 60, 1e300], nested: { empty: {}, list: [] } }
        }
        yield* store(message)
        const stored = yield* getMeta(message)
        assert.deepStrictEqual({ ...stored }, { ...message, updated: stored.updated })
        assert.isTrue(DateTime.isGreaterThan(stored.updated, past))
      })
    )

    it.effect("gives back a message with everything as large as can be", () =>
      Effect.gen(function* () {
        const id = fresh()
        const text = "🐘".repeat(maxTextLength / 2)
        const headers = { a: "é".repeat(maxHeadersBytes / 2 - 10) }
        const payload = "é".repeat(maxPayloadBytes / 2 - 1)
        yield* store({ id, headers, payload, lastError: text, retryPolicyName: text })
        const stored = yield* getMeta(id)
        assert.isTrue(stored.payload === payload && stored.lastError === text && stored.headers["a"] === headers.a)
        yield* SpoolStore.use((spool) => spool.deleteMeta(id))
      })
    )

    it.effect("fills in what is not given", () =>
      Effect.gen(function* () {
        const id = fresh()
        yield* store({ id })
        const { created, nextRetry, updated, ...rest } = yield* getMeta(id)
        assert.deepStrictEqual(rest, {
          id,
          state: "incoming",
          attempts: 0,
          maxAttempts: 10,
          lastError: "",
          size: 0n,
          priority: 5,
          headers: {},
          retryPolicyName: ""
        })
        for (const time of [created, nextRetry, updated]) {
          assert.isBelow(Math.abs(time.epochMilliseconds - created.epochMilliseconds), 1000)
        }
        const [sized, none] = [fresh(), fresh()]
        yield* store({ id: sized, payload: "é🐘" })
        yield* store({ id: none, payload: null })
        assert.strictEqual((yield* getMeta(sized)).size, 8n)
        assert.strictEqual((yield* getMeta(none)).payload, null)
      })
    )

    it.effect("stores an id once, and leaves the stored message as it is", () =>
      Effect.gen(function* () {
        const id = fresh()
        yield* store({ id, priority: 1 })
        assert.deepStrictEqual(yield* Effect.flip(store({ id, priority: 2 })), new MessageExists({ id }))
        assert.strictEqual((yield* getMeta(id)).priority, 1)
        const racing = fresh()
        const results = yield* Effect.forEach(Array.from({ length: 20 }), () => Effect.result(store({ id: racing })), {
          concurrency: "unbounded"
        })
        assert.strictEqual(results.filter(Result.isSuccess).length, 1)
        for (const { failure } of results.filter(Result.isFailure)) {
          assert.deepStrictEqual(failure, new MessageExists({ id: racing }))
        }
      })
    )

    it.effect("keeps the same id in two queues, and in none, as messages of their own", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const id = fresh()
        const keys = [{ queue: fresh("queue"), id }, { queue: fresh("queue"), id }, { id }] as const
        for (const [n, key] of keys.entries()) yield* store({ ...key, payload: n })
        for (const [n, key] of keys.entries()) assert.strictEqual((yield* getMeta(key)).payload, n)
        const [first, second, none] = keys
        yield* spool.moveToState(first, "incoming", "hold")
        yield* spool.updateMeta(second, { priority: 1 })
        assert.deepStrictEqual(
          yield* Effect.forEach(keys, (key) =>
            Effect.map(getMeta(key), ({ priority, queue, state }) => [queue, state, priority])
          ),
          [
            [first.queue, "hold", 5],
            [second.queue, "incoming", 1],
            [undefined, "incoming", 5]
          ]
        )
        // A message is its own key, and leases of several queues are settled together.
        yield* spool.moveToState(yield* getMeta(first), "hold", "incoming")
        const leases = (yield* Effect.forEach([first.queue, second.queue], (queue) => claim(queue))).flatMap(
          (claimed) => claimed.map(({ lease }) => lease)
        )
        const [claimed] = yield* spool
          .claim({ limit: 10_000, lease: "1 minute", owner: "none" })
          .pipe(Effect.map((messages) => messages.filter((message) => message.id === id)))
        if (claimed === undefined) return assert.fail("not claimed")
        const all = [...leases.slice(0, 1), leaseOf(claimed, "none"), ...leases.slice(1)]
        const stale = { ...leaseOf(claimed, "none"), attempt: 9 }
        assert.deepStrictEqual(yield* spool.heartbeat(all, "1 minute"), [])
        assert.deepStrictEqual(yield* spool.trySettle([...leases, stale].map(bounced)), {
          lost: [new LeaseLost(stale)],
          locked: []
        })
        assert.deepStrictEqual(
          yield* settle(all.map(done)),
          leases.map((lease) => new LeaseLost(lease))
        )
        assert.deepStrictEqual(yield* Effect.flip(getMeta(none)), new MessageNotFound({ id }))
        yield* spool.deleteMeta(first)
        assert.deepStrictEqual(yield* Effect.flip(getMeta(first)), new MessageNotFound(first))
        assert.strictEqual(yield* stateOf(second), "bounce")
      })
    )

    it.effect("refuses an id with another payload, and compares nothing else", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        for (const queue of [{ queue: fresh("queue") }, {}]) {
          const key = { ...queue, id: fresh() }
          const payload = { a: 1, b: [1.5, "é", null], c: { d: 1e21, e: -0 } }
          const same = { c: { e: 0, d: 1e21 }, b: [1.5, "é", null], a: 1 }
          const conflict = new IdConflict({ ...key, takenBy: "another payload" })
          yield* store({ ...key, payload, headers: { traceparent: "1" } })
          assert.deepStrictEqual(
            yield* Effect.flip(store({ ...key, payload: same, headers: { traceparent: "2" }, priority: 1 })),
            new MessageExists(key)
          )
          for (const payload of [{ ...same, a: 2 }, { ...same, b: ["é", 1.5, null] }, null]) {
            assert.deepStrictEqual(yield* Effect.flip(store({ ...key, payload })), conflict)
          }
          assert.deepStrictEqual(yield* Effect.flip(store(key)), conflict)
          const other = { ...queue, id: fresh(), payload: 1 }
          assert.deepStrictEqual(
            yield* spool.storeMany([{ ...key, payload: 2 }, other, { ...other, id: `${other.id} too` }]),
            [conflict]
          )
          assert.deepStrictEqual(
            yield* spool.storeMany([
              { ...key, payload: same },
              { ...other, payload: 2 }
            ]),
            [new MessageExists(key), new IdConflict({ ...queue, id: other.id, takenBy: "another payload" })]
          )
          assert.deepStrictEqual((yield* getMeta(key)).headers, { traceparent: "1" })
        }
      })
    )

    it.effect("remembers an id after its message was delivered or purged, until its time is over", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const queue = fresh("queue")
        const input = (id: string): Input => ({ queue, id, payload: { id }, rememberId: "1 hour" })
        const ids = ["done", "archived", "deleted", "removed"]
        yield* spool.storeMany([...ids.map(input), { queue, id: "generated", payload: 1 }])
        const leases = (yield* claim(queue)).map(({ lease }) => lease)
        const [first, second, ...rest] = leases
        if (!first || !second) return assert.fail("not all claimed")
        assert.deepStrictEqual(yield* settle([done(first), { outcome: "archived", ...second }]), [])
        assert.deepStrictEqual(yield* settle(rest.slice(2).map(done)), [])
        yield* spool.deleteMeta({ queue, id: "deleted" })
        yield* spool.deleteMeta({ queue, id: "removed" }, { rememberId: true })
        // A message can have changed a millisecond later than it is, so that the changes have an order.
        const purge = spool.purge({ state: "archived", queue, olderThan: 0 })
        yield* Effect.repeat(purge, { until: (purged) => purged === 1 })
        assert.deepStrictEqual(yield* statesOf(queue), {})
        // Nothing shows a remembered id.
        const key = { queue, id: "done" }
        const attempts: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
          spool.getMeta(key),
          spool.deleteMeta(key),
          spool.updateMeta(key, { priority: 1 }),
          spool.moveToState(key, State.literals, "incoming")
        ]
        for (const attempt of attempts) {
          assert.deepStrictEqual(yield* Effect.flip(attempt), new MessageNotFound(key))
        }
        const everywhere = yield* Effect.forEach(State.literals, (state) => Stream.runCollect(spool.iterate(state)))
        assert.isTrue(everywhere.flat().every((message) => message.queue !== queue))
        for (const id of ["done", "archived", "removed"]) {
          assert.deepStrictEqual(yield* Effect.flip(store(input(id))), new MessageExists({ queue, id }))
          assert.deepStrictEqual(
            yield* Effect.flip(store({ ...input(id), payload: 2 })),
            new IdConflict({ queue, id, takenBy: "another payload" })
          )
        }
        yield* store(input("deleted"))
        yield* store({ queue, id: "generated", payload: 2 })
        yield* spool.forgetIds()
        assert.instanceOf(yield* Effect.flip(store(input("done"))), MessageExists)
        assert.deepStrictEqual(yield* claim(queue, { limit: 1, lease: 0 }).pipe(Effect.map(numbersOf)), [Number.NaN])
      })
    )

    it.effect("forgets ids whose time is over, in batches", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const queue = yield* queueOf(Array.from({ length: 5 }, () => ({ rememberId: 0 })))
        assert.deepStrictEqual(yield* settle((yield* claim(queue)).map(({ lease }) => done(lease))), [])
        // One is free again though it is not forgotten.
        yield* store({ queue, id: "3", payload: "another" })
        while ((yield* spool.forgetIds({ limit: 2 })) === 2);
        assert.strictEqual(yield* spool.forgetIds(), 0)
        assert.strictEqual((yield* getMeta({ queue, id: "3" })).payload, "another")
      })
    )

    it.effect("stores many messages at once, in their order, except those that are stored already", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        assert.deepStrictEqual(yield* spool.storeMany([]), [])
        const queue = yield* queueOf(plain(300))
        const old = { id: "7", queue, priority: 1 }
        const added = { id: "300", queue }
        assert.deepStrictEqual(yield* spool.storeMany([old, added]), [new MessageExists({ id: "7", queue })])
        assert.deepStrictEqual(
          numbersOf(yield* claim(queue, { limit: 1000 })),
          Array.from({ length: 301 }, (_, number) => number)
        )
        // An id that is taken in one queue is free in another one.
        const elsewhere = { id: "300", queue: fresh("queue") }
        assert.deepStrictEqual(yield* spool.storeMany([elsewhere, added]), [new MessageExists(added)])
        assert.strictEqual(yield* stateOf(elsewhere), "incoming")
        const error = yield* Effect.flip(spool.storeMany([added, added]))
        assert.include(error.message, "Expected each message once")
        const mixed = yield* Effect.flip(spool.storeMany([{ id: fresh(), queue }, { id: fresh() }]))
        assert.include(mixed.message, "Expected a queue for each message, or for none")
      })
    )

    it.effect("fails with MessageNotFound for an id that is not stored", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const id = fresh()
        const attempts: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
          spool.getMeta(id),
          spool.updateMeta(id, { priority: 1 }),
          spool.updateMeta(id, { priority: 1 }, { ifUpdated: past }),
          spool.deleteMeta(id),
          spool.moveToState(id, "incoming", "hold")
        ]
        for (const attempt of attempts) {
          assert.deepStrictEqual(yield* Effect.flip(attempt), new MessageNotFound({ id }))
        }
      })
    )

    it.effect("changes the fields that are given, and no others", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const id = fresh()
        yield* store({ id, headers: { a: "1", b: "2" }, payload: [1] })
        const before = yield* getMeta(id)
        const changes = {
          attempts: 1,
          maxAttempts: 2,
          nextRetry: future,
          lastError: "later",
          size: 3n,
          priority: 4,
          headers: { c: "3" },
          retryPolicyName: "slow"
        }
        const after = yield* spool.updateMeta(id, changes)
        assert.deepStrictEqual({ ...after }, { ...before, ...changes, updated: after.updated })
        assert.deepStrictEqual(yield* getMeta(id), after)
        assert.isAbove(after.updated.epochMilliseconds, before.updated.epochMilliseconds)
        const touched = yield* spool.updateMeta(id, {})
        assert.deepStrictEqual({ ...touched }, { ...after, updated: touched.updated })
      })
    )

    it.effect("changes a payload, and the size with it", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const queue = yield* queueOf([{ payload: { to: "a" }, size: 7n }])
        const message = { queue, id: "0" }
        const payload = { to: "another one", parts: [1, null, "ü"] }
        const changed = yield* spool.updateMeta(message, { payload })
        assert.deepStrictEqual(changed.payload, payload)
        assert.strictEqual(changed.size, BigInt(new TextEncoder().encode(JSON.stringify(payload)).length))
        yield* spool.moveToState(message, "incoming", "hold", { payload: null, size: 3n })
        const moved = yield* spool.getMeta(message)
        assert.deepStrictEqual([moved.payload, moved.size, moved.state], [null, 3n, "hold"])
        const taken = yield* Effect.flip(spool.storeMeta({ ...message, payload: { to: "a" } }))
        assert.instanceOf(taken, IdConflict)
      })
    )

    it.effect("changes a message only if it is as it was read: of racing callers exactly one succeeds", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const id = fresh()
        yield* store({ id })
        for (let round = 0; round < 10; round++) {
          const { updated } = yield* getMeta(id)
          const results = yield* Effect.forEach(
            Array.from({ length: 10 }, (_, caller) => `${round}/${caller}`),
            (lastError) => Effect.result(spool.updateMeta(id, { lastError }, { ifUpdated: updated })),
            { concurrency: "unbounded" }
          )
          const [won, ...others] = results.filter(Result.isSuccess)
          assert.deepStrictEqual(others, [])
          const stored = yield* getMeta(id)
          assert.deepStrictEqual(won?.success, stored)
          for (const { failure } of results.filter(Result.isFailure)) {
            assert.deepStrictEqual(failure, new UpdateConflict({ id, expected: updated, actual: stored.updated }))
          }
        }
      })
    )

    it.effect("deletes a message", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const id = fresh()
        yield* store({ id })
        yield* spool.deleteMeta(id)
        assert.instanceOf(yield* Effect.flip(getMeta(id)), MessageNotFound)
        yield* store({ id })
      })
    )

    it.effect("moves a message from one state to another, if it is in it: of racing callers exactly one succeeds", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const id = fresh()
        yield* store({ id })
        for (const [number, from] of State.literals.entries()) {
          const to = State.literals[(number + 1) % State.literals.length] ?? "incoming"
          const before = yield* getMeta(id)
          const results = yield* Effect.forEach(
            Array.from({ length: 10 }),
            () => Effect.result(spool.moveToState(id, from, to)),
            { concurrency: "unbounded" }
          )
          assert.strictEqual(results.filter(Result.isSuccess).length, 1)
          for (const { failure } of results.filter(Result.isFailure)) {
            assert.deepStrictEqual(failure, new StateConflict({ id, expected: [from], actual: to }))
          }
          const after = yield* getMeta(id)
          assert.deepStrictEqual({ ...after }, { ...before, state: to, updated: after.updated })
          assert.isAbove(after.updated.epochMilliseconds, before.updated.epochMilliseconds)
        }
        yield* spool.moveToState(id, ["active", "incoming"], "hold", { lastError: "wait", attempts: 0 })
        const { lastError, state } = yield* getMeta(id)
        assert.deepStrictEqual([state, lastError], ["hold", "wait"])
      })
    )

    it.effect("lists a page of a state, sorted, with a tie-breaker, and counts on request", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const at = (second: number) => DateTime.makeUnsafe(second * 1000)
        const queue = yield* queueOf(
          Array.from({ length: 10 }, (_, n) => ({
            created: at(9 - n),
            priority: n < 5 ? 2 : 1,
            attempts: n % 2,
            payload: "left out"
          }))
        )
        yield* queueOf(plain(3))
        yield* spool.moveToState({ queue, id: "3" }, "incoming", "hold")
        const page = (options: Parameters<SpoolStore["Service"]["listMessages"]>[1]) =>
          Effect.map(spool.listMessages("incoming", { queue, ...options }), ({ hasMore, messages, total }) => [
            numbersOf(messages),
            hasMore,
            Option.getOrUndefined(total)
          ])
        const all = [9, 8, 7, 6, 5, 4, 2, 1, 0]
        assert.deepStrictEqual(yield* page({}), [all, false, undefined])
        assert.deepStrictEqual(yield* page({ limit: 4, total: true }), [all.slice(0, 4), true, 9])
        assert.deepStrictEqual(yield* page({ limit: 4, offset: 5, total: true }), [all.slice(5), false, 9])
        assert.deepStrictEqual(yield* page({ limit: 4, offset: 6 }), [all.slice(6), false, undefined])
        assert.deepStrictEqual(yield* page({ limit: 0 }), [[], true, undefined])
        assert.deepStrictEqual(yield* page({ offset: 100, total: true }), [[], false, 9])
        assert.deepStrictEqual(yield* page({ sortOrder: "desc" }), [all.toReversed(), false, undefined])
        const byPriority = [5, 6, 7, 8, 9, 0, 1, 2, 4]
        assert.deepStrictEqual(yield* page({ sortBy: "priority" }), [byPriority, false, undefined])
        assert.deepStrictEqual(yield* page({ sortBy: "priority", sortOrder: "desc", limit: 3 }), [
          byPriority.toReversed().slice(0, 3),
          true,
          undefined
        ])
        assert.deepStrictEqual(yield* page({ sortBy: "attempts" }), [[0, 2, 4, 6, 8, 1, 5, 7, 9], false, undefined])

        const { updated } = yield* spool.updateMeta({ queue, id: "6" }, {})
        assert.deepStrictEqual(yield* page({ sortBy: "updated", sortOrder: "desc", limit: 1 }), [[6], true, undefined])
        assert.deepStrictEqual(yield* page({ since: updated, total: true }), [[6], false, 1])
        assert.deepStrictEqual(yield* page({ since: future, total: true }), [[], false, 0])
        const [listed] = (yield* spool.listMessages("incoming", { queue })).messages
        const { payload: _, ...rest } = yield* getMeta(listed ?? "")
        assert.deepStrictEqual(Object.assign({}, listed), rest)
      })
    )

    it.effect("iterates over messages of the earliest and the latest time, each in a page of its own", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const times = ["0001-01-01T00:00:00.001Z", "1969-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"]
        const created = times.flatMap((time) => [DateTime.makeUnsafe(time), DateTime.makeUnsafe(time)])
        const queue = yield* queueOf(created.map((created) => ({ created })))
        const found = yield* Stream.runCollect(Stream.take(spool.iterate("incoming", { queue, batchSize: 1 }), 20))
        assert.deepStrictEqual(
          found.map(({ created }) => created),
          created
        )
      })
    )

    it.effect("iterates over every message of a state that stays in it, once, whatever happens to the others", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        // All have the same time, so that only the ids tell them apart.
        const queue = yield* queueOf(Array.from({ length: 50 }, () => ({ created: past })))
        const older = yield* queueOf([{ created: DateTime.makeUnsafe(0) }])
        const seen: Array<number> = []
        yield* Stream.runForEach(
          spool.iterate("incoming", { queue, batchSize: 7 }),
          Effect.fnUntraced(function* (message: SpoolMessage) {
            const number = numberOf(message)
            seen.push(number)
            // Messages that were seen leave the state: a list by OFFSET would then skip as many of the others.
            if (number % 2 === 0) yield* spool.moveToState(message, "incoming", "archived")
            else yield* spool.updateMeta(message, { priority: 1 })
          })
        )
        const sorted = Array.from({ length: 50 }, (_, number) => number).sort((a, b) => (`${a}` < `${b}` ? -1 : 1))
        assert.deepStrictEqual(seen, sorted)
        const everywhere = yield* Stream.runCollect(spool.iterate("incoming"))
        const mine = everywhere.filter(({ queue: of }) => of === queue || of === older)
        assert.strictEqual(mine.length, 26)
        assert.strictEqual(mine[0]?.queue, older)
        assert.isUndefined(mine[0]?.payload)
      })
    )

    it.effect("counts by state", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const queue = yield* queueOf([{}, { state: "hold" }, { delay: 0 }, { nextRetry: future }, { state: "hold" }])
        assert.deepStrictEqual(yield* spool.countByState(queue), {
          incoming: 1,
          active: 0,
          deferred: 2,
          hold: 2,
          bounce: 0,
          archived: 0
        })
        const all = yield* spool.countByState()
        assert.isAtLeast(all.hold, 2)
      })
    )

    it.effect("undoes everything with the transaction that it was part of", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const queue = yield* queueOf([{}, {}, { state: "active" }, { state: "archived" }])
        const ids = ["0", "1", "2", "3"].map((id) => ({ queue, id }))
        const all = Effect.forEach(ids, getMeta)
        const before = yield* all
        const exit = yield* Effect.exit(
          transaction(
            Effect.gen(function* () {
              yield* store({ id: fresh(), queue })
              const claimed = yield* claim(queue, { limit: 2 })
              yield* settle(claimed.slice(1).map(({ lease }) => done(lease)))
              yield* spool.recover({ queue, grace: 0 })
              yield* spool.purge({ state: "archived", queue, olderThan: 0 })
              yield* spool.moveToState({ queue, id: "2" }, "incoming", "hold")
              assert.deepStrictEqual(yield* statesOf(queue), { incoming: 1, active: 1, hold: 1 })
              return yield* Effect.fail("rolled back")
            })
          )
        )
        assert.deepStrictEqual(exit, Exit.fail("rolled back"))
        assert.deepStrictEqual(yield* all, before)
        assert.deepStrictEqual(yield* statesOf(queue), { incoming: 2, active: 1, archived: 1 })
        assert.deepStrictEqual(numbersOf(yield* claim(queue)), [0, 1])
      })
    )

    it.effect("does not spoil the transaction that catches its errors", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const id = fresh()
        yield* transaction(
          Effect.gen(function* () {
            yield* store({ id })
            assert.instanceOf(yield* Effect.flip(store({ id })), MessageExists)
            assert.instanceOf(yield* Effect.flip(getMeta(fresh())), MessageNotFound)
            assert.instanceOf(yield* Effect.flip(spool.moveToState(id, "hold", "bounce")), StateConflict)
            const error = yield* Effect.flip(spool.updateMeta(id, {}, { ifUpdated: past }))
            assert.instanceOf(error, UpdateConflict)
            yield* spool.moveToState(id, "incoming", "hold")
          })
        )
        assert.strictEqual(yield* stateOf(id), "hold")
      })
    )

    it.effect.each(invalid)("refuses %s", ([, part]) =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const id = fresh()
        for (const [operation, attempt] of [
          ["storeMeta", spool.storeMeta(Object.assign({ id }, part))],
          ["storeMany", spool.storeMany([{ id }, Object.assign({ id: `${id} too` }, part)])]
        ] as const) {
          const error = yield* Effect.flip(attempt)
          assert.strictEqual(error._tag, "InvalidInput")
          assert.include(error.message, `SpoolStore.${operation}: invalid input: `)
          assert.include(error.message, `${Object.keys(part)[0]}`)
        }
        assert.instanceOf(yield* Effect.flip(getMeta(id)), MessageNotFound)
      })
    )

    it.effect("refuses invalid arguments of every operation, naming the field", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const fieldsOf = <A>(operation: Effect.Effect<A, { readonly _tag: string; readonly message: string }>) =>
          Effect.map(Effect.flip(operation), (error) =>
            error instanceof InvalidInput ? error.issues.map(({ field }) => field) : error
          )
        const lease = { id: "", owner: "", attempt: -1 }
        const unknown = JSON.parse(`"lost"`)
        assert.deepStrictEqual(yield* fieldsOf(spool.storeMeta({ id: "a", delay: 1, nextRetry: past })), [""])
        assert.deepStrictEqual(yield* fieldsOf(spool.getMeta("")), ["id"])
        assert.deepStrictEqual(yield* fieldsOf(spool.deleteMeta("x".repeat(256))), ["id"])
        assert.deepStrictEqual(yield* fieldsOf(spool.updateMeta("", { priority: 11 })), ["id", "changes.priority"])
        assert.deepStrictEqual(yield* fieldsOf(spool.moveToState("a", unknown, unknown, { attempts: -1 })), [
          "from.0",
          "to",
          "changes.attempts"
        ])
        assert.deepStrictEqual(
          yield* fieldsOf(spool.listMessages(unknown, { limit: -1, offset: -1, sortBy: unknown, sortOrder: unknown })),
          ["state", "limit", "offset", "sortBy", "sortOrder"]
        )
        assert.deepStrictEqual(yield* fieldsOf(Stream.runDrain(spool.iterate(unknown, { batchSize: 0 }))), [
          "state",
          "batchSize"
        ])
        assert.deepStrictEqual(yield* fieldsOf(spool.countByState("")), ["queue"])
        assert.deepStrictEqual(
          yield* fieldsOf(spool.claim({ queue: "", limit: 0, lease: -1, owner: "", reserved: -1 })),
          ["queue", "limit", "lease", "owner", "reserved"]
        )
        const fields = ["0.id", "0.owner", "0.attempt"]
        assert.deepStrictEqual(yield* fieldsOf(spool.heartbeat([lease], -1)), [
          ...fields.map((field) => `leases.${field}`),
          "lease"
        ])
        assert.isNotEmpty(yield* fieldsOf(spool.settle([{ outcome: "deferred", ...lease, delay: -1, error: "" }])))
        const delivered = done({ id: "a", owner: "b", attempt: 1 })
        assert.deepStrictEqual(yield* fieldsOf(spool.settle([delivered, delivered])), ["outcomes"])
        for (const wrong of [
          ...["", "a\0", "\ud800", "x".repeat(256)].flatMap((text) => [{ id: text }, { owner: text }]),
          ...[-1, 0.5, Number.NaN, 2 ** 31].map((attempt) => ({ attempt }))
        ]) {
          const field = `outcomes.0.${Object.keys(wrong).join()}`
          // A field may have several issues.
          const fields = yield* fieldsOf(spool.settle([{ ...delivered, ...wrong }]))
          assert.deepStrictEqual(Array.isArray(fields) ? [...new Set(fields)] : fields, [field])
        }
        assert.deepStrictEqual(yield* fieldsOf(spool.recover({ limit: 0, grace: -1 })), ["limit", "grace"])
        assert.deepStrictEqual(yield* fieldsOf(spool.purge({ state: unknown, olderThan: -1 })), ["state", "olderThan"])
        assert.deepStrictEqual(yield* fieldsOf(spool.untilReady("")), ["queue"])
        assert.deepStrictEqual(yield* fieldsOf(spool.oldestReady("")), ["queue"])
      })
    )

    it.effect("answers a ping", () => SpoolStore.use((spool) => spool.ping))
  })
}
