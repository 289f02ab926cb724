/** What `Spool` does on every backend, as a suite for Vitest. */
import { assert, it } from "@effect/vitest"
import {
  Clock,
  DateTime,
  Deferred,
  Duration,
  Effect,
  Fiber,
  Layer,
  Logger,
  Option,
  Queue,
  Schedule,
  Schema,
  type Tracer
} from "effect"
import { OffsetStore } from "../OffsetStore.ts"
import * as Spool from "../Spool.ts"
import { leaseExpired } from "../SpoolMessage.ts"
import { IdConflict, type SpoolMessage, SpoolStore } from "../SpoolStore.ts"
import { Transactor } from "../Transactor.ts"
import { open } from "./SpoolSupport.ts"

const fresh = (name = "queue") => `${name} ${crypto.randomUUID()}`

class Mail extends Schema.Class<Mail>("Mail")({ to: Schema.String, size: Schema.BigInt, at: Schema.DateTimeUtc }) {}

const mail = (to: string) => new Mail({ to, size: 2n ** 60n, at: DateTime.makeUnsafe(1_755_381_600_123) })

type Options = Omit<Spool.Options<Mail, never, never, "default">, "payload" | "name">

/** A queue that no other test uses, whose messages are retried at once. */
const queue = (options: Options = {}) =>
  Spool.make({ name: fresh(), payload: Mail, policies: { default: Spool.fixed(0) }, ...options })

const failure = (message: string) => Effect.fail(new Error(message))

/** A message of the queue. */
const getMeta = ({ name }: { readonly name: string }, id: string) =>
  SpoolStore.use((spool) => spool.getMeta({ queue: name, id }))

const transaction = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Transactor.use(({ withTransaction }) => withTransaction(effect))

/** Lets other fibers run, and looks again, until the condition holds. */
const until = <E, R>(holds: Effect.Effect<boolean, E, R>) =>
  Effect.gen(function* () {
    while (!(yield* holds)) yield* Effect.yieldNow
  })

/** Waits until no message of the queue is being handled or waits for it, and returns how many there are by state. */
const settled = (spool: { readonly name: string }) =>
  Effect.gen(function* () {
    const { countByState } = yield* SpoolStore
    let counts = yield* countByState(spool.name)
    yield* until(
      Effect.map(countByState(spool.name), (now) => {
        counts = now
        return now.active + now.incoming + now.deferred === 0
      })
    )
    return Object.fromEntries(Object.entries(counts).filter(([, count]) => count > 0))
  })

/** Registers the suite. `interleaving: false` leaves out the tests that have two transactions open at once. */
export const suite = <E>(
  name: string,
  layer: Layer.Layer<SpoolStore | Transactor | OffsetStore, E>,
  { interleaving = true }: { readonly interleaving?: boolean } = {}
): void => {
  // Each failure is logged as a warning, and these tests cause many.
  const quiet = Layer.merge(layer, Logger.layer([]))
  it.layer(quiet, { timeout: "2 minutes", excludeTestServices: true })(`Spool (${name})`, (it) => {
    it.effect("delivers a message as it was enqueued, and deletes it", () =>
      Effect.gen(function* () {
        const mails = queue()
        const received = yield* Queue.unbounded<readonly [Mail, SpoolMessage]>()
        yield* Effect.forkScoped(mails.run((mail, message) => Queue.offer(received, [mail, message])))
        const id = yield* mails.enqueue(mail("anna"), { headers: { tenant: "7" }, priority: 2 })
        const [payload, message] = yield* Queue.take(received)
        assert.deepStrictEqual(payload, mail("anna"))
        assert.instanceOf(payload, Mail)
        const { attempts, headers, priority } = message
        assert.deepStrictEqual([message.id, attempts, priority, headers.tenant], [id, 1, 2, "7"])
        assert.deepStrictEqual(yield* settled(mails), {})
        assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7/)
      })
    )

    it.effect("delivers in order of priority, then age", () =>
      Effect.gen(function* () {
        const mails = queue()
        yield* mails.enqueueAll([
          { payload: mail("c"), priority: 9 },
          { payload: mail("b") },
          { payload: mail("a"), priority: 1 }
        ])
        // PGlite's clock has milliseconds: two messages that are enqueued within one of them are equally old.
        const enqueuedAt = yield* Clock.currentTimeMillis
        yield* until(Effect.map(Clock.currentTimeMillis, (now) => now > enqueuedAt + 1))
        yield* mails.enqueue(mail("b2"))
        const received: Array<string> = []
        yield* Effect.forkScoped(mails.run(({ to }) => Effect.sync(() => received.push(to)), { concurrency: 1 }))
        yield* settled(mails)
        assert.deepStrictEqual(received, ["a", "b", "b2", "c"])
      })
    )

    it.effect("stores a message with an id once, whatever its headers are, and refuses another payload", () =>
      Effect.gen(function* () {
        const mails = queue()
        const id = "order-1"
        const conflict = new IdConflict({ queue: mails.name, id, takenBy: "another payload" })
        assert.strictEqual(yield* mails.enqueue(mail("first"), { id, headers: { a: "1" } }), id)
        assert.strictEqual(yield* mails.enqueue(mail("first"), { id, headers: { a: "2" }, priority: 1 }), id)
        assert.deepStrictEqual(yield* Effect.flip(mails.enqueue(mail("second"), { id })), conflict)
        assert.deepStrictEqual(
          yield* Effect.flip(mails.enqueueAll([{ payload: mail("third"), id }, { payload: mail("other") }])),
          conflict
        )
        const ids = yield* mails.enqueueAll([{ payload: mail("first"), id }, { payload: mail("last") }])
        assert.strictEqual(ids[0], id)
        const received: Array<string> = []
        yield* Effect.forkScoped(mails.run(({ to }) => Effect.sync(() => received.push(to))))
        yield* settled(mails)
        assert.deepStrictEqual(received.toSorted(), ["first", "last", "other"])
      })
    )

    it.effect("keeps the ids of queues apart", () =>
      Effect.gen(function* () {
        const [mails, texts] = [queue(), queue()]
        const id = "order-1"
        yield* mails.enqueue(mail("by mail"), { id })
        yield* texts.enqueue(mail("by text"), { id })
        yield* texts.hold(id, "not yet")
        const received: Array<string> = []
        const handle = ({ to }: Mail) => Effect.sync(() => received.push(to))
        yield* Effect.forkScoped(mails.run(handle))
        yield* Effect.forkScoped(texts.run(handle))
        assert.deepStrictEqual(yield* settled(mails), {})
        assert.deepStrictEqual(received, ["by mail"])
        assert.deepStrictEqual(yield* settled(texts), { hold: 1 })
        yield* texts.release(id)
        assert.deepStrictEqual(yield* settled(texts), {})
        assert.deepStrictEqual(received, ["by mail", "by text"])
      })
    )

    it.effect("remembers the ids of senders after the delivery, and with them the payload", () =>
      Effect.gen(function* () {
        const handled: Array<string> = []
        const handle = ({ to }: Mail) =>
          Effect.andThen(
            Effect.sync(() => handled.push(to)),
            to === "bad" ? Effect.fail(Spool.permanent("bad")) : Effect.void
          )
        for (const transactional of [false, true]) {
          const mails = queue({ onBounce: "delete" })
          const worker = yield* Effect.forkScoped(mails.run(handle, { transactional }))
          for (const to of ["good", "bad"]) {
            yield* mails.enqueue(mail(to), { id: to })
            assert.deepStrictEqual(yield* settled(mails), {})
            yield* mails.enqueue(mail(to), { id: to })
            const { takenBy } = yield* Effect.flip(mails.enqueue(mail("other"), { id: to })).pipe(
              Effect.filterOrFail((error) => error instanceof IdConflict)
            )
            assert.strictEqual(takenBy, "another payload")
          }
          assert.deepStrictEqual(yield* settled(mails), {})
          assert.deepStrictEqual(handled.splice(0), ["good", "bad"])
          yield* Fiber.interrupt(worker)
          // Whoever crashes with it loses the message, and its id stays taken all the same.
          yield* mails.enqueue(mail("crash"), { id: "crash", maxAttempts: 1 })
          yield* SpoolStore.use((spool) => spool.claim({ queue: mails.name, limit: 1, lease: 0, owner: "dead" }))
          yield* Effect.forkScoped(mails.run(handle, { transactional }))
          assert.deepStrictEqual(yield* settled(mails), {})
          yield* mails.enqueue(mail("crash"), { id: "crash" })
          assert.deepStrictEqual(yield* settled(mails), {})
          assert.deepStrictEqual(handled.splice(0), [])
        }
      })
    )

    it.effect("remembers ids no longer than it is told, and not those that it has generated", () =>
      Effect.gen(function* () {
        const mails = queue({ rememberIds: 0 })
        const received: Array<string> = []
        yield* Effect.forkScoped(mails.run(({ to }) => Effect.sync(() => received.push(to))))
        const generated = yield* mails.enqueue(mail("0"))
        yield* settled(mails)
        yield* SpoolStore.use((spool) => spool.storeMeta({ queue: mails.name, id: generated, state: "hold" }))
        for (const to of ["1", "2", "3"]) {
          yield* mails.enqueue(mail(to), { id: "again" })
          yield* settled(mails)
        }
        assert.deepStrictEqual(received, ["0", "1", "2", "3"])
      })
    )

    it.effect("delivers after the sender's commit, and never after its rollback", () =>
      Effect.gen(function* () {
        const mails = queue()
        const received: Array<string> = []
        yield* Effect.forkScoped(mails.run(({ to }) => Effect.sync(() => received.push(to))))
        yield* Effect.exit(transaction(Effect.andThen(mails.enqueue(mail("undone")), failure("rolled back"))))
        yield* transaction(mails.enqueue(mail("sent")))
        yield* until(Effect.sync(() => received.length > 0))
        yield* settled(mails)
        assert.deepStrictEqual(received, ["sent"])
      })
    )

    it.effect("tries a message again whose handler fails or dies, and bounces it after its last attempt", () =>
      Effect.gen(function* () {
        const mails = queue({ maxAttempts: 3 })
        const attempts: Array<string> = []
        const bounced = yield* Queue.unbounded<string>()
        const [flaky, broken, dying] = yield* mails.enqueueAll([
          { payload: mail("flaky") },
          { payload: mail("broken") },
          { payload: mail("dying"), maxAttempts: 1 }
        ])
        yield* Effect.forkScoped(
          mails.run(
            ({ to }, { attempts: attempt }) =>
              Effect.gen(function* () {
                attempts.push(`${to} ${attempt}`)
                if (to === "dying") return yield* Effect.die("of old age")
                if (to === "broken" || attempt < 3) return yield* failure(`no ${attempt}`)
              }),
            { bounced: ({ id }, reason) => Queue.offer(bounced, `${id}: ${reason}`) }
          )
        )
        assert.deepStrictEqual(yield* settled(mails), { bounce: 2 })
        assert.deepStrictEqual(attempts.toSorted(), [
          "broken 1",
          "broken 2",
          "broken 3",
          "dying 1",
          "flaky 1",
          "flaky 2",
          "flaky 3"
        ])
        assert.deepStrictEqual(
          (yield* Queue.takeAll(bounced)).toSorted(),
          [`${broken}: Error: no 3`, `${dying}: of old age`].toSorted()
        )
        const { attempts: made, lastError, state } = yield* getMeta(mails, broken ?? "")
        assert.deepStrictEqual([state, made, lastError], ["bounce", 3, "Error: no 3"])
        assert.instanceOf(yield* Effect.flip(getMeta(mails, flaky ?? "")), Error)
      })
    )

    it.effect("bounces a message at once after a permanent error, or when its policy gives up", () =>
      Effect.gen(function* () {
        const policies = { default: Spool.fixed(0), never: Schedule.recurs(0) }
        const mails = Spool.make({ name: fresh(), payload: Mail, policies })
        const attempts: Array<string> = []
        const id = yield* mails.enqueue(mail("permanent"))
        yield* mails.enqueue(mail("given up"), { policy: "never" })
        yield* Effect.forkScoped(
          mails.run(({ to }) =>
            Effect.gen(function* () {
              attempts.push(to)
              return yield* to === "permanent" ? Spool.permanent(new Error("no such user")) : failure("busy")
            })
          )
        )
        assert.deepStrictEqual(yield* settled(mails), { bounce: 2 })
        assert.deepStrictEqual(attempts.toSorted(), ["given up", "permanent"])
        assert.strictEqual((yield* getMeta(mails, id)).lastError, "Error: no such user")
      })
    )

    it.effect("bounces a payload that does not fit, with the reason, and goes on", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const mails = queue()
        const id = fresh("mail")
        yield* spool.storeMeta({ id, queue: mails.name, payload: { to: 7 } })
        yield* spool.storeMeta({ id: `${id} too`, queue: mails.name })
        yield* mails.enqueue(mail("anna"))
        const received: Array<string> = []
        yield* Effect.forkScoped(mails.run(({ to }) => Effect.sync(() => received.push(to))))
        assert.deepStrictEqual(yield* settled(mails), { bounce: 2 })
        assert.deepStrictEqual(received, ["anna"])
        assert.match((yield* getMeta(mails, id)).lastError, /^the payload does not fit: .*Expected string/s)
      })
    )

    it.effect("says in the log why an attempt has failed, once in full, and what happens next", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        for (const [onBounce, fate] of [
          ["keep", "it bounces"],
          ["archive", "it bounces, and is archived"],
          ["delete", "it bounces, and is deleted"]
        ] as const) {
          const mails = queue({ onBounce, maxAttempts: 3, policies: { default: Spool.fixed("5 millis") } })
          const logged: Array<string> = []
          const logger = Logger.make(({ message }) => void logged.push(String(message)))
          const handled = (run: Effect.Effect<unknown, unknown, SpoolStore | Transactor>) =>
            Effect.raceFirst(Effect.provide(run, Logger.layer([logger])), settled(mails))
          const failing = ({ to }: Mail) => {
            const error = Object.assign(new Error(`not to ${to}`), { payload: { secret: to } })
            return Effect.fail(to === "nobody" ? Spool.permanent(error) : error)
          }
          const firstLines = () => logged.splice(0).map((message) => message.split("\n", 1)[0])
          const at = (id: string | undefined) => `message "${id}" of queue "${mails.name}" has failed, attempt`

          const id = yield* mails.enqueue(mail("anna"))
          yield* handled(mails.run(failing))
          // The stack follows once.
          assert.deepStrictEqual(
            logged.map((message) => message.includes("\n    at ")),
            [true, false, false]
          )
          assert.notInclude(logged.join(), "secret")
          assert.deepStrictEqual(firstLines(), [
            `${at(id)} 1 of 3; it is tried again in 5ms: Error: not to anna`,
            `${at(id)} 2 of 3; it is tried again in 5ms: Error: not to anna`,
            `${at(id)} 3 of 3; ${fate}: Error: not to anna`
          ])
          const permanent = yield* mails.enqueue(mail("nobody"))
          yield* handled(mails.run(failing))
          assert.deepStrictEqual(firstLines(), [`${at(permanent)} 1 of 3; ${fate}: Error: not to nobody`])

          const misfit = fresh("misfit")
          yield* spool.storeMeta({ id: misfit, queue: mails.name, maxAttempts: 3, payload: { to: 7, secret: "yes" } })
          yield* handled(mails.run(failing))
          const misfitLog = logged.splice(0)
          assert.lengthOf(misfitLog, 1)
          assert.include(misfitLog[0], `${at(misfit)} 1 of 3; ${fate}: its payload does not fit the schema at `)
          assert.notMatch(misfitLog[0] ?? "", /secret|yes|7[^\d]*$/)

          const [left, last] = yield* mails.enqueueAll([
            { payload: mail("left") },
            { payload: mail("last"), maxAttempts: 1 }
          ])
          yield* spool.claim({ queue: mails.name, limit: 2, lease: 0, owner: "dead" })
          yield* handled(mails.run(() => Effect.void))
          assert.deepStrictEqual(firstLines(), [
            `claims in queue "${mails.name}" are given up, and their messages (1) handled again: ${leaseExpired}`,
            `${at(last)} 1 of 1; ${fate}: ${leaseExpired}`
          ])
          assert.instanceOf(yield* Effect.flip(getMeta(mails, left ?? "")), Error)
        }
      })
    )

    it.effect("archives or deletes messages that were delivered or have bounced", () =>
      Effect.gen(function* () {
        const handle = ({ to }: Mail) => (to === "bad" ? Effect.fail(Spool.permanent("bad")) : Effect.void)
        const both = [{ payload: mail("good") }, { payload: mail("bad") }]
        const archiving = queue({ onSuccess: "archive", onBounce: "archive" })
        const [, bad] = yield* archiving.enqueueAll(both)
        yield* Effect.forkScoped(archiving.run(handle))
        assert.deepStrictEqual(yield* settled(archiving), { archived: 2 })
        assert.strictEqual((yield* getMeta(archiving, bad ?? "")).lastError, "bad")
        const deleting = queue({ onBounce: "delete" })
        yield* deleting.enqueueAll(both)
        yield* Effect.forkScoped(deleting.run(handle))
        assert.deepStrictEqual(yield* settled(deleting), {})
        const forgetting = queue({ onSuccess: "archive", retention: 0 })
        yield* SpoolStore.use((spool) =>
          spool.storeMeta({ id: fresh("mail"), queue: forgetting.name, state: "archived" })
        )
        yield* Effect.forkScoped(forgetting.run(handle))
        yield* until(Effect.map(forgetting.stats, ({ counts }) => counts.archived === 0))
      })
    )

    it.effect("commits what a handler writes together with the message, or neither", () =>
      Effect.gen(function* () {
        const mails = queue({ maxAttempts: 5 })
        const offsets = yield* OffsetStore
        const id = { projectionName: mails.name, shardNumber: 0 }
        const attempts: Array<number> = []
        yield* mails.enqueueAll(["a", "b", "c"].map((to) => ({ payload: mail(to) })))
        yield* Effect.forkScoped(
          mails.run(
            (_, { attempts: attempt }) =>
              Effect.gen(function* () {
                attempts.push(attempt)
                const before = yield* offsets.getCurrentOffset(id)
                const from = Option.map(before, ({ value }) => value)
                yield* offsets.advanceOffset(id, { from, to: Option.getOrElse(from, () => 0n) + 1n })
                if (attempt < 3) return yield* failure("after the write")
              }),
            { transactional: true, concurrency: 1 }
          )
        )
        assert.deepStrictEqual(yield* settled(mails), {})
        assert.strictEqual(attempts.length, 9)
        const offset = yield* offsets.getCurrentOffset(id)
        assert.deepStrictEqual(
          Option.map(offset, ({ value }) => value),
          Option.some(3n)
        )
      })
    )

    it.effect("rolls back what a handler has written when its lease was lost meanwhile", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const offsets = yield* OffsetStore
        const mails = queue({ policies: { default: Spool.fixed("1 hour") } })
        const id = yield* mails.enqueue(mail("anna"))
        yield* Effect.forkScoped(
          mails.run(
            () =>
              Effect.andThen(
                offsets.writeOffset({ projectionName: mails.name, shardNumber: 0, value: 1n }),
                // It moves the message as an administrator would, but in the transaction that has the only connection of some
                // backends.
                spool.moveToState({ queue: mails.name, id }, "active", "hold")
              ),
            { transactional: true }
          )
        )
        yield* until(Effect.map(getMeta(mails, id), ({ attempts, state }) => attempts === 1 && state !== "active"))
        const { lastError, state } = yield* getMeta(mails, id)
        assert.strictEqual(state, "deferred")
        assert.include(lastError, "is no longer held")
        assert.isTrue(Option.isNone(yield* offsets.getCurrentOffset({ projectionName: mails.name, shardNumber: 0 })))
      })
    )

    it.effect("interrupts the handler of a message that is put on hold, and the hold stays", () =>
      Effect.gen(function* () {
        const mails = queue()
        const begun = yield* Deferred.make<void>()
        const interrupted = yield* Deferred.make<void>()
        const id = yield* mails.enqueue(mail("anna"))
        yield* Effect.forkScoped(
          mails.run(
            () =>
              Effect.andThen(Deferred.succeed(begun, undefined), Effect.never).pipe(
                Effect.onInterrupt(() => Deferred.succeed(interrupted, undefined))
              ),
            { lease: "1 second", shutdownTimeout: 0 }
          )
        )
        yield* Deferred.await(begun)
        yield* mails.hold(id, "look at this")
        yield* Deferred.await(interrupted)
        const held = yield* getMeta(mails, id)
        assert.deepStrictEqual([held.state, held.lastError, held.attempts], ["hold", "look at this", 1])
        yield* mails.release(id)
        yield* until(Effect.map(getMeta(mails, id), ({ attempts }) => attempts === 2))
      })
    )

    it.effect("interrupts the handler of a message that the worker claims again, and settles the message once", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const mails = queue()
        const id = yield* mails.enqueue(mail("anna"))
        const events = yield* Queue.unbounded<string>()
        const finish = yield* Deferred.make<void>()
        yield* Effect.forkScoped(
          mails.run(
            (_, { attempts }) =>
              Queue.offer(events, `begun ${attempts}`).pipe(
                Effect.andThen(attempts === 1 ? Effect.never : Deferred.await(finish)),
                Effect.onInterrupt(() => Queue.offer(events, `interrupted ${attempts}`))
              ),
            { shutdownTimeout: 0 }
          )
        )
        assert.strictEqual(yield* Queue.take(events), "begun 1")
        yield* spool.moveToState({ queue: mails.name, id }, "active", "incoming")
        assert.sameMembers(yield* Effect.all([Queue.take(events), Queue.take(events)]), ["begun 2", "interrupted 1"])
        yield* Deferred.succeed(finish, undefined)
        assert.deepStrictEqual(yield* settled(mails), {})
        yield* mails.enqueue(mail("bert"))
        assert.strictEqual(yield* Queue.take(events), "begun 1")
      })
    )

    it.effect("gives a bounced message all its attempts again", () =>
      Effect.gen(function* () {
        const mails = queue({ maxAttempts: 1 })
        const id = yield* mails.enqueue(mail("anna"))
        let down = true
        yield* Effect.forkScoped(mails.run(() => (down ? failure("down") : Effect.void)))
        assert.deepStrictEqual(yield* settled(mails), { bounce: 1 })
        down = false
        yield* mails.requeue(id)
        assert.deepStrictEqual(yield* settled(mails), {})
      })
    )

    it.effect("delivers a message that a dead worker has left, and bounces one that has had its last attempt", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        const mails = queue()
        const [left, last] = yield* mails.enqueueAll([
          { payload: mail("left"), priority: 1 },
          { payload: mail("last"), maxAttempts: 1 }
        ])
        yield* spool.claim({ queue: mails.name, limit: 2, lease: 0, owner: "dead" })
        const received: Array<string> = []
        const bounced = yield* Queue.unbounded<string>()
        yield* Effect.forkScoped(
          mails.run(
            ({ to }, { attempts, id }) => Effect.sync(() => received.push(`${id === left} ${to} ${attempts}`)),
            {
              bounced: ({ id }, reason) => Queue.offer(bounced, `${id}: ${reason}`)
            }
          )
        )
        assert.strictEqual(yield* Queue.take(bounced), `${last}: ${leaseExpired}`)
        assert.deepStrictEqual(yield* settled(mails), { bounce: 1 })
        assert.deepStrictEqual(received, ["true left 2"])
      })
    )

    it.effect("leaves a message alone that the handler of bounces has requeued or deleted, and goes on", () =>
      Effect.gen(function* () {
        const spool = yield* SpoolStore
        for (const onBounce of ["archive", "delete"] as const) {
          const mails = queue({ onBounce })
          const [, deleted] = yield* mails.enqueueAll([
            { payload: mail("requeued"), maxAttempts: 1 },
            { payload: mail("deleted"), maxAttempts: 1 }
          ])
          yield* spool.claim({ queue: mails.name, limit: 2, lease: 0, owner: "dead" })
          const received = yield* Queue.unbounded<string>()
          const worker = yield* Effect.forkScoped(
            mails.run(({ to }) => Queue.offer(received, to), {
              bounced: (message) =>
                Effect.orDie(message.id === deleted ? spool.deleteMeta(message) : mails.requeue(message.id))
            })
          )
          assert.strictEqual(yield* Queue.take(received), "requeued")
          assert.deepStrictEqual(yield* settled(mails), {})
          assert.strictEqual(worker.pollUnsafe(), undefined)
        }
      })
    )

    it.effect(
      "lets handlers finish when it is interrupted, and gives back messages that no handler has begun with",
      () =>
        Effect.gen(function* () {
          const mails = queue()
          yield* mails.enqueueAll(Array.from({ length: 10 }, (_, n) => ({ payload: mail(`${n}`) })))
          const begun = yield* Queue.unbounded<string>()
          const finish = yield* Deferred.make<void>()
          const finished: Array<string> = []
          const worker = yield* Effect.forkScoped(
            mails.run(
              ({ to }) =>
                Effect.gen(function* () {
                  yield* Queue.offer(begun, to)
                  yield* Deferred.await(finish)
                  finished.push(to)
                }),
              { concurrency: 2 }
            )
          )
          yield* Effect.all([Queue.take(begun), Queue.take(begun)])
          const stopping = yield* Effect.forkScoped(Fiber.interrupt(worker), { startImmediately: true })
          yield* Deferred.succeed(finish, undefined)
          yield* Fiber.join(stopping)
          assert.deepStrictEqual(finished.toSorted(), ["0", "1"])
          const { counts } = yield* mails.stats
          assert.deepStrictEqual([counts.incoming, counts.active], [8, 0])
          const messages = yield* SpoolStore.use((spool) => spool.listMessages("incoming", { queue: mails.name }))
          assert.isTrue(messages.messages.every(({ attempts }) => attempts === 0))
        })
    )

    it.effect("interrupts a handler that does not finish in time, and gives its message back", () =>
      Effect.gen(function* () {
        const mails = queue()
        const id = yield* mails.enqueue(mail("slow"))
        const begun = yield* Deferred.make<void>()
        const worker = yield* Effect.forkScoped(
          mails.run(() => Effect.andThen(Deferred.succeed(begun, undefined), Effect.never), { shutdownTimeout: 0 })
        )
        yield* Deferred.await(begun)
        yield* Fiber.interrupt(worker)
        const { attempts, state } = yield* getMeta(mails, id)
        assert.deepStrictEqual([state, attempts], ["incoming", 0])
      })
    )

    it.effect("interrupts a handler at its time limit, and tries the message again by its policy", () =>
      Effect.gen(function* () {
        for (const transactional of [false, true]) {
          const mails = queue({ maxAttempts: 3 })
          let attempts = 0
          let interrupted = 0
          yield* Effect.forkScoped(
            mails.run(
              ({ to }) =>
                Effect.suspend(() =>
                  to === "hangs" || ++attempts === 1
                    ? Effect.onInterrupt(Effect.never, () => Effect.sync(() => void interrupted++))
                    : Effect.void
                ),
              { timeout: "50 millis", transactional }
            )
          )
          const hangs = yield* mails.enqueue(mail("hangs"))
          yield* mails.enqueue(mail("hangs once"))
          assert.deepStrictEqual(yield* settled(mails), { bounce: 1 })
          assert.deepStrictEqual([attempts, interrupted], [2, 4])
          const { lastError, ...message } = yield* getMeta(mails, hangs)
          assert.strictEqual(message.attempts, 3)
          assert.include(lastError, "the handler has not ended within 50ms")
        }
      })
    )

    it.effect("continues the trace of the sender", () =>
      Effect.gen(function* () {
        const mails = queue()
        const spans = yield* Queue.unbounded<Tracer.Span>()
        yield* Effect.forkScoped(
          mails.run(() => Effect.flatMap(Effect.currentSpan, (span) => Queue.offer(spans, span)))
        )
        const sender = yield* Effect.withSpan(
          Effect.tap(Effect.currentSpan, () => mails.enqueue(mail("anna"))),
          "sender"
        )
        const span = yield* Queue.take(spans)
        assert.strictEqual(span.traceId, sender.traceId)
        assert.strictEqual(Option.getOrUndefined(span.parent)?.spanId, sender.spanId)
        assert.strictEqual(span.name, "Spool.handle")
      })
    )

    it.effect("counts the messages of each state", () =>
      Effect.gen(function* () {
        const mails = queue()
        yield* mails.enqueueAll([{ payload: mail("now") }, { payload: mail("later"), delay: "1 hour" }])
        const { counts, oldestReady } = yield* mails.stats
        assert.deepStrictEqual([counts.incoming, counts.deferred], [1, 1])
        assert.isTrue(Option.exists(oldestReady, Duration.isLessThan(Duration.minutes(1))))
      })
    )

    it.effect("refuses options that break the model, and stores nothing", () =>
      Effect.gen(function* () {
        const mails = queue()
        for (const options of [
          { id: "" },
          { priority: 11 },
          { delay: -1 },
          { headers: { a: "\0" } },
          { maxAttempts: -1 }
        ]) {
          const error = yield* Effect.flip(mails.enqueue(mail("anna"), options))
          assert.strictEqual(error._tag, "InvalidInput")
        }
        assert.strictEqual((yield* mails.stats).counts.incoming, 0)
        for (const options of [
          { concurrency: 0 },
          { buffer: -1 },
          { lease: "1 milli" as const },
          { shutdownTimeout: -1 },
          { timeout: 0 }
        ]) {
          const error = yield* Effect.flip(mails.run(() => Effect.void, options))
          assert.include(error.message, `Spool.run: invalid input: ${Object.keys(options)[0]}`)
        }
      })
    )

    if (interleaving) {
      it.effect("handles each of many messages once, by many workers, with failures in between", () =>
        Effect.gen(function* () {
          const mails = queue({ maxAttempts: 1000 })
          const count = 2000
          yield* mails.enqueueAll(Array.from({ length: count }, (_, n) => ({ payload: mail(`${n}`) })))
          const handled = new Map<string, number>()
          const live = new Set<string>()
          let overlaps = 0
          const handle = ({ to }: Mail) =>
            Effect.gen(function* () {
              if (live.has(to)) overlaps++
              live.add(to)
              yield* Effect.yieldNow
              live.delete(to)
              if (Math.random() < 0.2) return yield* failure("by chance")
              handled.set(to, (handled.get(to) ?? 0) + 1)
            })
          for (let worker = 0; worker < 8; worker++) {
            yield* Effect.forkScoped(mails.run(handle, { concurrency: 20 }))
          }
          assert.deepStrictEqual(yield* settled(mails), {})
          assert.strictEqual(handled.size, count)
          assert.isTrue([...handled.values()].every((times) => times === 1))
          assert.strictEqual(overlaps, 0)
        })
      )

      it.effect("settles every other message while a transaction has one locked, and that one afterwards", () =>
        Effect.gen(function* () {
          for (const transactional of [false, true]) {
            const mails = queue()
            const count = 200
            const begun = yield* Deferred.make<void>()
            const isLocked = yield* Deferred.make<void>()
            const handled: Array<string> = []
            const locked = yield* mails.enqueue(mail("locked"))
            yield* Effect.forkScoped(
              mails.run(
                ({ to }) =>
                  Effect.gen(function* () {
                    if (to === "locked") yield* Deferred.succeed(begun, undefined)
                    yield* Deferred.await(isLocked)
                    handled.push(to)
                  }),
                { transactional, concurrency: 2 }
              )
            )
            yield* Deferred.await(begun)
            const commit = yield* open(
              SpoolStore.use((spool) => spool.updateMeta({ queue: mails.name, id: locked }, { priority: 1 }))
            )
            yield* mails.enqueueAll(Array.from({ length: count }, (_, n) => ({ payload: mail(`${n}`) })))
            yield* Deferred.succeed(isLocked, undefined)
            yield* until(Effect.map(mails.stats, ({ counts }) => counts.active + counts.incoming === 1))
            assert.strictEqual((yield* getMeta(mails, locked)).state, "active")
            yield* commit
            assert.deepStrictEqual(yield* settled(mails), {})
            assert.strictEqual(new Set(handled).size, count + 1)
          }
        })
      )
    }
  })
}
