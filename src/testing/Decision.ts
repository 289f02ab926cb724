/** What `Decision` does on every backend, as a suite for Vitest: the examples of the course catalogue, and more. */
import { assert, it } from "@effect/vitest"
import { DateTime, Deferred, Effect, Exit, Fiber, type Layer, Option, Schedule, Schema } from "effect"
import * as Decision from "../Decision.ts"
import { ConditionFailed, EventStore, typed } from "../EventStore.ts"
import { InvalidInput } from "../InvalidInput.ts"
import { StoreError } from "../StoreError.ts"
import { Transactor } from "../Transactor.ts"

/** A name that no other test uses: all tests of a suite share one log. */
const fresh = (kind: string) => `${kind}-${crypto.randomUUID()}`

const transaction = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Transactor.use(({ withTransaction }) => withTransaction(effect))

class Refused extends Schema.TaggedError<Refused>("effect-strata/testing/Refused")("Refused", {
  because: Schema.String
}) {}

const refuse = (because: string) => Effect.fail(new Refused({ because }))

// Course subscriptions

class CourseDefined extends Schema.TaggedClass<CourseDefined>()("CourseDefined", {
  course: Schema.String,
  seats: Schema.Int
}) {}
class SeatsChanged extends Schema.TaggedClass<SeatsChanged>()("SeatsChanged", {
  course: Schema.String,
  seats: Schema.Int
}) {}
class StudentSubscribed extends Schema.TaggedClass<StudentSubscribed>()("StudentSubscribed", {
  course: Schema.String,
  student: Schema.String
}) {}

const Courses = typed({
  events: [CourseDefined, SeatsChanged, StudentSubscribed],
  tags: {
    CourseDefined: ({ course }) => [`course:${course}`],
    SeatsChanged: ({ course }) => [`course:${course}`],
    StudentSubscribed: ({ course, student }) => [`course:${course}`, `student:${student}`]
  }
})

interface OfCourse {
  readonly course: string
}

const seats = Decision.model({
  events: Courses,
  query: ({ course }: OfCourse) => [{ tags: [`course:${course}`] }],
  initial: () => ({ isDefined: false, seats: 0, taken: 0 }),
  evolve: (state, { event }) =>
    event._tag === "StudentSubscribed"
      ? { ...state, taken: state.taken + 1 }
      : { ...state, isDefined: true, seats: event.seats }
})

const courses = Decision.model({
  events: Courses,
  query: ({ student }: { readonly student: string }) => [{ events: [StudentSubscribed], tags: [`student:${student}`] }],
  initial: (): ReadonlyArray<string> => [],
  evolve: (state, { event }) => (event._tag === "StudentSubscribed" ? [...state, event.course] : state)
})

const define = Decision.make({
  events: Courses,
  model: seats,
  decide: ({ isDefined }, { course, seats }: OfCourse & { readonly seats: number }) =>
    isDefined ? refuse("defined already") : [new CourseDefined({ course, seats })]
})

const change = Decision.make({
  events: Courses,
  model: seats,
  decide: (state, { course, seats }: OfCourse & { readonly seats: number }) =>
    !state.isDefined ? refuse("no such course") : seats === state.seats ? [] : [new SeatsChanged({ course, seats })]
})

const subscribe = Decision.make({
  name: "subscribe",
  events: Courses,
  model: Decision.all({ seats, courses }),
  decide: ({ courses, seats }, { course, student }) => {
    if (!seats.isDefined) return refuse("no such course")
    if (seats.taken >= seats.seats) return refuse("full")
    if (courses.includes(course)) return refuse("subscribed already")
    return courses.length >= 5 ? refuse("five courses") : [new StudentSubscribed({ course, student })]
  }
})

const because = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.flip(effect), (error) => (error instanceof Refused ? error.because : error))

// A unique user name, which is free again some time after its account is closed

class NameTaken extends Schema.TaggedClass<NameTaken>()("NameTaken", { name: Schema.String, user: Schema.String }) {}
class NameReleased extends Schema.TaggedClass<NameReleased>()("NameReleased", { name: Schema.String }) {}

const Names = typed({
  events: [NameTaken, NameReleased],
  tags: { NameTaken: ({ name }) => [`name:${name}`], NameReleased: ({ name }) => [`name:${name}`] }
})

const takeName = Decision.make({
  events: Names,
  query: ({ name }: { readonly name: string; readonly user: string; readonly now: number }) => [
    { tags: [`name:${name}`] }
  ],
  initial: (): number => Number.NEGATIVE_INFINITY,
  // From when on it is free, in epoch milliseconds.
  evolve: (_, { createdAt, event }) =>
    event._tag === "NameTaken" ? Number.POSITIVE_INFINITY : DateTime.toEpochMillis(createdAt) + 3 * 86_400_000,
  decide: (freeAt, { name, now, user }) => (now < freeAt ? refuse("taken") : [new NameTaken({ name, user })])
})

const releaseName = Decision.make({
  events: Names,
  query: ({ name }: { readonly name: string }) => [{ tags: [`name:${name}`] }],
  initial: () => false,
  evolve: (_, { event }) => event._tag === "NameTaken",
  decide: (isTaken, { name }) => (isTaken ? [new NameReleased({ name })] : [])
})

// Invoice numbers without a gap

class InvoiceMade extends Schema.TaggedClass<InvoiceMade>()("InvoiceMade", {
  book: Schema.String,
  number: Schema.Int
}) {}

const Invoices = typed({ events: [InvoiceMade], tags: { InvoiceMade: ({ book }) => [`book:${book}`] } })

const makeInvoice = Decision.make({
  name: "invoice",
  events: Invoices,
  query: (book: string) => [{ tags: [`book:${book}`] }],
  initial: () => 0,
  evolve: (_, { event }) => event.number,
  decide: (last, book) => [new InvoiceMade({ book, number: last + 1 })],
  retry: Schedule.spaced("1 millis")
})

// An opt-in token that works once, and a price that may have changed by a while

class TokenSent extends Schema.TaggedClass<TokenSent>()("TokenSent", { mail: Schema.String, token: Schema.String }) {}
class OptedIn extends Schema.TaggedClass<OptedIn>()("OptedIn", { mail: Schema.String, token: Schema.String }) {}

const OptIns = typed({
  events: [TokenSent, OptedIn],
  tags: {
    TokenSent: ({ mail, token }) => [`token:${token}`, `mail:${mail}`],
    OptedIn: ({ mail, token }) => [`token:${token}`, `mail:${mail}`]
  }
})

const optIn = Decision.make({
  events: OptIns,
  query: ({ mail, token }: { readonly mail: string; readonly token: string }) => [
    { tags: [`token:${token}`, `mail:${mail}`] }
  ],
  initial: (): "unknown" | "sent" | "used" => "unknown",
  evolve: (_, { event }) => (event._tag === "TokenSent" ? "sent" : "used"),
  decide: (state, { mail, token }) => (state === "sent" ? [new OptedIn({ mail, token })] : refuse(state))
})

class PriceSet extends Schema.TaggedClass<PriceSet>()("PriceSet", { product: Schema.String, price: Schema.Int }) {}
class Ordered extends Schema.TaggedClass<Ordered>()("Ordered", { product: Schema.String, price: Schema.Int }) {}
class Closed extends Schema.TaggedClass<Closed>()("Closed", {}) {}

const Shop = typed({
  events: [PriceSet, Ordered, Closed],
  tags: { PriceSet: ({ product }) => [`product:${product}`], Ordered: ({ product }) => [`product:${product}`] }
})

const optedOut = Decision.make({
  name: "never",
  events: Shop,
  query: () => [{ tags: ["product:none"] }],
  initial: () => 0,
  evolve: (count: number) => count,
  decide: () => refuse("never")
})

const order = Decision.make({
  events: Shop,
  query: ({ product }: { readonly product: string; readonly price: number; readonly now: number }) => [
    { events: [PriceSet], tags: [`product:${product}`] }
  ],
  // The prices that hold: the last one, and the one before for ten minutes.
  initial: (): ReadonlyArray<number> => [],
  evolve: (prices, { createdAt, event }, { now }) =>
    event._tag !== "PriceSet"
      ? prices
      : now - DateTime.toEpochMillis(createdAt) < 600_000
        ? [...prices.slice(-1), event.price]
        : [event.price],
  decide: (prices, { price, product }) =>
    prices.includes(price) ? [new Ordered({ product, price })] : refuse("another price")
})

/** Registers the suite. */
export const suite = <E>(
  name: string,
  layer: Layer.Layer<EventStore | Transactor, E>,
  { interleaving = true }: { readonly interleaving?: boolean } = {}
): void => {
  it.layer(layer, { timeout: "2 minutes", excludeTestServices: true })(`Decision (${name})`, (it) => {
    it.effect("gives a course as many students as it has seats, and a student at most five courses", () =>
      Effect.gen(function* () {
        const all = Array.from({ length: 7 }, () => fresh("c"))
        const [course = ""] = all
        assert.strictEqual(yield* because(subscribe.execute({ course, student: "s" })), "no such course")
        yield* Effect.forEach(all, (course) => define.execute({ course, seats: 10 }), { concurrency: "unbounded" })
        assert.strictEqual(yield* because(define.execute({ course, seats: 3 })), "defined already")
        const students = Array.from({ length: 16 }, () => fresh("s"))
        const exits = yield* Effect.forEach(
          students,
          (student) => Effect.exit(subscribe.execute({ course, student }, { retry: Schedule.spaced("1 millis") })),
          { concurrency: "unbounded" }
        )
        assert.lengthOf(exits.filter(Exit.isSuccess), 10)
        assert.deepStrictEqual(yield* change.load({ course, seats: 0 }), { isDefined: true, seats: 10, taken: 10 })
        yield* change.execute({ course, seats: 11 })
        assert.deepStrictEqual((yield* change.execute({ course, seats: 11 })).events, [])
        const student = fresh("s")
        const { events, state } = yield* subscribe.execute({ course, student })
        assert.deepStrictEqual([events[0]?.aggregateId, state.courses], [`course:${course}`, []])
        yield* Effect.forEach(all.slice(1, 5), (course) => subscribe.execute({ course, student }))
        assert.strictEqual(yield* because(subscribe.execute({ course: all[1] ?? "", student })), "subscribed already")
        assert.strictEqual(yield* because(subscribe.execute({ course: all[6] ?? "", student })), "five courses")
      })
    )

    it.effect("gives a user name once, and again some time after it was released", () =>
      Effect.gen(function* () {
        const name = fresh("anna")
        const now = Date.now()
        const exits = yield* Effect.forEach(
          Array.from({ length: 8 }, (_, index) => index),
          (user) => Effect.exit(takeName.execute({ name, user: String(user), now })),
          { concurrency: "unbounded" }
        )
        assert.lengthOf(exits.filter(Exit.isSuccess), 1)
        yield* releaseName.execute({ name })
        assert.strictEqual(yield* because(takeName.execute({ name, user: "u", now })), "taken")
        yield* takeName.execute({ name, user: "u", now: now + 4 * 86_400_000 })
        assert.strictEqual(yield* because(takeName.execute({ name, user: "v", now: now + 9e9 })), "taken")
      })
    )

    it.effect("numbers invoices without a gap, however many are made at once", () =>
      Effect.gen(function* () {
        const book = fresh("book")
        const made = yield* Effect.replicateEffect(makeInvoice.execute(book), 30, { concurrency: 8 })
        assert.deepStrictEqual(
          made.flatMap(({ events }) => events.map(({ event }) => event.number)).sort((a, b) => a - b),
          Array.from({ length: 30 }, (_, index) => index + 1)
        )
      })
    )

    it.effect("takes a token once, and a price that has changed by a while", () =>
      Effect.gen(function* () {
        const [mail, token, product] = [fresh("mail"), fresh("token"), fresh("p")]
        const optIns = yield* OptIns
        assert.strictEqual(yield* because(optIn.execute({ mail, token })), "unknown")
        yield* optIns.append(mail, new TokenSent({ mail, token }))
        yield* optIn.execute({ mail, token })
        assert.strictEqual(yield* because(optIn.execute({ mail, token })), "used")
        const shop = yield* Shop
        yield* shop.append(
          product,
          [10, 20].map((price) => new PriceSet({ product, price }))
        )
        const now = Date.now()
        yield* Effect.forEach([10, 20], (price) => order.execute({ product, price, now }))
        assert.strictEqual(yield* because(order.execute({ product, price: 10, now: now + 3_600_000 })), "another price")
        yield* order.execute({ product, price: 20, now: now + 3_600_000 })
      })
    )

    it.effect("takes effect once for a key, and gives the same events again", () =>
      Effect.gen(function* () {
        const book = fresh("book")
        const key = fresh("key")
        const all = yield* Effect.replicateEffect(makeInvoice.execute(book, { key }), 8, { concurrency: "unbounded" })
        const [first] = all
        yield* makeInvoice.execute(book)
        for (const { events } of [...all, yield* makeInvoice.execute(book, { key })]) {
          assert.deepStrictEqual(events, first?.events)
        }
        assert.strictEqual(yield* makeInvoice.load(book), 2)
        assert.instanceOf(yield* Effect.flip(optIn.execute({ mail: "m", token: "t" }, { key })), InvalidInput)
      })
    )

    it.effect("gives back a state that has the events of its key, also if they come after it has read", () =>
      Effect.gen(function* () {
        const [book, key] = [fresh("book"), fresh("key")]
        const store = yield* EventStore
        let reads = 0
        const context = yield* Effect.context<EventStore | Transactor>()
        const other = Effect.provideContext(makeInvoice.execute(book, { key }), context)
        // The same execution elsewhere is faster.
        const slow = EventStore.of({
          ...store,
          readForDecision: (query) =>
            Effect.tap(store.readForDecision(query), () => (++reads === 1 ? Effect.orDie(other) : Effect.void))
        })
        const { events, state } = yield* Effect.provideService(makeInvoice.execute(book, { key }), EventStore, slow)
        assert.deepStrictEqual([events.map(({ event }) => event.number), state], [[1], 1])
        const before = reads
        const again = yield* Effect.provideService(makeInvoice.execute(book, { key }), EventStore, slow)
        // It is read once where the state has them already.
        assert.deepStrictEqual([again.events.length, again.state, reads - before], [1, 1, 1])
      })
    )

    it.effect("gives the events of its key where it fails because of them", () =>
      Effect.gen(function* () {
        const [product, key] = [fresh("p"), fresh("key")]
        let decided = 0
        const order = Decision.make({
          name: fresh("order"),
          events: Shop,
          query: () => [{ tags: [`product:${product}`] }],
          initial: () => 0,
          evolve: (count: number) => count + 1,
          decide: Effect.fn(function* () {
            if (++decided > 1) return [new Ordered({ product, price: decided })]
            // What it looks at beside its state is changed by the same execution, which is faster elsewhere.
            yield* other
            return yield* refuse("ordered already")
          })
        })
        const other: Effect.Effect<void, never, EventStore | Transactor> = Effect.asVoid(
          Effect.orDie(Effect.suspend(() => order.execute({}, { key })))
        )
        const { events } = yield* order.execute({}, { key })
        assert.deepStrictEqual([events.length, decided], [1, 2])
        // Another failure is its own.
        assert.strictEqual(yield* because(optedOut.execute({}, { key })), "never")
      })
    )

    it.effect("fails in the caller's transaction where it was executed meanwhile, or fails for another reason", () =>
      Effect.gen(function* () {
        const [product, key, name] = [fresh("p"), fresh("key"), fresh("order")]
        const shop = yield* Shop
        let decided = 0
        const counted = {
          name,
          events: Shop,
          query: () => [{ tags: [`product:${product}`] }],
          initial: () => 0,
          evolve: (count: number) => count + 1
        }
        const ordering = (first: Effect.Effect<unknown, unknown, EventStore | Transactor>) =>
          Decision.make({
            ...counted,
            decide: Effect.fn(function* () {
              if (++decided === 1) yield* Effect.orDie(first)
              return [new Ordered({ product: fresh("other"), price: 1 })]
            })
          })
        const same = Effect.suspend(() => ordering(Effect.void).execute({}, { key }))
        // The transaction goes on: its caller decides what becomes of what it has written for this key.
        const kept = yield* transaction(
          Effect.gen(function* () {
            const error = yield* Effect.flip(ordering(same).execute({}, { key }))
            assert.strictEqual(error._tag, "DuplicateEvent")
            return yield* shop.append(product, new PriceSet({ product, price: 2 }))
          })
        )
        assert.deepStrictEqual([kept.length, decided], [1, 2])
        decided = 0
        const failing = Decision.make({
          ...counted,
          decide: Effect.fn(function* () {
            if (++decided === 1) yield* Effect.orDie(same)
            return yield* refuse("no")
          })
        })
        assert.strictEqual(yield* because(transaction(failing.execute({}, { key }))), "no")
      })
    )

    it.effect("is a part of the caller's transaction, and is made again there", () =>
      Effect.gen(function* () {
        const book = fresh("book")
        const undone = transaction(Effect.andThen(makeInvoice.execute(book), Effect.fail("undo")))
        assert.strictEqual(yield* Effect.flip(undone), "undo")
        assert.strictEqual(yield* makeInvoice.load(book), 0)
        const both = yield* transaction(
          Effect.all([makeInvoice.execute(book), makeInvoice.execute(book)], { concurrency: 1 })
        )
        assert.deepStrictEqual(
          both.map(({ events }) => events[0]?.event.number),
          [1, 2]
        )
      })
    )

    it.effect("undoes what a decision has written in the caller's transaction when it was overtaken", () =>
      Effect.gen(function* () {
        const [product, noted] = [fresh("p"), fresh("p")]
        const shop = yield* Shop
        let decided = 0
        const order = Decision.make({
          events: Shop,
          query: () => [{ tags: [`product:${product}`] }],
          initial: () => 0,
          evolve: (count: number) => count + 1,
          decide: Effect.fn(function* () {
            yield* shop.append(noted, new PriceSet({ product: noted, price: 1 }))
            // What somebody else would do that was faster.
            if (++decided === 1) yield* shop.append(product, new PriceSet({ product, price: 1 }))
            return [new Ordered({ product, price: 1 })]
          })
        })
        yield* transaction(order.execute({}))
        assert.strictEqual(decided, 2)
        assert.strictEqual((yield* shop.loadByAggregate(noted)).length, 1)
      })
    )

    it.effect("fails with what was in the way once the schedule ends, and passes other failures on", () =>
      Effect.gen(function* () {
        const product = fresh("p")
        const shop = yield* Shop
        const setPrice = shop.append(product, new PriceSet({ product, price: 1 }))
        let decided = 0
        const counted = {
          events: Shop,
          query: () => [{ tags: [`product:${product}`] }],
          initial: () => 0,
          evolve: (count: number) => count + 1
        }
        const unlucky = Decision.make({
          ...counted,
          decide: () =>
            Effect.map(setPrice, () => {
              decided++
              return [new Ordered({ product, price: 1 })]
            })
        })
        const error = yield* Effect.flip(unlucky.execute({}, { retry: Schedule.recurs(2) }))
        assert.instanceOf(error, ConditionFailed)
        assert.deepStrictEqual([decided, error.eventType], [3, Option.some("PriceSet")])
        const none = Decision.make({ ...counted, decide: () => [] })
        assert.deepStrictEqual((yield* none.execute({})).events, [])
        const aimless = Decision.make({ ...counted, decide: () => [new Closed()] })
        assert.instanceOf(yield* Effect.flip(aimless.execute({})), InvalidInput)
        const given = Decision.make({
          ...counted,
          decide: () => [{ aggregateId: product, event: new Closed(), tags: ["closed"] }]
        })
        assert.strictEqual((yield* given.execute({}, { metadata: { by: "anna" } })).events[0]?.aggregateId, product)
      })
    )

    it.effect("fails where an event does not decode, naming it", () =>
      Effect.gen(function* () {
        const product = fresh("p")
        yield* EventStore.use((events) =>
          events.append({ aggregateId: "p", eventType: "PriceSet", data: "no", tags: [`product:${product}`] })
        )
        const error = yield* Effect.flip(order.execute({ product, price: 1, now: 0 }))
        assert.instanceOf(error, StoreError)
        assert.strictEqual(error.reason._tag, "CorruptRow")
      })
    )

    if (!interleaving) return

    it.effect("decides anew on what was in flight when it read", () =>
      Effect.gen(function* () {
        const book = fresh("book")
        const drawn = yield* Deferred.make<void>()
        const end = yield* Deferred.make<void>()
        const slow = yield* Effect.forkChild(
          transaction(
            makeInvoice.execute(book).pipe(
              Effect.tap(() => Deferred.succeed(drawn, undefined)),
              Effect.tap(() => Deferred.await(end))
            )
          )
        )
        yield* Deferred.await(drawn)
        const other = yield* Effect.forkChild(makeInvoice.execute(book), { startImmediately: true })
        yield* Deferred.succeed(end, undefined)
        yield* Fiber.join(slow)
        assert.strictEqual((yield* Fiber.join(other)).events[0]?.event.number, 2)
      })
    )

    it.effect("is made again in the caller's transaction on what others have committed meanwhile", () =>
      Effect.gen(function* () {
        const product = fresh("p")
        const shop = yield* Shop
        const elsewhere = yield* Effect.context<EventStore | Transactor>()
        const states: Array<number> = []
        const order = Decision.make({
          events: Shop,
          query: () => [{ tags: [`product:${product}`] }],
          initial: () => 0,
          evolve: (count: number) => count + 1,
          decide: Effect.fn(function* (count) {
            states.push(count)
            const faster = shop.append(product, new PriceSet({ product, price: 1 }))
            if (states.length === 1) yield* Effect.promise(() => Effect.runPromiseWith(elsewhere)(faster))
            return [new Ordered({ product, price: count })]
          })
        })
        const noted = fresh("noted")
        yield* transaction(
          Effect.andThen(shop.append(noted, new PriceSet({ product: noted, price: 1 })), order.execute({}))
        )
        assert.deepStrictEqual(states, [0, 1])
        assert.lengthOf(yield* shop.loadByAggregate(noted), 1)
        states.length = 0
        const failed = transaction(order.execute({}, { retry: Schedule.recurs(0) }))
        assert.instanceOf(yield* Effect.flip(failed), ConditionFailed)
      })
    )
  })
}
