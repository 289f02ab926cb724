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
 * Drivers fail with a bare `Reason`: the operation adds the names of the store and of the operation.
 */
import { type Clock, Deferred, Effect, type Scope, Stream } from "effect"
import type { InvalidInput } from "../InvalidInput.ts"
import { Closed, isReason, type Reason, StoreError } from "../StoreError.ts"
import { type Arguments, check } from "./Arguments.ts"
import { fastPath } from "./FastPath.ts"
import * as Instruments from "./Instruments.ts"

export { isTraced } from "./Instruments.ts"

// Model

interface Tagged {
  readonly _tag: string
}

/** What an operation fails with where its body fails with `E`: a `Reason` becomes a `StoreError`. */
type Failure<E> = Exclude<E, Extract<E, Reason>> | StoreError

/** Makes the public operations of one store from the bodies that a backend gives. */
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

  /** The same for a stream without an end of its own, which `running` counts. Its body has to end it with the scope. */
  readonly subscription: Operations["stream"]

  /** How many subscriptions are running. */
  readonly running: () => number

  /** A stream without arguments and without an end of its own. It ends with the scope. */
  readonly endless: <A>(operation: string, body: Stream.Stream<A, Reason>) => Stream.Stream<A, StoreError>
}

// The end of the scope

/** Why an operation of this store fails once the scope has ended. */
export const closed = (store: string) =>
  new Closed({ message: `the scope of this ${store} has ended; keep its layer alive` })

/** Completed when the scope ends. */
const closing = Effect.acquireRelease(Deferred.make<void>(), (ended) => Deferred.succeed(ended, undefined))

const failWhen = <A, E>(ended: Deferred.Deferred<void>, store: string, body: Stream.Stream<A, E | Reason>) =>
  Stream.interruptWhen(
    body,
    Effect.flatMap(Deferred.await(ended), () => Effect.fail(closed(store)))
  )

/**
 * Makes a function that ends streams with `Closed` when the scope ends. A fiber of its own reads each stream then, which
 * doubles the cost of an element: a backend whose streams end by themselves does without.
 */
export const untilClosed = (
  store: string
): Effect.Effect<<A, E>(body: Stream.Stream<A, E | Reason>) => Stream.Stream<A, E | Reason>, never, Scope.Scope> =>
  Effect.map(
    closing,
    (ended) =>
      <A, E>(body: Stream.Stream<A, E | Reason>) =>
        failWhen(ended, store, body)
  )

// One operation

const isReasonOf = <E>(error: E): error is Extract<E, Reason> => isReason(error)

/** One operation of a store. */
class Operation {
  private readonly store: string
  private readonly name: string
  private readonly ended: Deferred.Deferred<void>
  private readonly instruments: Instruments.Instruments

  constructor(store: string, name: string, backend: string, ended: Deferred.Deferred<void>) {
    this.store = store
    this.name = name
    this.ended = ended
    this.instruments = new Instruments.Instruments({ store, operation: name, backend })
  }

  run<A, E extends Tagged>(body: (clock: Clock.Clock) => Effect.Effect<A, E>): Effect.Effect<A, Failure<E>> {
    const located = (clock: Clock.Clock) =>
      this.isClosed ? this.fail(closed(this.store)) : Effect.catchIf(body(clock), isReasonOf<E>, this.fail)
    return this.instruments.watch(located)
  }

  stream<A, E extends Tagged>(body: Stream.Stream<A, E>): Stream.Stream<A, Failure<E>> {
    const located = Stream.catchIf(body, isReasonOf<E>, (reason) => Stream.fromEffect(this.fail(reason)))
    const opened = Effect.suspend(() => (this.isClosed ? this.fail(closed(this.store)) : Effect.succeed(located)))
    return this.instruments.watchStream(Stream.unwrap(opened))
  }

  check<S extends Arguments>(schema: S, input: S["~type.make.in"]): Effect.Effect<S["Type"], InvalidInput> {
    return check(schema, this.store, this.name, input)
  }

  private get isClosed(): boolean {
    return Deferred.isDoneUnsafe(this.ended)
  }

  private readonly fail = (reason: Reason) =>
    Effect.fail(new StoreError({ store: this.store, operation: this.name, reason }))
}

// The operations of a store

/** Makes the operations of one store on one backend. They fail with `Closed` once the scope has ended. */
export const make = (store: string, backend: string): Effect.Effect<Operations, never, Scope.Scope> =>
  Effect.map(closing, (ended): Operations => {
    const operationOf = (name: string) => new Operation(store, name, backend, ended)

    let running = 0
    const counted = Effect.acquireRelease(
      Effect.sync(() => running++),
      () => Effect.sync(() => running--)
    )

    return {
      effect: (name, body) => operationOf(name).run(() => body),
      fn: (name, schema, body) => {
        const operation = operationOf(name)
        const fast = fastPath(schema)
        return (input) =>
          operation.run((clock) => {
            const value = fast(input, clock)
            return value === undefined ? Effect.flatMap(operation.check(schema, input), body) : body(value)
          })
      },
      stream: (name, schema, body) => {
        const operation = operationOf(name)
        return (input) => operation.stream(Stream.unwrap(Effect.map(operation.check(schema, input), body)))
      },
      subscription: (name, schema, body) => {
        const operation = operationOf(name)
        return (input) =>
          operation.stream(Stream.unwrap(Effect.andThen(counted, Effect.map(operation.check(schema, input), body))))
      },
      running: () => running,
      endless: (name, body) => operationOf(name).stream(failWhen(ended, store, body))
    }
  })
