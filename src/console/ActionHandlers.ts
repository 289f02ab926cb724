/** Changes, as the API has them: by the same code as those of the command, and each logged with who has made it. */
import { type DateTime, Duration, Effect, Stream } from "effect"
import type { HttpServerRequest } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import type { DurableStateStore } from "../DurableStateStore.ts"
import type { EventStore } from "../EventStore.ts"
import type { OffsetStore } from "../OffsetStore.ts"
import * as Projection from "../Projection.ts"
import * as Orders from "../spool/Orders.ts"
import { SpoolStore } from "../SpoolStore.ts"
import type { Transactor } from "../Transactor.ts"
import type { MessageAction, ProjectionAction } from "./api/ActionsApi.ts"
import { Api } from "./api/Api.ts"
import { answered } from "./Failures.ts"
import { decodeJson, jsonOf } from "./GivenJson.ts"
import { Live } from "./Live.ts"
import { ProofRun } from "./ProofRun.ts"
import { Settings, whereShown } from "./Settings.ts"

/** How long a change waits for the processes that run a projection. They go on with it afterwards, too. */
const patience = Duration.seconds(5)

type Stores = DurableStateStore | EventStore | OffsetStore | SpoolStore | Transactor

interface Message {
  readonly action: typeof MessageAction.Type
  readonly id: string
  readonly queue: string | null
}

const nameOf = ({ id, queue }: Omit<Message, "action">) =>
  queue === null ? `message "${id}"` : `message "${id}" of queue "${queue}"`

const changeMessage = Effect.fnUntraced(function* ({ action, id, queue }: Message) {
  const key = queue === null ? { id } : { id, queue }
  const name = nameOf({ id, queue })
  switch (action) {
    case "requeue":
      yield* Orders.requeue(key)
      return `The ${name} is incoming`
    case "delete":
      yield* SpoolStore.use(({ deleteMeta }) => deleteMeta(key))
      return `The ${name} is deleted`
    default:
      yield* Orders.move(key, Orders.moves[action])
      return `The ${name} is ${Orders.moves[action].to}`
  }
})

interface Edit extends Omit<Message, "action"> {
  readonly json: string
  readonly updated: DateTime.Utc
}

const editPayload = Effect.fnUntraced(function* ({ id, json, queue, updated }: Edit, settings: Settings) {
  // Whoever may not see what is there would put something else in its place blindly.
  yield* whereShown(settings, "this console hides payloads, so it does not change them")
  const payload = yield* jsonOf("the payload", json, decodeJson)
  yield* Orders.requeueWith(queue === null ? { id } : { id, queue }, payload, updated)
  return `The ${nameOf({ id, queue })} has another payload, and is incoming`
})

interface Requeue {
  readonly state: (typeof Orders.deliverable)[number]
  readonly queue?: string
  readonly error?: string
  readonly createdAfter?: DateTime.Utc
}

const requeueAll = Effect.fnUntraced(function* ({ createdAfter, error, ...wanted }: Requeue, settings: Settings) {
  if (error !== undefined) {
    yield* whereShown(settings, "this console hides errors, so it does not look for them")
  }
  const hasError = error === undefined ? () => true : Orders.hasError(error)
  const isYounger = createdAfter === undefined ? () => true : Orders.isYounger(createdAfter)
  return yield* Orders.requeueAll({ ...wanted, isWanted: (message) => hasError(message) && isYounger(message) }).pipe(
    Stream.runFold(
      () => 0,
      (count, isMoved) => count + (isMoved ? 1 : 0)
    ),
    Effect.map((count) =>
      count === 1 ? "1 message is incoming" : `${count.toLocaleString("en-US")} messages are incoming`
    )
  )
})

interface OfProjection {
  readonly action: typeof ProjectionAction.Type
  readonly name: string
  readonly to?: bigint
  readonly aggregates?: ReadonlyArray<string>
}

const retry = Effect.fnUntraced(function* (name: string, aggregates: ReadonlyArray<string> | undefined) {
  const results = yield* Projection.retryParked(name, patience, aggregates)
  const count = (state: Projection.Retried["state"]) => results.filter((result) => result.state === state).length
  return (
    `Of ${results.length} parked aggregates of "${name}", ${count("handled")} are handled, ${count("parked")} have failed again, ` +
    `and ${count("waiting")} wait for a process that runs it`
  )
})

/** The log that is there is the one of the projection from now on, if it was another one. */
const accept = Effect.fnUntraced(function* (name: string) {
  const isSame = yield* Projection.verify(name).pipe(
    Effect.as(true),
    Effect.catchTag("LogReplaced", () => Effect.succeed(false))
  )
  if (isSame) return `"${name}" has read this log: there was nothing to accept`
  const shards = yield* Projection.accept(name)
  const lowest = shards.reduce((low, { after }) => (after < low ? after : low), shards[0]?.after ?? 0n)
  return `"${name}" goes on after version ${lowest}`
})

const changeProjection = Effect.fnUntraced(function* ({ action, aggregates, name, to = 0n }: OfProjection) {
  switch (action) {
    case "pause":
      yield* Projection.pause(name)
      return `"${name}" is paused`
    case "resume":
      yield* Projection.resume(name)
      return `"${name}" goes on`
    case "reset":
      yield* Projection.reset(name, to)
      return `"${name}" goes on after version ${to}`
    case "accept":
      return yield* accept(name)
    case "remove":
      yield* Projection.remove(name)
      return `"${name}" is removed`
    case "retry":
      return yield* retry(name, aggregates)
    case "rebuild":
      return (yield* Projection.askRebuild(name, patience))
        ? `The read model of "${name}" is being built anew`
        : `A rebuild of "${name}" is asked for: the next process that runs it begins`
  }
})

export const layer = HttpApiBuilder.group(
  Api,
  "actions",
  Effect.fnUntraced(function* (handlers) {
    const settings = yield* Settings
    const { who } = settings
    const { hurry } = yield* Live
    const proof = yield* ProofRun
    const stores = yield* Effect.context<Stores>()

    /** Makes a change, says in the log who has made it, and has pages see it at once. */
    const made = <E extends Error & { readonly _tag: string }>(
      request: HttpServerRequest.HttpServerRequest,
      change: Effect.Effect<string, E, Stores>
    ) =>
      Effect.gen(function* () {
        const name = (yield* who(request)) ?? "somebody"
        const message = yield* answered(Effect.provideContext(change, stores)).pipe(
          Effect.tapError((error) => Effect.logInfo(`console: ${name} could not: ${error.message}`))
        )
        yield* Effect.logInfo(`console: ${name}: ${message}`)
        yield* hurry
        return { message }
      })

    return handlers.handleAll({
      changeMessage: ({ payload, request }) => made(request, changeMessage(payload)),
      editPayload: ({ payload, request }) => made(request, editPayload(payload, settings)),
      requeue: ({ payload, request }) => made(request, requeueAll(payload, settings)),
      prove: ({ payload: { seconds }, request }) => {
        const time = Duration.seconds(seconds)
        return made(
          request,
          Effect.as(proof.start(time, Duration.toMillis(time)), `The proof runs for ${Duration.format(time)}`)
        )
      },
      changeProjection: ({ payload, request }) => made(request, changeProjection(payload))
    })
  })
)
