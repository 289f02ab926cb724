/**
 * What every public operation of every store has in common, in one place: its arguments are checked before any I/O, its
 * failures say where they happened, it ends with the scope of its layer, and it can be watched.
 *
 * **Details**
 *
 * An operation `writeOffset` of `OffsetStore` is a span `OffsetStore.writeOffset`, and feeds the metrics
 * `strata_operations` (a counter by outcome: `ok`, the tag of the error, `interrupted` or `defect`) and
 * `strata_operation_duration` (a histogram). Attributes name the store, the operation and the backend, never payloads.
 *
 * Adapters fail with a bare `Reason`: the operation adds which store and which operation it was.
 */
import {
  Cause,
  Clock,
  Context,
  Deferred,
  Duration,
  Effect,
  Exit,
  type Fiber,
  Metric,
  Option,
  type Scope,
  Stream,
  Tracer
} from "effect"
import type { InvalidInput } from "../InvalidInput.ts"
import { Closed, isReason, type Reason, StoreError } from "../StoreError.ts"
import { type Arguments, check } from "./Arguments.ts"
import { fastPath } from "./FastPath.ts"

// Each series is a metric of its own: attributes that are added to one make a new context of the caller's, at each update.

const countOf = (attributes: Readonly<Record<string, string>>) =>
  Metric.counter("strata_operations", {
    description: "Operations of the stores, by outcome",
    incremental: true,
    attributes
  })

const durationOf = (attributes: Readonly<Record<string, string>>) =>
  Metric.timer("strata_operation_duration", { description: "How long operations of the stores take", attributes })

/** What makes spans where nobody collects them. */
const noTracer = Context.get(Context.empty(), Tracer.Tracer)

/** Whether somebody collects spans. Where nobody does, one would cost as much as all the rest of an operation. */
export const isTraced = (fiber: Fiber.Fiber<unknown, unknown>): boolean => fiber.getRef(Tracer.Tracer) !== noTracer

interface Tagged {
  readonly _tag: string
}

/** What an operation fails with, given what its body fails with. */
type Failure<E> = Exclude<E, Extract<E, Reason>> | StoreError

/** Turns the parts of one store's adapter into its public operations. */
export interface Operations {
  /** An operation without arguments. */
  readonly effect: <A, E extends Tagged>(operation: string, body: Effect.Effect<A, E>) => Effect.Effect<A, Failure<E>>

  /** An operation whose argument is made by a schema. */
  readonly fn: <S extends Arguments, A, E extends Tagged>(
    operation: string,
    schema: S,
    body: (input: S["Type"]) => Effect.Effect<A, E>
  ) => (input: S["~type.make.in"]) => Effect.Effect<A, Failure<E | InvalidInput>>

  /** The same for a stream, which counts once, when it ends. */
  readonly stream: <S extends Arguments, A, E extends Tagged>(
    operation: string,
    schema: S,
    body: (input: S["Type"]) => Stream.Stream<A, E>
  ) => (input: S["~type.make.in"]) => Stream.Stream<A, Failure<E | InvalidInput>>

  /** The same for a stream that has no end of its own: the end of the scope is its end, with `Closed`, which its body sees to. */
  readonly subscription: Operations["stream"]

  /** How many of those are running. */
  readonly running: () => number

  /** Such a stream without arguments, which the end of the scope ends. */
  readonly endless: <A>(operation: string, body: Stream.Stream<A, Reason>) => Stream.Stream<A, StoreError>

  /** Ends a stream with `Closed` when the scope ends. It is read by a fiber of its own, at twice the cost. */
  readonly untilClosed: <A>(body: Stream.Stream<A, Reason>) => Stream.Stream<A, Reason>
}

const isReasonOf = <E>(error: E): error is Extract<E, Reason> => isReason(error)

const outcomeOf = (exit: Exit.Exit<unknown, Tagged>): string => {
  if (Exit.isSuccess(exit)) return "ok"
  if (Cause.hasInterruptsOnly(exit.cause)) return "interrupted"
  const error = Cause.findErrorOption(exit.cause)
  if (Option.isNone(error)) return "defect"
  return error.value instanceof StoreError ? error.value.reason._tag : error.value._tag
}

/** Why an operation of this store fails once the scope has ended. */
export const closed = (store: string) =>
  new Closed({ message: `the scope of this ${store} has ended; keep its layer alive` })

/** Makes the operations of one store on one backend. They fail with `Closed` once the scope has ended. */
export const make = (store: string, backend: string): Effect.Effect<Operations, never, Scope.Scope> =>
  Effect.gen(function* () {
    let running = 0
    const run = Effect.acquireRelease(
      Effect.sync(() => running++),
      () => Effect.sync(() => running--)
    )

    const closing = Deferred.makeUnsafe<void>()
    yield* Effect.addFinalizer(() => Deferred.succeed(closing, undefined))

    const untilClosed: Operations["untilClosed"] = (body) =>
      Stream.interruptWhen(
        body,
        Effect.flatMap(Deferred.await(closing), () => Effect.fail(closed(store)))
      )

    const instrument = (operation: string) => {
      const span = `${store}.${operation}`
      const attributes = { store, operation, backend }
      const duration = durationOf(attributes)
      const counters = new Map<string, Metric.Metric<number, unknown>>()
      const counterOf = (outcome: string) => {
        let counter = counters.get(outcome)
        if (counter === undefined) {
          counter = countOf({ ...attributes, outcome })
          counters.set(outcome, counter)
        }
        return counter
      }

      const fail = (reason: Reason) => Effect.fail(new StoreError({ store, operation, reason }))
      const open = Effect.suspend(() => (Deferred.isDoneUnsafe(closing) ? fail(closed(store)) : Effect.void))

      return {
        /** Counts and times. Straight to the metrics: as effects these would cost more than all the rest in here. */
        effect: <A, E extends Tagged>(
          body: (clock: Clock.Clock) => Effect.Effect<A, E>
        ): Effect.Effect<A, Failure<E>> => {
          const measured = (fiber: Fiber.Fiber<unknown, unknown>) => {
            const clock = fiber.getRef(Clock.Clock)
            const start = clock.monotonicTimeNanosUnsafe()
            const located = Deferred.isDoneUnsafe(closing)
              ? fail(closed(store))
              : Effect.catchIf(body(clock), isReasonOf<E>, fail)
            return Effect.onExitPrimitive(located, (exit) => {
              counterOf(outcomeOf(exit)).updateUnsafe(1, fiber.context)
              duration.updateUnsafe(Duration.nanos(clock.monotonicTimeNanosUnsafe() - start), fiber.context)
              return undefined
            })
          }
          return Effect.withFiber((fiber) =>
            isTraced(fiber)
              ? Effect.useSpan(span, { attributes }, (current) =>
                  Effect.provideService(Effect.withFiber(measured), Tracer.ParentSpan, current)
                )
              : measured(fiber)
          )
        },
        stream: <A, E extends Tagged>(body: Stream.Stream<A, E>): Stream.Stream<A, Failure<E>> => {
          const located = Stream.catchIf(body, isReasonOf<E>, (reason) => Stream.fromEffect(fail(reason)))
          return Stream.unwrap(Effect.as(open, located)).pipe(
            (opened) => Stream.onExit(opened, (exit) => Metric.update(counterOf(outcomeOf(exit)), 1)),
            Stream.withSpan(span, { attributes })
          )
        }
      }
    }

    return {
      effect: (operation, body) => instrument(operation).effect(() => body),
      fn: (operation, schema, body) => {
        const { effect } = instrument(operation)
        const fast = fastPath(schema)
        return (input) =>
          effect((clock) => {
            const plain = fast(input, clock)
            return plain === undefined ? Effect.flatMap(check(schema, store, operation, input), body) : body(plain)
          })
      },
      stream: (operation, schema, body) => {
        const { stream } = instrument(operation)
        return (input) => stream(Stream.unwrap(Effect.map(check(schema, store, operation, input), body)))
      },
      subscription: (operation, schema, body) => {
        const { stream } = instrument(operation)
        const counted = (input: (typeof schema)["~type.make.in"]) =>
          Effect.andThen(run, Effect.map(check(schema, store, operation, input), body))
        return (input) => stream(Stream.unwrap(counted(input)))
      },
      running: () => running,
      endless: (operation, body) => instrument(operation).stream(untilClosed(body)),
      untilClosed
    }
  })
