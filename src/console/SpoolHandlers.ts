/** The spool, as the API has it. */
import { Effect } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import { toText } from "../internal/ExactJson.ts"
import { type SpoolMessage, SpoolStore } from "../SpoolStore.ts"
import { Api } from "./api/Api.ts"
import { answered } from "./Failures.ts"
import { Settings, stored } from "./Settings.ts"
import { messageOf, queueOf } from "./SpoolView.ts"

/** How many messages a page has unless it is asked for others. */
const pageMessages = 100

const detailOf = (settings: Settings, message: SpoolMessage) => ({
  message: messageOf(settings, message),
  headers: stored(settings, toText(message.headers)),
  payload: message.payload === undefined ? null : stored(settings, toText(message.payload)),
  causationId: message.headers["causationId"] ?? null,
  correlationId: message.headers["correlationId"] ?? null
})

export const layer = HttpApiBuilder.group(
  Api,
  "spool",
  Effect.fnUntraced(function* (handlers) {
    const settings = yield* Settings
    const spool = yield* SpoolStore
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
      message: ({ query }) => answered(Effect.map(spool.getMeta(query), (message) => detailOf(settings, message)))
    })
  })
)
