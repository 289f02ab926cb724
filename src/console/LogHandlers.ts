/** The log, as the API has it. */
import { DateTime, Effect, Option } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import { EventStore, Filter, type StoredEvent } from "../EventStore.ts"
import type { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import type { Stores } from "../postgres/index.ts"
import * as AggregateHistory from "./AggregateHistory.ts"
import { Api } from "./api/Api.ts"
import { BadRequest, NotThere } from "./api/Fields.ts"
import { eventOf } from "./EventView.ts"
import { answered } from "./Failures.ts"
import { decodeJson, decodeObject, jsonOf } from "./GivenJson.ts"
import * as LogContent from "./LogContent.ts"
import * as LogPages from "./LogPages.ts"
import * as MessageById from "./MessageById.ts"
import { Settings, whereShown } from "./Settings.ts"

/** How many events a page has unless it is asked for others. */
const pageEvents = 100

/** How many types and aggregates are named unless others are asked for. */
const topGroups = 10

interface Asked {
  readonly aggregate?: string
  readonly type?: string
  readonly tag?: string
  readonly data?: string
  readonly metadata?: string
  readonly createdAfter?: string
}

const timeOf = (text: string) =>
  Effect.fromOption(DateTime.make(text), () => new BadRequest({ message: `"${text}" is no time` }))

const sinceOf = (createdAfter: string | undefined) =>
  createdAfter === undefined ? Effect.succeedNone : Effect.map(timeOf(createdAfter), Option.some)

/** The filter that a request describes. */
const filterOf = Effect.fnUntraced(function* (asked: Asked, settings: Settings) {
  if (asked.data !== undefined || asked.metadata !== undefined) {
    yield* whereShown(settings, "this console hides what events contain, so it does not look for it")
  }
  const filter = {
    ...(asked.aggregate === undefined ? {} : { aggregateIds: [asked.aggregate] }),
    ...(asked.type === undefined ? {} : { eventTypes: [asked.type] }),
    ...(asked.tag === undefined ? {} : { tags: [asked.tag] }),
    ...(asked.data === undefined ? {} : { data: yield* jsonOf("data", asked.data, decodeJson) }),
    ...(asked.metadata === undefined ? {} : { metadata: yield* jsonOf("metadata", asked.metadata, decodeObject) }),
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

interface Looks {
  readonly pages: LogPages.LogPages
  readonly messageById: Effect.Success<typeof MessageById.make>
}

const detailOf = Effect.fnUntraced(function* ({ messageById, pages }: Looks, settings: Settings, event: StoredEvent) {
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
    causedByMessage: causationId === null || Option.isSome(cause) ? null : yield* messageById(causationId),
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
    const messageById = yield* MessageById.make
    const store = yield* EventStore
    const stores = yield* Effect.context<Stores | PostgresDatabase>()
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
        answered(Effect.flatMap(eventWith(pages, query), (event) => detailOf({ messageById, pages }, settings, event))),
      aggregate: ({ query: { id } }) =>
        answered(Effect.provideContext(AggregateHistory.of(pages, settings, entities, id), stores)),
      stats: ({ query: { createdAfter, top = topGroups } }) =>
        answered(
          Effect.flatMap(sinceOf(createdAfter), (since) => Effect.provideContext(LogContent.stats(since, top), stores))
        ),
      export: ({ query: { after = 0n } }) =>
        answered(
          Effect.andThen(
            whereShown(settings, "this console hides what events contain, so it exports none"),
            Effect.provideContext(LogContent.file(after), stores)
          )
        )
    })
  })
)
