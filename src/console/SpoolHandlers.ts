/** The spool, as the API has it. */
import { Effect, Option } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import { EventStore } from "../EventStore.ts"
import { toText } from "../internal/ExactJson.ts"
import { type SpoolMessage, SpoolStore } from "../SpoolStore.ts"
import { Api } from "./api/Api.ts"
import { eventOf } from "./EventView.ts"
import { answered } from "./Failures.ts"
import * as LogPages from "./LogPages.ts"
import { Settings, stored } from "./Settings.ts"
import { messageOf, queueOf } from "./SpoolView.ts"

/** How many messages a page has unless it is asked for others. */
const pageMessages = 100

const detailOf = Effect.fnUntraced(function* (settings: Settings, message: SpoolMessage) {
  const { causationId = null, correlationId = null } = message.headers
  const cause = causationId === null ? Option.none() : yield* LogPages.withId(causationId)
  return {
    message: messageOf(settings, message),
    headers: stored(settings, toText(message.headers)),
    payload: message.payload === undefined ? null : stored(settings, toText(message.payload)),
    causationId,
    causedBy: Option.getOrNull(Option.map(cause, (event) => eventOf(settings, event))),
    correlationId
  }
})

export const layer = HttpApiBuilder.group(
  Api,
  "spool",
  Effect.fnUntraced(function* (handlers) {
    const settings = yield* Settings
    const spool = yield* SpoolStore
    const events = yield* EventStore
    return handlers.handleAll({
      queues: () => answered(Effect.map(spool.overview, (all) => all.map(queueOf))),
      messages: ({ query: { limit = pageMessages, offset = 0, queue, state } }) =>
        answered(
          Effect.map(
            spool.listMessages(state, {
              ...(queue === undefined ? {} : { queue }),
              sortBy: "created",
              sortOrder: "desc",
              limit,
              offset
            }),
            ({ hasMore, messages }) => ({ hasMore, messages: messages.map((one) => messageOf(settings, one)) })
          )
        ),
      message: ({ query }) =>
        answered(
          Effect.flatMap(spool.getMeta(query), (message) => detailOf(settings, message)).pipe(
            Effect.provideService(EventStore, events)
          )
        )
    })
  })
)
