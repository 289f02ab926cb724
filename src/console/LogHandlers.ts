/** The log, as the API has it. */
import { DateTime, Effect, Option, type Result, Schema } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import { EventStore, Filter, type StoredEvent } from "../EventStore.ts"
import { exactJson } from "../internal/ExactJson.ts"
import { SafeJson, SafeJsonObject } from "../internal/SafeJson.ts"
import type { Stores } from "../postgres/index.ts"
import * as AggregateHistory from "./AggregateHistory.ts"
import { Api } from "./api/Api.ts"
import { BadRequest, NotThere } from "./api/Fields.ts"
import { eventOf } from "./EventView.ts"
import { answered } from "./Failures.ts"
import * as LogPages from "./LogPages.ts"
import { Settings } from "./Settings.ts"

/** How many events a page has unless it is asked for others. */
const pageEvents = 100

const decodeData = Schema.decodeUnknownResult(exactJson("bigint").pipe(Schema.decodeTo(SafeJson)))
const decodeMetadata = Schema.decodeUnknownResult(exactJson("bigint").pipe(Schema.decodeTo(SafeJsonObject)))

interface Asked {
  readonly aggregate?: string
  readonly type?: string
  readonly tag?: string
  readonly data?: string
  readonly metadata?: string
  readonly createdAfter?: string
}

const jsonOf = <A, E>(name: string, text: string, decode: (text: string) => Result.Result<A, E>) =>
  Effect.mapError(Effect.fromResult(decode(text)), () => new BadRequest({ message: `${name} is no JSON to look for` }))

const timeOf = (text: string) =>
  Effect.fromOption(DateTime.make(text), () => new BadRequest({ message: `"${text}" is no time` }))

/** The filter that a request describes. Nobody can guess from the answers what is hidden. */
const filterOf = Effect.fnUntraced(function* (asked: Asked, { showPayloads }: Settings) {
  if (!showPayloads && (asked.data !== undefined || asked.metadata !== undefined)) {
    return yield* new BadRequest({ message: "this console hides what events contain, so it does not look for it" })
  }
  const filter = {
    ...(asked.aggregate === undefined ? {} : { aggregateIds: [asked.aggregate] }),
    ...(asked.type === undefined ? {} : { eventTypes: [asked.type] }),
    ...(asked.tag === undefined ? {} : { tags: [asked.tag] }),
    ...(asked.data === undefined ? {} : { data: yield* jsonOf("data", asked.data, decodeData) }),
    ...(asked.metadata === undefined ? {} : { metadata: yield* jsonOf("metadata", asked.metadata, decodeMetadata) }),
    ...(asked.createdAfter === undefined ? {} : { createdAfter: yield* timeOf(asked.createdAfter) })
  }
  return yield* Effect.try({
    try: () => new Filter(filter),
    catch: () => new BadRequest({ message: "a filter is empty, or too long" })
  })
})

const textAt = (event: StoredEvent, key: string): string | null => {
  const value = event.metadata?.[key]
  return typeof value === "string" ? value : null
}

const detailOf = Effect.fnUntraced(function* (pages: LogPages.LogPages, settings: Settings, event: StoredEvent) {
  const causationId = textAt(event, "causationId")
  const [tags, neighbours, caused, cause] = yield* Effect.all(
    [
      pages.tagsOf(event.version),
      pages.neighboursOf(event),
      pages.causedBy(event),
      causationId === null ? Effect.succeedNone : pages.withId(causationId)
    ],
    { concurrency: "unbounded" }
  )
  return {
    event: eventOf(settings, event),
    tags,
    causationId,
    correlationId: textAt(event, "correlationId"),
    causedBy: Option.match(cause, { onNone: () => null, onSome: (one) => eventOf(settings, one) }),
    caused: caused.events.map((one) => eventOf(settings, one)),
    causedUpTo: caused.upTo,
    ...neighbours
  }
})

const eventWith = Effect.fnUntraced(function* (
  pages: LogPages.LogPages,
  { id, version }: { readonly id?: string; readonly version?: bigint }
) {
  if (version === undefined && id === undefined) {
    return yield* new BadRequest({ message: "give the version of an event, or its id" })
  }
  const found = version === undefined ? yield* pages.withId(id ?? "") : yield* pages.at(version)
  const name = version === undefined ? `no event has the id "${id}"` : `no event has the version ${version}`
  return yield* Effect.fromOption(found, () => new NotThere({ message: name }))
})

export const layer = HttpApiBuilder.group(
  Api,
  "log",
  Effect.fnUntraced(function* (handlers) {
    const settings = yield* Settings
    const pages = yield* LogPages.make
    const store = yield* EventStore
    const stores = yield* Effect.context<Stores>()
    const entities = yield* Effect.all(settings.entities)
    return handlers.handleAll({
      events: ({ query: { before, limit = pageEvents, ...asked } }) =>
        answered(
          Effect.gen(function* () {
            const filter = yield* filterOf(asked, settings)
            const latestVersion = yield* store.latestVersion
            const page = yield* pages.before(filter, before, latestVersion, limit)
            return { ...page, events: page.events.map((event) => eventOf(settings, event)), latestVersion }
          })
        ),
      event: ({ query }) =>
        answered(Effect.flatMap(eventWith(pages, query), (event) => detailOf(pages, settings, event))),
      aggregate: ({ query: { id } }) =>
        answered(Effect.provideContext(AggregateHistory.of(pages, settings, entities, id), stores))
    })
  })
)
