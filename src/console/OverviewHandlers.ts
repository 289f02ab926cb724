/** The overview, as the API has it. */
import { Effect } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import { Api } from "./api/Api.ts"
import { answered } from "./Failures.ts"
import { Live } from "./Live.ts"
import * as Pulse from "./Pulse.ts"
import { Settings } from "./Settings.ts"

export const layer = HttpApiBuilder.group(
  Api,
  "overview",
  Effect.fnUntraced(function* (handlers) {
    const { allowWrites, showPayloads, who } = yield* Settings
    const { about } = yield* Pulse.make
    const { history, moments } = yield* Live
    return handlers.handleAll({
      about: ({ request }) =>
        answered(
          Effect.map(Effect.all([about, who(request)]), ([server, name]) => ({
            ...server,
            allowsWrites: allowWrites,
            showsPayloads: showPayloads,
            who: name ?? null
          }))
        ),
      history: () => history,
      live: () => Effect.succeed(moments)
    })
  })
)
