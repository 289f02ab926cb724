/**
 * Decisions about whatever a query describes: the events that match it are folded into a state, a command decides upon that,
 * and what it decides is appended if nothing has come that the decision would have wanted to know of.
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Decision, EventStore } from "effect-strata"
 *
 * class CourseDefined extends Schema.TaggedClass<CourseDefined>()("CourseDefined", {
 *   course: Schema.String,
 *   seats: Schema.Int
 * }) {}
 * class StudentSubscribed extends Schema.TaggedClass<StudentSubscribed>()("StudentSubscribed", {
 *   course: Schema.String,
 *   student: Schema.String
 * }) {}
 * class Full extends Schema.TaggedError<Full>("Full")("Full", { course: Schema.String }) {}
 *
 * const Courses = EventStore.typed({
 *   events: [CourseDefined, StudentSubscribed],
 *   tags: {
 *     CourseDefined: ({ course }) => [`course:${course}`],
 *     StudentSubscribed: ({ course, student }) => [`course:${course}`, `student:${student}`]
 *   }
 * })
 *
 * // The seats of a course, and the courses of a student: two small models.
 * const free = Decision.model({
 *   events: Courses,
 *   query: ({ course }: { readonly course: string }) => [{ tags: [`course:${course}`] }],
 *   initial: () => 0,
 *   evolve: (seats, { event }) => (event._tag === "CourseDefined" ? event.seats : seats - 1)
 * })
 * const taken = Decision.model({
 *   events: Courses,
 *   query: ({ student }: { readonly student: string }) => [
 *     { events: [StudentSubscribed], tags: [`student:${student}`] }
 *   ],
 *   initial: () => 0,
 *   evolve: (courses) => courses + 1
 * })
 *
 * export const subscribeStudent = Decision.make({
 *   events: Courses,
 *   model: Decision.all({ free, taken }),
 *   decide: ({ free, taken }, { course, student }) =>
 *     free <= 0 || taken >= 5
 *       ? Effect.fail(new Full({ course }))
 *       : [new StudentSubscribed({ course, student })]
 * })
 *
 * export const program = subscribeStudent.execute({ course: "c1", student: "s7" })
 * ```
 */
import { Effect, type Schedule, Schema } from "effect"
import { type DecideFailed, decided, defaultRetry, execute, executedBefore, LostRace } from "./events/Executing.ts"
import { notFunctions } from "./events/FunctionIssues.ts"
import { itemOf } from "./events/View.ts"
import {
  type Condition,
  type ConditionFailed,
  type DuplicateEvent,
  EventStore,
  type LogReplaced,
  type NewTypedEvent,
  type QueryItem,
  type StoredEvent,
  type Tagged,
  type TypedEvent,
  type TypedEvents,
  type TypedItem,
  type TypedView,
  type VersionConflict
} from "./EventStore.ts"
import { check } from "./internal/Arguments.ts"
import { Identifier } from "./internal/Fields.ts"
import { derivedId } from "./internal/Ids.ts"
import { named } from "./internal/Named.ts"
import { InvalidInput, type Issue } from "./InvalidInput.ts"
import { type CorruptRow, StoreError } from "./StoreError.ts"
import { Transactor } from "./Transactor.ts"

// Models

/** An event that matches some items of a query, by their places. */
interface Matched {
  readonly stored: StoredEvent
  readonly items: ReadonlyArray<number>
}

/** What a command is decided upon: which events it takes, and the state that they make. `R` are the services of their schemas. */
export interface Model<in Command, out State, out R = never> {
  /** What is wrong with the classes of its view: no decision is made then. */
  readonly issues: ReadonlyArray<Issue>
  /** The items of its query. */
  readonly query: (command: Command) => ReadonlyArray<QueryItem>
  /** The state that events make, in their order. */
  readonly fold: (command: Command, events: ReadonlyArray<Matched>) => Effect.Effect<State, CorruptRow, R>
}

/** What `Decision.model` takes: what a decision has to know. */
export interface ModelOptions<Command, State, Class extends Tagged, Other, R, Id, Tag extends string = string> {
  /** The events that it takes. */
  readonly events: TypedView<Class, Other, R, Id, Tag>
  /** Which of them, for a command, by tags that the view gives. An item without `events` is about all classes of the view. */
  readonly query: (command: Command) => ReadonlyArray<TypedItem<Class, NoInfer<Tag>>>
  /** The state before the first event. */
  readonly initial: (command: Command) => State
  /** The state after one more event. */
  readonly evolve: (state: State, event: TypedEvent<Class["Type"] | Other>, command: Command) => State
}

/** A model whose state follows from the events that match its query. */
export const model = <Command, State, Class extends Tagged, Other, R, Id, Tag extends string>(
  options: ModelOptions<Command, State, Class, Other, R, Id, Tag>
): Model<Command, State, Class["DecodingServices"] | R> => {
  const { events: view, evolve, initial, query } = options
  return {
    issues: [...view.issues, ...notFunctions(options, { query, initial, evolve })],
    query: (command) => query(command).map((item) => itemOf(view, item)),
    fold: (command, matched) =>
      Effect.map(
        Effect.forEach(matched, ({ stored }) => view.decode(stored)),
        (events) => events.reduce((state, event) => evolve(state, event, command), initial(command))
      )
  }
}

/** What models need to be told, all of them. */
type CommandOf<Models> = {
  readonly [Name in keyof Models]: Models[Name] extends Model<infer Command, unknown, unknown>
    ? (command: Command) => void
    : never
}[keyof Models] extends (command: infer Command) => void
  ? Command
  : never

type StateOf<Models> = {
  readonly [Name in keyof Models]: Models[Name] extends Model<never, infer State, unknown> ? State : never
}

type ServicesOf<Models> = {
  readonly [Name in keyof Models]: Models[Name] extends Model<never, unknown, infer R> ? R : never
}[keyof Models]

/**
 * One model of several small ones: its state has the state of each by its name, and each takes the events that match its own
 * query.
 */
export function all<const Models extends Readonly<Record<string, Model<never, unknown, unknown>>>>(
  models: Models
): Model<CommandOf<Models>, StateOf<Models>, ServicesOf<Models>>
export function all<Command, R>(
  models: Readonly<Record<string, Model<Command, unknown, R>>>
): Model<Command, Readonly<Record<string, unknown>>, R> {
  return {
    issues: Object.values(models).flatMap(({ issues }) => issues),
    query: (command) => Object.values(models).flatMap(({ query }) => query(command)),
    fold: Effect.fnUntraced(function* (command, events) {
      const states: Record<string, unknown> = {}
      let first = 0
      for (const [name, { fold, query }] of Object.entries(models)) {
        const begin = first
        const end = (first += query(command).length)
        const own = events.flatMap(({ items, stored }) => {
          const places = items.filter((place) => place >= begin && place < end)
          return places.length === 0 ? [] : [{ stored, items: places.map((place) => place - begin) }]
        })
        states[name] = yield* fold(command, own)
      }
      return states
    })
  }
}

// Decisions

/** An event that was decided: with the aggregate that it belongs to, or to the one that its first tag names. */
export type DecidedEvent<Event> = Event | NewTypedEvent<Event>

/** What a command decides: the events that come next, if any. */
export type Decided<Event, E, R> =
  | ReadonlyArray<DecidedEvent<Event>>
  | Effect.Effect<ReadonlyArray<DecidedEvent<Event>>, E, R>

/** What `execute` of a decision takes beside the command. */
export interface ExecuteOptions {
  /**
   * Names this execution, so that it takes effect once: a call with the same key gives the events of the first success,
   * however often and from wherever it is made. The decision needs a name then.
   */
  readonly key?: string
  /** When a decision that was overtaken is made again, instead of as the decision says. */
  readonly retry?: Schedule.Schedule<unknown>
  /** The metadata of the events. */
  readonly metadata?: Schema.JsonObject
}

/** What came of a command. */
export interface Executed<State, Event> {
  /** The state that was decided upon. Where the events were found by their key: a state that was read after them. */
  readonly state: State
  /** The events of the command, as stored: none where it has decided upon none. */
  readonly events: ReadonlyArray<TypedEvent<Event>>
}

/** A decision: see `make`. `Out` is what the events of its view are when they are read. */
export interface Decision<in Command, out State, out Event, out E = never, out R = never> {
  /** The state upon which the command would be decided now. */
  readonly load: (command: Command) => Effect.Effect<State, InvalidInput | StoreError, R | EventStore>

  /**
   * Executes a command: reads what its query describes, folds it, decides, and appends what was decided if nothing relevant
   * has come. Otherwise it begins again, by the schedule `retry`.
   *
   * **Details**
   *
   * A decision without events is not compared with what has come meanwhile. With a `key`, the events get ids that follow from the
   * names of the decision and of the key. A call that finds them gives them back, and does not decide.
   *
   * In a transaction of the caller it is a part of that: what the caller writes, with the stores or with SQL of its own, commits
   * together with the events. After `ConditionFailed` the decision alone is made again there, on what others have committed
   * meanwhile; what `decide` itself had written is undone before that. This is right where the caller's own writes do not matter
   * to it: where none of them follows from something that the caller had read, and that others may have changed. Otherwise give
   * `retry: Schedule.recurs(0)`, and run the whole transaction again. No other failure is tried again there: `DuplicateEvent` says
   * that the same key was executed meanwhile, and what the caller has written for it would be there twice. Roll back, and call
   * again.
   *
   * **Gotchas**
   *
   * `decide` may be called several times, each time on the state of then. What it does beside deciding can happen as often.
   */
  readonly execute: (
    command: Command,
    options?: ExecuteOptions
  ) => Effect.Effect<
    Executed<State, Event>,
    E | ConditionFailed | LogReplaced | VersionConflict | DuplicateEvent | InvalidInput | StoreError,
    R | EventStore | Transactor
  >
}

interface Deciding<Command, State, Class extends Tagged, Other, R, Id, Tag extends string, E, R2> {
  /** The name of the decision: executions with a `key` need it. */
  readonly name?: string
  /** The events that are decided. */
  readonly events: TypedView<Class, Other, R, Id, Tag>
  /**
   * The events that come next, if any. An event belongs to the aggregate that its first tag names, unless it is given with
   * another one: `{ aggregateId, event }`.
   */
  readonly decide: (state: State, command: Command) => Decided<Class["Type"], E, R2>
  /**
   * When a decision that was overtaken is made again: 10 times, after some 2 milliseconds at first and twice as long each
   * time, unless given.
   */
  readonly retry?: Schedule.Schedule<unknown>
}

const Execution = Schema.Struct({ name: Identifier(255), key: Identifier(255) })

/** The id of an event of a keyed command. */
const idOf = (name: string, key: string, index: number) =>
  derivedId(["effect-strata/Decision", name, key, String(index)])

const hasTag = (value: object): value is { readonly _tag: string } => "_tag" in value

const isGiven = <Event extends { readonly _tag: string }>(event: DecidedEvent<Event>): event is NewTypedEvent<Event> =>
  !hasTag(event)

type Failure = ConditionFailed | LogReplaced | VersionConflict | DuplicateEvent | InvalidInput

/** What an attempt to execute a command fails with, besides `StoreError` and lost races. */
type Ended<E> = DecideFailed<E> | Failure

/** Fails with the error, as one of all that an attempt can fail with. */
const lost = <E>(
  error: LostRace<Ended<E>> | Ended<E> | StoreError
): Effect.Effect<never, LostRace<Ended<E>> | Ended<E> | StoreError> => Effect.fail(error)

const readFor = Effect.fnUntraced(function* <Command, State, R>(model: Model<Command, State, R>, command: Command) {
  if (model.issues.length > 0) {
    return yield* new InvalidInput({ store: "Decision", operation: "execute", issues: model.issues })
  }
  const store = yield* EventStore
  const { condition, events, items } = yield* Effect.mapError(
    store.readForDecision(model.query(command)),
    named("Decision", "execute", { items: "query" })
  )
  const matched = events.map((stored, index) => ({ stored, items: items[index] ?? [] }))
  const state = yield* Effect.mapError(
    model.fold(command, matched),
    (reason) => new StoreError({ store: "Decision", operation: "execute", reason })
  )
  return { condition, events, state }
})

/**
 * A decision: with the `query`, `initial` and `evolve` of a model of its own, or with the `model` that `model` or `all` has made.
 */
export function make<
  Command,
  State,
  Class extends Tagged,
  Other,
  R,
  Id,
  Tag extends string,
  E = never,
  R2 = never,
  RM = never
>(
  options: Deciding<Command, State, Class, Other, R, Id, Tag, E, R2> &
    ({ readonly model: Model<Command, State, RM> } | ModelOptions<Command, State, Class, Other, R, Id, Tag>)
): Decision<
  Command,
  State,
  Class["Type"] | Other,
  E,
  Class["DecodingServices"] | Class["EncodingServices"] | R | R2 | RM | Id
> {
  const { decide, events: view, name } = options
  const given: Model<Command, State, Class["DecodingServices"] | R | RM> =
    "model" in options ? options.model : model(options)
  const ofState = { ...given, issues: [...given.issues, ...notFunctions(options, { decide })] }

  const append = Effect.fnUntraced(function* (
    log: TypedEvents<Class, Other, R, Tag>,
    events: ReadonlyArray<DecidedEvent<Class["Type"]>>,
    condition: Condition,
    { key, metadata }: ExecuteOptions
  ) {
    const added = yield* Effect.forEach(events, (one, index) =>
      Effect.gen(function* () {
        const given = isGiven(one) ? one : { aggregateId: view.tagsOf(one)[0] ?? "", event: one }
        const id = name === undefined || key === undefined ? {} : { id: yield* idOf(name, key, index) }
        return Object.assign(metadata === undefined ? {} : { metadata }, given, id)
      })
    )
    return yield* log
      .appendAll(added, { condition })
      .pipe(Effect.catchTag("ConditionFailed", (error) => Effect.fail(new LostRace(error))))
  })

  /** The events of this execution, if it was made before. */
  const executed = (log: TypedEvents<Class, Other, R, Tag>, key: string | undefined) =>
    name === undefined || key === undefined
      ? Effect.succeed([])
      : executedBefore(log, (index) => idOf(name, key, index))

  const once = Effect.fnUntraced(function* (
    log: TypedEvents<Class, Other, R, Tag>,
    command: Command,
    options: ExecuteOptions
  ) {
    // The state is read first: then it cannot have events of this execution that the search does not find.
    const { condition, events: read, state } = yield* readFor(ofState, command)
    const found = yield* executed(log, options.key)
    const last = found.at(-1)
    if (last !== undefined) {
      const isNewEnough = read.some(({ version }) => version === last.version)
      return { state: isNewEnough ? state : (yield* readFor(ofState, command)).state, events: found }
    }
    const added = yield* decided(decide(state, command))
    const events = added.length === 0 ? [] : yield* append(log, added, condition, options)
    return { state, events }
  })

  const attempt = Effect.fnUntraced(function* (command: Command, options: ExecuteOptions) {
    const { inTransaction, withTransaction } = yield* Transactor
    const log = yield* view
    const attempted = once(log, command, options)
    // Each attempt is a savepoint: what `decide` has written goes with it. What the caller has written for a key that was executed
    // meanwhile would stay, so the caller gets that failure.
    if (yield* inTransaction) return yield* withTransaction(attempted)
    // A failure may come from what the same execution has written at the same time: the next attempt finds that.
    return yield* Effect.catch(attempted, (error) => {
      if (error instanceof LostRace || error instanceof StoreError) return lost<E>(error)
      return Effect.flatMap(executed(log, options.key), ({ length }) =>
        lost<E>(length === 0 ? error : new LostRace(error))
      )
    })
  })

  return {
    load: (command) =>
      Effect.mapBoth(readFor(ofState, command), {
        onSuccess: ({ state }) => state,
        onFailure: named("Decision", "load")
      }),
    execute: (command, given = {}) =>
      Effect.andThen(
        given.key === undefined
          ? Effect.void
          : check(Execution, "Decision", "execute", { name: name ?? "", key: given.key }),
        execute("Decision", attempt(command, given), given.retry ?? options.retry ?? defaultRetry)
      )
  }
}
