/** What workers can rely on of every `SpoolStore`: the part of its suite about claims. */
import { assert, it } from "@effect/vitest"
import { DateTime, Duration, Effect, Fiber, type Layer, Option, Queue, Stream } from "effect"
import { keyOf, leaseExpired } from "../SpoolMessage.ts"
import {
  type Lease,
  LeaseLost,
  MessageExists,
  MessageLocked,
  MessageNotFound,
  type SpoolMessage,
  SpoolStore
} from "../SpoolStore.ts"
import { type Transactor } from "../Transactor.ts"
import {
  bounced,
  claim,
  type ClaimInput,
  deferred,
  done,
  fresh,
  future,
  getMeta,
  numberOf,
  numbersOf,
  open,
  past,
  plain,
  queueOf,
  settle,
  statesOf,
  store,
  transaction
} from "./SpoolSupport.ts"

/** Registers the suite. `interleaving: false` leaves out what takes two transactions open at once. */
export const suite = <E>(
  name: string,
  layer: Layer.Layer<SpoolStore | Transactor, E>,
  { interleaving = true }: { readonly interleaving?: boolean } = {}
): void => {
  // The suite runs on the real clock: leases end by the store's clock, which may be a server's.
  it.layer(layer, { timeout: "2 minutes", excludeTestServices: true })(`SpoolStore (${name}): claims`, (it) => {
    it.effect("claims messages that are due, in order of priority, then age", () =>
      Effect.gen(function* () {
        const queue = yield* queueOf([
          { priority: 9 },
          { priority: 1 },
          { priority: 5, created: past },
          { priority: 1 },
          { priority: 5, created: DateTime.makeUnsafe(0) },
          { state: "hold" },
          { state: "archived" },
          { nextRetry: future },
          { nextRetry: past, priority: 2 },
          { delay: "1 hour" },
          { delay: 0, priority: 3 }
        ])
        const claimed = yield* claim(queue)
        assert.deepStrictEqual(numbersOf(claimed), [1, 3, 8, 10, 4, 2, 0])
        for (const { lease, ...message } of claimed) {
          assert.deepStrictEqual([message.state, message.attempts], ["active", 1])
          assert.deepStrictEqual({ ...(yield* getMeta(lease)) }, { ...message })
        }
        assert.deepStrictEqual(yield* claim(queue), [])
        assert.deepStrictEqual(yield* statesOf(queue), { active: 7, deferred: 2, hold: 1, archived: 1 })
      })
    )

    it.effect("claims messages of one queue, or messages that are in no queue", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const queue = yield* queueOf(plain(2))
        const id = fresh()
        yield* store({ id, priority: 1, created: DateTime.makeUnsafe(0) })
        const claimed = yield* spool.claim({ limit: 10, lease: "1 minute", owner: "nobody" })
        assert.include(
          claimed.map((message) => message.id),
          id
        )
        assert.isTrue(claimed.every((message) => message.queue === undefined))
        assert.deepStrictEqual(numbersOf(yield* claim(queue)), [0, 1])
      })
    )

    it.effect("claims deferred messages first, but for the share of incoming ones", () =>
      Effect.gen(function* () {
        const due = { delay: 0 }
        const mixed = () => queueOf([...Array.from({ length: 10 }, () => due), ...plain(10)])
        const shares = Effect.fnUntraced(function* (queue: string, options: Partial<ClaimInput>) {
          const numbers = numbersOf(yield* claim(queue, options))
          return [numbers.filter((number) => number < 10).length, numbers.filter((number) => number >= 10).length]
        })
        assert.deepStrictEqual(yield* shares(yield* mixed(), { limit: 8 }), [4, 4])
        assert.deepStrictEqual(yield* shares(yield* mixed(), { limit: 8, reserved: 0 }), [8, 0])
        assert.deepStrictEqual(yield* shares(yield* mixed(), { limit: 8, reserved: 2 }), [6, 2])
        assert.deepStrictEqual(yield* shares(yield* mixed(), { limit: 8, reserved: 100 }), [0, 8])
        assert.deepStrictEqual(yield* shares(yield* mixed(), { limit: 16, reserved: 1 }), [10, 6])
        assert.deepStrictEqual(yield* shares(yield* mixed(), { limit: 16, reserved: 15 }), [6, 10])
        assert.deepStrictEqual(
          yield* shares(yield* queueOf(Array.from({ length: 9 }, () => due)), { limit: 8 }),
          [8, 0]
        )
        // The order is by priority, then by the time at which they were due.
        const queue = yield* queueOf([
          { nextRetry: past, priority: 6 },
          { delay: 0, priority: 2 },
          { nextRetry: past, priority: 2 },
          { nextRetry: DateTime.makeUnsafe(0), priority: 6 }
        ])
        assert.deepStrictEqual(numbersOf(yield* claim(queue, { limit: 3 })), [1, 2, 3])
      })
    )

    it.effect("gives each message to one of many claimers", () =>
      Effect.gen(function* () {
        const queue = yield* queueOf(plain(500))
        const claimed = yield* Effect.forEach(Array.from({ length: 100 }), () => claim(queue, { limit: 7 }), {
          concurrency: 8
        })
        const numbers = numbersOf(claimed.flat())
        assert.strictEqual(numbers.length, 500)
        assert.strictEqual(new Set(numbers).size, 500)
      })
    )

    it.effect("settles a mixed batch, each message in its way", () =>
      Effect.gen(function* () {
        const queue = yield* queueOf(
          Array.from({ length: 6 }, () => ({ headers: { a: "1", b: "2" }, lastError: "old" }))
        )
        const [done, archived, deferred, bounced, held, released] = (yield* claim(queue)).map(({ lease }) => lease)
        if (!done || !archived || !deferred || !bounced || !held || !released) return assert.fail("not all claimed")
        const lost = yield* settle([
          { outcome: "released", ...released },
          { outcome: "done", ...done },
          { outcome: "archived", ...archived, headers: { b: "3", c: "4" } },
          { outcome: "deferred", ...deferred, delay: "1 hour", error: "busy", headers: { a: "0" } },
          { outcome: "bounced", ...bounced, error: "gone" },
          { outcome: "held", ...held, error: "look at this" }
        ])
        assert.deepStrictEqual(lost, [])
        assert.instanceOf(yield* Effect.flip(getMeta(done)), MessageNotFound)
        const shown = (lease: typeof Lease.Type) =>
          Effect.map(getMeta(lease), ({ attempts, headers, lastError, state }) => [state, attempts, lastError, headers])
        assert.deepStrictEqual(yield* shown(archived), ["archived", 1, "old", { a: "1", b: "3", c: "4" }])
        assert.deepStrictEqual(yield* shown(deferred), ["deferred", 1, "busy", { a: "0", b: "2" }])
        assert.deepStrictEqual(yield* shown(bounced), ["bounce", 1, "gone", { a: "1", b: "2" }])
        assert.deepStrictEqual(yield* shown(held), ["hold", 1, "look at this", { a: "1", b: "2" }])
        assert.deepStrictEqual(yield* shown(released), ["incoming", 0, "old", { a: "1", b: "2" }])
        const message = yield* getMeta(deferred)
        const wait = message.nextRetry.epochMilliseconds - message.updated.epochMilliseconds
        assert.isBelow(Math.abs(wait - 3_600_000), 1000)
        assert.deepStrictEqual(numbersOf(yield* claim(queue)), [numberOf(released)])
        assert.deepStrictEqual(yield* settle([]), [])
      })
    )

    it.effect("settles thousands at once", () =>
      Effect.gen(function* () {
        const queue = yield* queueOf(plain(3000))
        const leases = (yield* claim(queue, { limit: 3000 })).map(({ lease }) => lease)
        assert.deepStrictEqual(yield* settle(leases.map(done)), [])
        assert.deepStrictEqual(yield* statesOf(queue), {})
      })
    )

    it.effect("lets a worker that has lost its lease change nothing: a hold stays, for instance", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const queue = yield* queueOf(plain(5))
        const leases = (yield* claim(queue, { lease: 0 })).map(({ lease }) => lease)
        const [mine, held, deleted, recounted, retaken] = leases
        if (!mine || !held || !deleted || !recounted || !retaken) return assert.fail("not all claimed")
        yield* spool.moveToState(held, "active", "hold", { lastError: "by an administrator" })
        yield* spool.deleteMeta(deleted)
        yield* spool.updateMeta(recounted, { attempts: 5 })
        yield* spool.moveToState(retaken, "active", "incoming", { attempts: 0 })
        yield* claim(queue, { limit: 1 })
        const others = [held, deleted, recounted, retaken].map((lease) => new LeaseLost(lease))
        assert.deepStrictEqual(yield* spool.heartbeat(leases, "1 minute"), others)
        const before = yield* Effect.forEach([held, recounted, retaken], (lease) => getMeta(lease))
        assert.deepStrictEqual(yield* settle(leases.map(deferred)), others)
        assert.deepStrictEqual(yield* settle(leases.map(done)), [new LeaseLost(mine), ...others])
        const after = yield* Effect.forEach([held, recounted, retaken], (lease) => getMeta(lease))
        assert.deepStrictEqual(after, before)
        assert.strictEqual(after[0]?.lastError, "by an administrator")
        assert.strictEqual((yield* getMeta(mine)).lastError, "late")
      })
    )

    it.effect("takes a lease away with each move to another state, also back to active, and with no other change", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const queue = yield* queueOf(plain(3))
        const leases = (yield* claim(queue)).map(({ lease }) => lease)
        const [changed, moved, returned] = leases
        if (!changed || !moved || !returned) return assert.fail("not all claimed")
        yield* spool.updateMeta(changed, { lastError: "seen", priority: 1 })
        yield* spool.updateMeta(changed, { headers: { a: "b" } })
        yield* spool.moveToState(moved, "active", "active")
        yield* spool.moveToState(returned, "active", "incoming")
        yield* spool.moveToState(returned, "incoming", "active")
        const lost = [moved, returned].map((lease) => new LeaseLost(lease))
        assert.deepStrictEqual(yield* spool.heartbeat(leases, "1 minute"), lost)
        assert.deepStrictEqual(yield* settle(leases.map(done)), lost)
        assert.deepStrictEqual(yield* statesOf(queue), { active: 2 })
      })
    )

    it.effect("recovers messages whose lease has run out, and no others", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const queue = yield* queueOf([
          { maxAttempts: 2 },
          { maxAttempts: 1 },
          {},
          {},
          { state: "active" },
          { delay: 0 }
        ])
        const [expired, exhausted] = [
          yield* claim(queue, { limit: 1, reserved: 1, lease: 0 }),
          yield* claim(queue, { limit: 1, reserved: 1, lease: 0 })
        ]
        const live = yield* claim(queue, { limit: 1, reserved: 1 })
        const renewed = yield* claim(queue, { limit: 1, reserved: 1, lease: 0 })
        yield* spool.heartbeat(
          renewed.map(({ lease }) => lease),
          "1 minute"
        )
        assert.deepStrictEqual(numbersOf([...expired, ...exhausted, ...live, ...renewed]), [0, 1, 2, 3])

        const one = yield* spool.recover({ queue, limit: 1 })
        assert.deepStrictEqual(numbersOf(one), [0])
        const recovered = yield* spool.recover({ queue })
        assert.deepStrictEqual(numbersOf(recovered), [1])
        const shown = (message: SpoolMessage) => [message.state, message.attempts, message.lastError]
        assert.deepStrictEqual([...one, ...recovered].map(shown), [
          ["incoming", 1, leaseExpired],
          ["bounce", 1, leaseExpired]
        ])
        for (const message of [...one, ...recovered]) assert.deepStrictEqual(yield* getMeta(message), message)
        assert.deepStrictEqual(yield* spool.recover({ queue }), [])
        // What RetrySpool has claimed has no lease.
        assert.deepStrictEqual(numbersOf(yield* spool.recover({ queue, grace: 0 })), [4])
        assert.deepStrictEqual(
          yield* settle([...expired, ...exhausted].map(({ lease }) => done(lease))),
          [...expired, ...exhausted].map(({ lease }) => new LeaseLost(lease))
        )
        const again = yield* claim(queue, { limit: 1, reserved: 1 })
        assert.deepStrictEqual([numbersOf(again), again[0]?.attempts], [[0], 2])
      })
    )

    it.effect("recovers messages of every queue unless one is given", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const [a, b] = [yield* queueOf(plain(1)), yield* queueOf(plain(1))]
        yield* claim(a, { lease: 0 })
        yield* claim(b, { lease: 0 })
        const queues = (yield* spool.recover()).map(({ queue }) => queue)
        assert.includeMembers(queues, [a, b])
      })
    )

    it.effect("purges old messages of a state", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const queue = yield* queueOf([
          ...Array.from({ length: 5 }, () => ({ state: "archived" as const, created: past })),
          { created: past }
        ])
        assert.strictEqual(yield* spool.purge({ state: "archived", queue, olderThan: "1 hour" }), 0)
        assert.strictEqual(yield* spool.purge({ state: "archived", queue, olderThan: 0, limit: 3 }), 3)
        assert.strictEqual(yield* spool.purge({ state: "archived", queue, olderThan: 0, limit: 3 }), 2)
        assert.deepStrictEqual(yield* statesOf(queue), { incoming: 1 })
      })
    )

    it.effect("says how long until something is ready", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const untilReady = (queue: string) =>
          Effect.map(spool.untilReady(queue), (wait) => Option.getOrUndefined(Option.map(wait, Duration.toMillis)))
        const expectAbout = (actual: number | undefined, expected: number) =>
          assert.isTrue(actual !== undefined && Math.abs(actual - expected) < 60_000, `${actual}`)
        assert.isUndefined(yield* untilReady(fresh("queue")))
        assert.isUndefined(yield* untilReady(yield* queueOf([{ state: "hold" }, { state: "archived" }])))
        assert.strictEqual(yield* untilReady(yield* queueOf([{ nextRetry: future }, {}])), 0)
        assert.strictEqual(yield* untilReady(yield* queueOf([{ nextRetry: past }])), 0)
        const queue = yield* queueOf([
          { delay: "4 hours", priority: 1 },
          { delay: "3 hours", priority: 9 },
          { nextRetry: future }
        ])
        expectAbout(yield* untilReady(queue), 3 * 3_600_000)
        yield* store({ id: fresh(), queue })
        const [claimed] = yield* claim(queue, { lease: "2 hours" })
        expectAbout(yield* untilReady(queue), 2 * 3_600_000)
        yield* spool.heartbeat(claimed === undefined ? [] : [claimed.lease], "1 hour")
        expectAbout(yield* untilReady(queue), 3_600_000)
        expectAbout(yield* untilReady(yield* queueOf([{ state: "active" }])), 600_000)
      })
    )

    it.effect("says for how long the oldest message has been ready", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const oldest = (queue: string) =>
          Effect.map(spool.oldestReady(queue), (age) => Option.getOrUndefined(Option.map(age, Duration.toHours)))
        assert.isUndefined(yield* oldest(yield* queueOf([{ nextRetry: future }, { state: "hold", created: past }])))
        const now = yield* DateTime.now
        const ago = (hours: number) => DateTime.subtract(now, { hours })
        const expectAbout = (actual: number | undefined, expected: number) =>
          assert.isBelow(Math.abs((actual ?? 0) - expected), 0.1)
        expectAbout(yield* oldest(yield* queueOf([{ created: ago(2) }, { created: ago(3) }])), 3)
        expectAbout(yield* oldest(yield* queueOf([{ created: ago(2) }, { created: ago(9), nextRetry: ago(4) }])), 4)
        const retried = yield* queueOf([{ created: ago(9), nextRetry: ago(1) }])
        expectAbout(yield* oldest(retried), 1)
      })
    )

    it.effect("says what waits in each queue, by its state, and in no queue", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const now = yield* DateTime.now
        const ago = (hours: number) => DateTime.subtract(now, { hours })
        const states = (["hold", "bounce", "bounce", "archived"] as const).map((state) => ({ state, created: past }))
        const queue = yield* queueOf([
          ...states,
          { created: ago(2), priority: 9 },
          { created: ago(3), priority: 9 },
          { nextRetry: future },
          { created: ago(9), nextRetry: ago(4), priority: 9 },
          // Nobody holds its lease.
          { state: "active" },
          { priority: 1 }
        ])
        yield* claim(queue, { limit: 1, lease: "2 hours", reserved: 1 })
        const archived = yield* queueOf([{ state: "archived" }])
        const [overview, ...others] = (yield* spool.overview).filter((one) =>
          [queue, archived].includes(one.queue ?? "")
        )
        assert.deepStrictEqual(others, [])
        if (overview === undefined) return assert.fail("no queue")
        const { counts, leased, oldestReady } = overview
        assert.deepStrictEqual(counts, { incoming: 2, active: 2, deferred: 2, hold: 1, bounce: 2 })
        assert.strictEqual(leased, 1)
        const hours = Option.getOrUndefined(Option.map(oldestReady, Duration.toHours))
        assert.isBelow(Math.abs((hours ?? 0) - 4), 0.1)

        const inNone = Effect.map(spool.overview, (all) => all.find((one) => one.queue === undefined)?.counts.hold ?? 0)
        const before = yield* inNone
        yield* store({ id: fresh(), state: "hold" })
        assert.isAbove(yield* inNone, before)
      })
    )

    it.effect("a message of a sender whose clock is ahead is ready, and has waited no time", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const queue = yield* queueOf([{ created: future }])
        const overview = (yield* spool.overview).find((one) => one.queue === queue)
        const expected = Option.some(Duration.zero)
        assert.deepStrictEqual(overview?.oldestReady, expected)
        assert.deepStrictEqual(yield* spool.oldestReady(queue), expected)
        assert.lengthOf(yield* claim(queue), 1)
      })
    )

    it.effect("wakes listeners after a commit that may have made messages ready", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const queue = fresh("queue")
        const heard = yield* Queue.unbounded<void>()
        yield* Effect.forkScoped(Stream.runForEach(spool.changes, () => Queue.offer(heard, undefined)))
        yield* Queue.take(heard)
        /** Fails by its time limit if nothing is heard. */
        const isHeard = Effect.fnUntraced(function* <A, E, R>(effect: Effect.Effect<A, E, R>) {
          yield* Queue.clear(heard)
          yield* effect
          yield* Queue.take(heard)
        })
        const one = { id: fresh(), queue }
        yield* isHeard(store(one))
        yield* isHeard(store({ id: fresh(), queue, delay: "1 hour" }))
        yield* isHeard(spool.storeMany([{ id: fresh(), queue }]))
        yield* isHeard(spool.updateMeta(one, { priority: 1 }))
        yield* isHeard(transaction(store({ id: fresh(), queue })))
        const [first] = yield* claim(queue, { limit: 1 })
        yield* isHeard(settle(first === undefined ? [] : [{ outcome: "released", ...first.lease }]))
        yield* claim(queue, { limit: 1, lease: 0 })
        yield* isHeard(spool.recover({ queue }))
        yield* spool.moveToState(one, "incoming", "hold")
        yield* isHeard(spool.moveToState(one, "hold", "incoming"))
      })
    )

    if (interleaving) {
      it.effect("lets no worker claim a message before its sender has committed", () =>
        Effect.gen(function* () {
          const queue = yield* queueOf(plain(1))
          const commit = yield* open(store({ id: "1", queue, priority: 1 }))
          assert.deepStrictEqual(numbersOf(yield* claim(queue)), [0])
          yield* commit
          assert.deepStrictEqual(numbersOf(yield* claim(queue)), [1])
        }).pipe(Effect.scoped)
      )

      it.effect("stores messages that arrive at once, while another transaction stores the id of one of them", () =>
        Effect.gen(function* () {
          const queue = yield* queueOf([])
          const commit = yield* open(store({ id: "0", queue }))
          const first = yield* Effect.forkScoped(Effect.flip(store({ id: "0", queue })))
          const others = yield* Effect.forkScoped(
            Effect.forEach(
              Array.from({ length: 50 }, (_, n) => n + 1),
              (n) => store({ id: `${n}`, queue }),
              { concurrency: "unbounded" }
            )
          )
          yield* Fiber.join(others)
          assert.strictEqual((yield* claim(queue)).length, 50)
          yield* commit
          assert.deepStrictEqual(yield* Fiber.join(first), new MessageExists({ queue, id: "0" }))
        }).pipe(Effect.scoped)
      )

      it.effect("skips messages that another transaction holds, and does not wait for them", () =>
        Effect.gen(function* () {
          const spool = yield* SpoolStore
          const queue = yield* queueOf([{}, {}, { delay: 0 }, { delay: 0 }, { state: "active" }, { state: "active" }])
          const commit = yield* open(
            Effect.gen(function* () {
              yield* spool.updateMeta({ queue, id: "0" }, { priority: 1 })
              yield* spool.updateMeta({ queue, id: "2" }, { priority: 1 })
              yield* spool.updateMeta({ queue, id: "4" }, { priority: 1 })
            })
          )
          assert.deepStrictEqual(numbersOf(yield* claim(queue)), [1, 3])
          assert.deepStrictEqual(numbersOf(yield* spool.recover({ queue, grace: 0, limit: 1 })), [5])
          yield* commit
          assert.deepStrictEqual(numbersOf(yield* claim(queue)), [0, 2, 5])
        }).pipe(Effect.scoped)
      )

      it.effect("renews leases without waiting for a transaction that changes their messages", () =>
        Effect.gen(function* () {
          const spool = yield* SpoolStore
          const queue = yield* queueOf(plain(2))
          const leases = (yield* claim(queue)).map(({ lease }) => lease)
          const commit = yield* open(spool.moveToState({ queue, id: "0" }, "active", "hold"))
          assert.deepStrictEqual(yield* spool.heartbeat(leases, "1 minute"), [])
          yield* commit
          assert.deepStrictEqual(
            yield* spool.heartbeat(leases, "1 minute"),
            leases.slice(0, 1).map((lease) => new LeaseLost(lease))
          )
        }).pipe(Effect.scoped)
      )

      it.effect("settles without waiting what no other transaction has locked, and names the rest", () =>
        Effect.gen(function* () {
          const spool = yield* SpoolStore
          const queue = yield* queueOf(plain(5))
          const leases = (yield* claim(queue)).map(({ lease }) => lease)
          const [changed, moved, stale] = leases
          if (!changed || !moved || !stale) return assert.fail("not all claimed")
          const former = { ...stale, attempt: 9 }
          const commit = yield* open(
            Effect.gen(function* () {
              yield* spool.updateMeta(changed, { priority: 1 })
              yield* spool.moveToState(moved, "active", "hold")
              yield* spool.updateMeta(stale, { priority: 1 })
            })
          )
          const outcomes = [changed, moved, former, ...leases.slice(3)].map(done)
          const locked = [changed, moved].map((lease) => new MessageLocked(keyOf(lease)))
          assert.deepStrictEqual(yield* spool.trySettle(outcomes), { lost: [new LeaseLost(former)], locked })
          assert.deepStrictEqual(yield* statesOf(queue), { active: 3 })
          assert.deepStrictEqual(yield* spool.trySettle([bounced(changed)]), { lost: [], locked: locked.slice(0, 1) })
          yield* commit
          assert.deepStrictEqual(yield* spool.trySettle([bounced(changed), bounced(moved)]), {
            lost: [new LeaseLost(moved)],
            locked: []
          })
          assert.deepStrictEqual(yield* statesOf(queue), { active: 1, hold: 1, bounce: 1 })
          assert.deepStrictEqual(yield* spool.trySettle([]), { lost: [], locked: [] })
        }).pipe(Effect.scoped)
      )

      it.effect("settles the other messages while it waits for a transaction that has locked one", () =>
        Effect.gen(function* () {
          const spool = yield* SpoolStore
          const queue = yield* queueOf(plain(100))
          const leases = (yield* claim(queue)).map(({ lease }) => lease)
          const commit = yield* open(spool.updateMeta({ queue, id: "50" }, { priority: 1 }))
          const settling = yield* Effect.forkScoped(settle(leases.map(done)))
          yield* Effect.repeat(statesOf(queue), { until: ({ active }) => active === 1 })
          yield* commit
          assert.deepStrictEqual(yield* Fiber.join(settling), [])
          assert.deepStrictEqual(yield* statesOf(queue), {})
        }).pipe(Effect.scoped)
      )

      it.effect("takes an id as taken while the transaction that delivers its message is open, and afterwards", () =>
        Effect.gen(function* () {
          const queue = yield* queueOf([{ rememberId: "1 hour" }])
          const leases = (yield* claim(queue)).map(({ lease }) => lease)
          const commit = yield* open(settle(leases.map(done)))
          const again = yield* Effect.forkScoped(Effect.flip(store({ queue, id: "0" })), { startImmediately: true })
          yield* commit
          assert.deepStrictEqual(yield* Fiber.join(again), new MessageExists({ queue, id: "0" }))
          assert.deepStrictEqual(yield* statesOf(queue), {})
        }).pipe(Effect.scoped)
      )

      it.effect("waits for the transaction that changes a message, and then looks again", () =>
        Effect.gen(function* () {
          const spool = yield* SpoolStore
          const queue = yield* queueOf(plain(3))
          const leases = (yield* claim(queue)).map(({ lease }) => lease)
          const commit = yield* open(
            Effect.gen(function* () {
              yield* spool.moveToState({ queue, id: "0" }, "active", "hold")
              yield* settle(leases.slice(1, 2).map(done))
              yield* store({ id: "9", queue })
            })
          )
          const waiting = yield* Effect.forkScoped(
            Effect.all([settle(leases.map(bounced)), Effect.flip(store({ id: "9", queue }))], {
              concurrency: 2
            }),
            { startImmediately: true }
          )
          yield* commit
          const [lost, exists] = yield* Fiber.join(waiting)
          assert.deepStrictEqual(
            lost,
            leases.slice(0, 2).map((lease) => new LeaseLost(lease))
          )
          assert.deepStrictEqual(exists, new MessageExists({ queue, id: "9" }))
          assert.deepStrictEqual(yield* statesOf(queue), { hold: 1, bounce: 1, incoming: 1 })
        }).pipe(Effect.scoped)
      )
    }
  })
}
