/** Definitions that the compiler refuses, as plain JavaScript gives them: they are refused, before an event is passed in silence. */
import { assert, it } from "@effect/vitest"
import { Effect, Layer, Schema } from "effect"
import { Decision, Entity, EventStore, InvalidInput, Projection, Spool } from "effect-strata"
import * as Memory from "effect-strata/memory"

class Deposited extends Schema.TaggedClass<Deposited>()("Deposited", { amount: Schema.Int }) {}
class Withdrawn extends Schema.TaggedClass<Withdrawn>()("Withdrawn", { amount: Schema.Int }) {}
const Accounts = EventStore.typed({ events: [Deposited, Withdrawn] })
const nothing = () => Effect.void

/** Calls a function without the compiler's help. */
const plain = <A>(f: (...args: never) => unknown, ...args: ReadonlyArray<unknown>): A =>
  Reflect.apply(f, undefined, args)

type Run = Effect.Effect<unknown, unknown, Layer.Success<typeof Memory.layer>>

const projection = (options: object): Run =>
  Effect.suspend((): Run => plain<Run>(Projection.run, plain<object>(Projection.make, { name: "p", ...options })))

const entity = (options: object): Run =>
  plain<Run>(Entity.make, { name: "e", events: Accounts, initial: () => 0, apply: () => 0, ...options })

const decision = (options: object): Run => {
  const all = { events: Accounts, query: () => [], initial: () => 0, evolve: () => 0, decide: () => [], ...options }
  const { execute } = plain<{ readonly execute: (command: string) => Run }>(Decision.make, all)
  return execute("command")
}

const worker = (handler: unknown): Run => plain<Run>(Spool.make({ name: "q", payload: Schema.String }).run, handler)

const mistakes: ReadonlyArray<readonly [what: string, run: Run, says: string]> = [
  [
    "apply for on",
    projection({ events: Accounts, apply: { Deposited: nothing } }),
    "Projection.run: invalid input: handler: Expected one of `handler`, `batchHandler`, `on`; the options are `name`, `events`, `apply`"
  ],
  [
    "two kinds of handlers",
    projection({ handler: nothing, batchHandler: nothing }),
    "Projection.run: invalid input: handler: Expected one of `handler`, `batchHandler`, `on`, found `handler`, `batchHandler`"
  ],
  [
    "a handler that is none",
    projection({ handler: {} }),
    "Projection.run: invalid input: handler: Expected a function; the options are `name`, `handler`"
  ],
  [
    "handlers by tags without a view",
    projection({ on: { Deposited: nothing } }),
    "Projection.run: invalid input: events: Expected a typed view, for whose classes `on` has handlers"
  ],
  [
    "a tag that the view does not have",
    projection({ events: Accounts, on: { Deposited: nothing, Withdrawn: nothing, Withdrew: nothing } }),
    "Projection.run: invalid input: on.Withdrew: Expected the tag of a class of the view"
  ],
  [
    "a class without a handler",
    projection({ events: Accounts, on: { Deposited: nothing } }),
    "Projection.run: invalid input: on: Expected a function for `Withdrawn`, too"
  ],
  [
    "an entity with on for apply",
    entity({ apply: undefined, on: nothing }),
    "Entity.make: invalid input: apply: Expected a function; the options are `name`, `events`, `initial`, `apply`, `on`"
  ],
  [
    "an entity that leaves out an event",
    entity({ apply: { Deposited: () => 0 } }),
    "Entity.make: invalid input: apply: Expected a function for `Withdrawn`, too"
  ],
  [
    "an entity without initial",
    entity({ initial: 0 }),
    "Entity.make: invalid input: initial: Expected a function; the options are `name`, `events`, `initial`, `apply`"
  ],
  [
    "a decision with apply for evolve",
    decision({ evolve: undefined }),
    "Decision.execute: invalid input: evolve: Expected a function; the options are `events`, `query`, `initial`, `evolve`, `decide`"
  ],
  [
    "a decision that decides nothing",
    decision({ decide: "no" }),
    "Decision.execute: invalid input: decide: Expected a function; the options are `events`, `query`, `initial`, `evolve`, `decide`"
  ],
  [
    "a queue with schema for payload",
    Effect.try({ try: () => plain<object>(Spool.make, { name: "q", schema: Schema.String }), catch: (error) => error }),
    "Spool.make: invalid input: payload: Expected a schema; the options are `name`, `schema`"
  ],
  ["a worker without a handler", worker({ handler: nothing }), "Spool.run: invalid input: handler: Expected a function"]
]

it.live.each(mistakes)("%s is refused", ([, run, says]) =>
  Effect.gen(function* () {
    const error = yield* Effect.flip(run)
    assert.instanceOf(error, InvalidInput.InvalidInput)
    assert.include(error.message, says)
  }).pipe(Effect.provide(Layer.fresh(Memory.layer)))
)

it.live("handlers of some classes pass the others where they say so", () =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const [stored] = yield* events.append({ aggregateId: "a", eventType: "Withdrawn", data: { amount: 1 } })
    const some = Projection.make({ name: "p", events: Accounts, on: { Deposited: nothing }, otherwise: "pass" })
    yield* Effect.forkScoped(Projection.run(some))
    yield* Projection.awaitVersion("p", stored?.version ?? 1n, "5 minutes")
  }).pipe(Effect.provide(Layer.fresh(Memory.layer)))
)
