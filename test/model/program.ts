/**
 * Random programs over the contracts, and what can be observed of them: three sessions, each a fiber with transactions,
 * savepoints and the operations of the stores, driven in lockstep so that a program has one interleaving.
 */
import { Arbitrary, Cause, Deferred, Effect, Exit, Option, Queue, Schema, Stream } from "effect"
import {
  DurableStateStore,
  EventStore,
  OffsetStore,
  SpoolStore,
  StateCodec,
  StoreError,
  Transactor
} from "effect-strata"
import * as Decisions from "./decisions.ts"

// Few rows and values, so that sessions meet.
const Shard = Schema.Literals([0, 1])
const Value = Schema.Literals([0, 1, 2])
const Aggregate = Schema.Literals(["x", "y"])
const Entity = Schema.Literals(["e", "f"])
const Message = Schema.Literals(["a", "b", "c"])
const State = Schema.Literals(["incoming", "active", "deferred", "hold"])

const command = <Name extends string, Fields extends Schema.Struct.Fields>(name: Name, fields: Fields) =>
  Schema.Struct({ command: Schema.Literal(name), ...fields })

const transactions = [
  command("begin", {}),
  command("begin", {}),
  command("commit", {}),
  command("rollback", {})
] as const

// `seen`: the version of the last event that this session has seen of the aggregate.
const Append = command("append", { aggregate: Aggregate, expected: Schema.Literals(["any", "none", "some", "seen"]) })
const History = command("history", { aggregate: Aggregate })

const Command = Schema.Union([
  ...transactions,
  command("write", { shard: Shard, value: Value }),
  command("advance", { shard: Shard, from: Schema.OptionFromNullOr(Value), value: Value }),
  command("get", { shard: Shard }),
  command("list", {}),
  command("reset", { value: Value }),
  command("delete", {}),
  Append,
  History,
  ...Decisions.commands,
  command("store", { message: Message, priority: Schema.Literals([1, 2]), deferred: Schema.Boolean }),
  command("store many", {}),
  command("move", { message: Message, from: State, to: State }),
  // `fresh`: if it is as this session has seen it last.
  command("update", { message: Message, priority: Schema.Literals([1, 2]), fresh: Schema.Boolean }),
  command("remove", { message: Message }),
  command("look", { message: Message }),
  command("claim", { limit: Schema.Literals([1, 2]), lasting: Schema.Boolean }),
  command("settle", { outcome: Schema.Literals(["done", "archived", "deferred", "bounced", "held", "released"]) }),
  command("heartbeat", {}),
  command("recover", {}),
  command("messages", {}),
  command("put", { entity: Entity, version: Value, value: Value, onDuplicate: Schema.Literals(["ignore", "fail"]) }),
  command("overwrite", { entity: Entity, version: Value, value: Value }),
  command("modify", { entity: Entity }),
  command("state", { entity: Entity }),
  command("states", {}),
  command("forget", { entity: Entity })
])
type Command = typeof Command.Type

export const sessions = [0, 1, 2] as const

/** What one session is to do next. */
export const Step = Schema.Struct({ session: Schema.Literals(sessions), command: Command })

/** The same of decisions alone, so that they meet more often. */
const DecisionStep = Schema.Struct({
  session: Schema.Literals(sessions),
  command: Schema.Union([...transactions, Append, History, ...Decisions.commands, ...Decisions.often])
})

/** A program, made for shrinking: every sequence of steps is one, and a step that makes no sense does nothing. */
const programOf = <S extends typeof Step.Type>(step: Schema.Schema<S>) =>
  Arbitrary.array(Arbitrary.schema(step), { minLength: 10, maxLength: 60 })

export const Program = programOf(Step)
export const DecisionProgram = programOf(DecisionStep)
export type Program = ReadonlyArray<typeof Step.Type>

/** A backend under observation. */
export interface Backend {
  /** Runs an effect as one of the sessions. */
  readonly provide: (session: number) => <A, E>(effect: Effect.Effect<A, E, Services>) => Effect.Effect<A, E>
  /** How many sessions wait for a row of another one, or that some of them do so in a circle. */
  readonly waiting: Effect.Effect<number | "deadlock">
}

class Rollback extends Schema.TaggedError<Rollback>("strata-test/Rollback")("Rollback", {}) {}

const counters = DurableStateStore.typed({
  codec: StateCodec.json(Schema.Int, { manifest: "count" }),
  initial: () => 0
})

const shown = ({ payload, versionNumber }: DurableStateStore.DurableState) =>
  `${versionNumber}: ${new TextDecoder().decode(payload)}`

const stateOf = (persistenceId: string, { value, version }: { readonly value: number; readonly version: number }) => ({
  persistenceId,
  versionNumber: BigInt(version),
  payload: new TextEncoder().encode(String(value)),
  manifest: "count"
})

const describe = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) return String(exit.value)
  const error = Option.getOrUndefined(Exit.findErrorOption(exit))
  if (error instanceof Rollback) return "rolled back"
  if (error instanceof StoreError.StoreError) return error.reason._tag
  if (error instanceof SpoolStore.StateConflict) return `is ${error.actual}`
  if (error instanceof SpoolStore.UpdateConflict) return "has changed"
  if (error instanceof SpoolStore.MessageNotFound) return "not found"
  if (error instanceof SpoolStore.MessageExists) return "exists"
  if (error instanceof SpoolStore.IdConflict) return `taken by ${error.takenBy}`
  if (error instanceof EventStore.DuplicateEvent) return `stored already: ${error.id.slice(-1)}`
  if (error instanceof EventStore.EventNotFound) return "no such event"
  if (error instanceof EventStore.VersionConflict) return `conflict with ${error.aggregateId.slice(-1)}`
  if (error instanceof DurableStateStore.StaleState) return `stale: ${shown(error.current)}`
  if (error instanceof OffsetStore.OffsetConflict)
    return `conflict with ${Option.getOrElse(error.actual, () => "none")}`
  return Cause.pretty(exit.cause)
}

const describeMessage = ({ attempts, id, lastError, priority, state }: SpoolStore.SpoolMessage) =>
  `${id.slice(-1)} ${state} ${attempts} ${priority} ${lastError.slice(0, 5)}`

const describeMessages = Effect.fnUntraced(function* (queue: string) {
  const spool = yield* SpoolStore.SpoolStore
  const states = ["incoming", "active", "deferred", "hold", "bounce", "archived"] as const
  const found = yield* Effect.forEach(states, (state) => Stream.runCollect(spool.iterate(state, { queue })))
  return found.flat().map(describeMessage).join()
})

// With deeper savepoints, memory may let a waiter go earlier than Postgres. A row can be written in a savepoint that is
// released into another one, which is then undone: on Postgres its waiters wait until the whole transaction has ended.
const deepest = 2

/** The last observation of a program that went no further: sessions waited for each other, or two of them waited. */
export const undecided = "undecided"

interface Request {
  readonly command: Command
  readonly answer: Deferred.Deferred<string>
}

/** One session: does what it is asked, and answers each request once it is done. */
const session = (run: string, id: number, requests: Queue.Dequeue<Request>, shared: Decisions.Shared) => {
  const seen = new Map<string, bigint>()
  let appended = 0
  const updated = new Map<string, SpoolStore.SpoolMessage["updated"]>()
  let leases: ReadonlyArray<{ readonly id: string; readonly owner: string; readonly attempt: number }> = []
  let claims = 0

  const decisionOperation = Decisions.operations(run, id, shared, seen)
  const messageId = (message: string) => `${run} ${message}`
  const nameOf = ({ id }: { readonly id: string }) => id.slice(-1)

  const operation = Effect.fnUntraced(function* (command: Command) {
    const offsets = yield* OffsetStore.OffsetStore
    const states = yield* DurableStateStore.DurableStateStore
    switch (command.command) {
      case "write":
        return yield* offsets.writeOffset({
          projectionName: run,
          shardNumber: command.shard,
          value: BigInt(command.value)
        })
      case "advance": {
        const step = { from: Option.map(command.from, BigInt), to: BigInt(command.value) }
        const moved = yield* offsets.advanceOffset({ projectionName: run, shardNumber: command.shard }, step)
        return moved.value
      }
      case "get": {
        const offset = yield* offsets.getCurrentOffset({ projectionName: run, shardNumber: command.shard })
        return Option.getOrElse(
          Option.map(offset, ({ value }) => value),
          () => "none"
        )
      }
      case "list": {
        const listed = yield* Stream.runCollect(offsets.listOffsets(run))
        return listed.map(({ shardNumber, value }) => `${shardNumber}:${value}`).join(" ")
      }
      case "reset":
        return yield* offsets.resetOffset(run, BigInt(command.value))
      case "delete":
        return yield* offsets.deleteOffsets(run)
      case "append": {
        const events = yield* EventStore.EventStore
        const aggregateId = `${run} ${command.aggregate}`
        const expected = command.expected === "seen" ? (seen.get(aggregateId) ?? 0n) : command.expected
        const data = `${id}/${appended++}`
        const stored = yield* events.append({ aggregateId, eventType: "Stepped", data }, { expected })
        for (const { version } of stored) seen.set(aggregateId, version)
        return data
      }
      case "history": {
        const events = yield* EventStore.EventStore
        const aggregateId = `${run} ${command.aggregate}`
        const stored = yield* events.loadByAggregate(aggregateId)
        for (const { version } of stored) seen.set(aggregateId, version)
        return stored.map(Decisions.nameOf).join(" ")
      }
      case "tag":
      case "ask":
      case "decide":
      case "repeat":
      case "tag afterwards":
      case "tag all":
      case "take back":
        return yield* decisionOperation(command)
      case "put":
        return yield* states.writeState(stateOf(`${run} ${command.entity}`, command), command)
      case "overwrite":
        return yield* states.overwriteState(stateOf(`${run} ${command.entity}`, command))
      case "modify": {
        const { modify } = yield* counters
        const { value, versionNumber } = yield* modify(`${run} ${command.entity}`, (count) => count + 1)
        return `${versionNumber}: ${value}`
      }
      case "state": {
        const state = yield* states.getLatestState(`${run} ${command.entity}`)
        return Option.match(state, { onNone: () => "none", onSome: shown })
      }
      case "states": {
        const found = yield* states.getStates([`${run} f`, `${run} e`])
        return found.map(shown).join(", ")
      }
      case "forget":
        return yield* states.deleteState(`${run} ${command.entity}`)
      default:
        return yield* spoolOperation(command)
    }
  })

  const spoolOperation = Effect.fnUntraced(function* (command: Command) {
    const spool = yield* SpoolStore.SpoolStore
    const key = (message: string) => ({ queue: run, id: messageId(message) })
    // The ids of "b" and "c" stay taken.
    const messageOf = (message: string) => ({
      ...key(message),
      maxAttempts: 2,
      ...(message === "a" ? {} : { rememberId: "1 hour" as const })
    })
    switch (command.command) {
      case "store": {
        const { deferred, message, priority } = command
        return yield* spool.storeMeta({
          ...messageOf(message),
          priority,
          ...(deferred ? { delay: 0, payload: "later" } : {})
        })
      }
      case "store many":
        return (yield* spool.storeMany([messageOf("b"), messageOf("c")]))
          .map((error) => `${nameOf(error)} ${error._tag}`)
          .join()
      case "move":
        return yield* spool.moveToState(key(command.message), command.from, command.to)
      case "update": {
        const id = messageId(command.message)
        const ifUpdated = updated.get(id)
        const options = command.fresh && ifUpdated !== undefined ? { ifUpdated } : {}
        const message = yield* spool.updateMeta(key(command.message), { priority: command.priority }, options)
        updated.set(id, message.updated)
        return describeMessage(message)
      }
      case "remove":
        return yield* spool.deleteMeta(key(command.message))
      case "look": {
        const message = yield* spool.getMeta(key(command.message))
        updated.set(message.id, message.updated)
        return describeMessage(message)
      }
      case "claim": {
        const owner = `${id}/${++claims}`
        const lease = command.lasting ? "1 hour" : 0
        const messages = yield* spool.claim({ queue: run, limit: command.limit, lease, owner })
        leases = messages.map((message) => SpoolStore.leaseOf(message, owner))
        return messages.map(describeMessage).join()
      }
      case "settle": {
        const { outcome } = command
        const lost = yield* spool.settle(
          leases.map((lease) => Object.assign({ outcome, error: "no", delay: 0 }, lease))
        )
        return `${leases.map(nameOf).join()} lost ${lost.map(nameOf).join()}`
      }
      case "heartbeat":
        return (yield* spool.heartbeat(leases, 0)).map(nameOf).join()
      case "recover":
        return (yield* spool.recover({ queue: run })).map(describeMessage).join()
      case "messages":
        return yield* describeMessages(run)
      default:
        return "nothing to do"
    }
  })

  const isEnd = ({ command }: Request) => command.command === "commit" || command.command === "rollback"

  /** Serves requests up to the one that ends the transaction. */
  const serve = (depth: number): Effect.Effect<Request, never, Services> =>
    Effect.gen(function* () {
      while (true) {
        const request = yield* Queue.take(requests)
        if (request.command.command === "begin" && depth < deepest) yield* transaction(request, depth + 1)
        else if (isEnd(request) && depth > 0) return request
        else yield* Deferred.succeed(request.answer, describe(yield* Effect.exit(operation(request.command))))
      }
    })

  /** Answers `begin` inside of the transaction, and the request that ended it afterwards. */
  const transaction = (begin: Request, depth: number): Effect.Effect<void, never, Services> =>
    Effect.gen(function* () {
      const { withTransaction } = yield* Transactor.Transactor
      let last = begin
      const body = Effect.gen(function* () {
        yield* Deferred.succeed(begin.answer, "begun")
        last = yield* serve(depth)
        return last.command.command === "commit" ? "committed" : yield* new Rollback()
      })
      shared.open++
      const exit = yield* Effect.exit(withTransaction(body))
      shared.open--
      yield* Deferred.succeed(last.answer, describe(exit))
    })

  return serve(0)
}

type Services =
  | DurableStateStore.DurableStateStore
  | EventStore.EventStore
  | OffsetStore.OffsetStore
  | SpoolStore.SpoolStore
  | Transactor.Transactor

/** What is there in the end. */
const remaining = Effect.fnUntraced(function* (run: string) {
  const { listOffsets } = yield* OffsetStore.OffsetStore
  const { loadByAggregate, readForDecision } = yield* EventStore.EventStore
  const { listStates } = yield* DurableStateStore.DurableStateStore
  const offsets = yield* Stream.runCollect(listOffsets(run))
  const histories = yield* Effect.forEach(["x", "y"], (aggregate) => loadByAggregate(`${run} ${aggregate}`))
  const tagged = ["a", "b", "type"] as const
  const decided = yield* readForDecision(tagged.flatMap((about) => Decisions.itemsOf(run, about)))
  const states = yield* listStates().pipe(
    Stream.filter(({ persistenceId }) => persistenceId.startsWith(run)),
    Stream.runCollect
  )
  return [
    ...offsets.map(({ shardNumber, value }) => `${shardNumber} = ${value}`),
    ...states.map(
      ({ payload, persistenceId, versionNumber }) => `${persistenceId.slice(-1)} = ${versionNumber}: ${payload}`
    ),
    ...histories.map((events) => events.map(Decisions.nameOf).join(" ")),
    Decisions.describeRead(decided),
    yield* describeMessages(run)
  ]
})

const isOutside = (text: string) => text.endsWith("nothing to do")

/** Runs the program and returns what happened, in order, and the offsets that are there in the end. */
export const observe = (backend: Backend, run: string, program: Program): Effect.Effect<Array<string>> =>
  Effect.gen(function* () {
    const trace: Array<string> = []
    const pending = new Map<number, { readonly label: string; readonly answer: Deferred.Deferred<string> }>()
    const requests = yield* Effect.forEach(sessions, () => Queue.unbounded<Request>())
    const shared = yield* Effect.orDie(backend.provide(0)(Decisions.begin))
    yield* Effect.forEach(requests, (queue, id) =>
      Effect.forkScoped(backend.provide(id)(session(run, id, queue, shared)))
    )

    const unanswered = Effect.sync(
      () => [...pending.values()].filter(({ answer }) => !Deferred.isDoneUnsafe(answer)).length
    )

    /** Lets everything happen that can happen: then each session has answered, or waits for another one. */
    const settle = Effect.gen(function* () {
      while (true) {
        const before = yield* unanswered
        if (before === 0) return true
        const waiting = yield* backend.waiting
        if (waiting === "deadlock") return false
        if (before === waiting && before === (yield* unanswered)) return true
        yield* Effect.yieldNow
      }
    })

    /** Takes one step, unless its session waits; returns whether the program can go on. */
    const step = Effect.fnUntraced(function* (id: number, command: Command) {
      const queue = requests[id]
      if (queue === undefined || pending.has(id)) return true
      const label = `session ${id} ${JSON.stringify(command)}`
      const answer = Deferred.makeUnsafe<string>()
      pending.set(id, { label, answer })
      yield* Queue.offer(queue, { command, answer })
      const settled = yield* settle
      const answers: Array<string> = []
      for (const [other, request] of pending) {
        if (!Deferred.isDoneUnsafe(request.answer)) continue
        answers.push(`${request.label}: ${yield* Deferred.await(request.answer)}`)
        pending.delete(other)
      }
      // Which of two is chosen is the backend's business: the comparison ends with a deadlock, and with two that wait.
      if (!settled || pending.size > 1 || answers.some((text) => text.endsWith(": Contention"))) return false
      trace.push(...answers.toSorted())
      if (pending.has(id)) trace.push(`${label}: waits`)
      return true
    })

    for (const { command, session: id } of program) {
      if (!(yield* step(id, command))) return [...trace, undecided]
    }
    // Each session in turn rolls back what it has open, until no session has anything left to roll back.
    for (let round = trace.length; trace.slice(round).filter(isOutside).length < sessions.length;) {
      round = trace.length
      for (const id of sessions) {
        if (!(yield* step(id, { command: "rollback" }))) return [...trace, undecided]
      }
    }
    return [...trace, ...(yield* Effect.orDie(backend.provide(0)(remaining(run))))]
  }).pipe(Effect.scoped)
