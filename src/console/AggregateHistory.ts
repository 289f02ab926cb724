/** The history of one aggregate: its newest events, each with the state after it as the application's entities make it. */
import { Effect, Result, Stream } from "effect"
import { EventStore, Filter } from "../EventStore.ts"
import { toText } from "../internal/ExactJson.ts"
import type { AggregateHistory } from "./api/LogApi.ts"
import { eventOf } from "./EventView.ts"
import type { LogPages } from "./LogPages.ts"
import { type KnownEntity, type Settings, stored } from "./Settings.ts"

/** How many of the events are shown. */
const shownEvents = 200

/** The state of a longer history is not folded: it would take more than a moment. */
const foldedEvents = 10_000

/** A state as JSON: what it says of itself, where it is no JSON. */
const textOf = (state: unknown): string => {
  try {
    return toText(JSON.parse(JSON.stringify(state, (_, value) => (typeof value === "bigint" ? String(value) : value))))
  } catch {
    return toText(String(state))
  }
}

interface Folded {
  readonly name: string
  /** The states after the newest events, by the version of these. */
  readonly states: ReadonlyMap<bigint, string>
  readonly failure: string | null
}

/** What an entity makes of an aggregate; nothing where it does not know the first event. */
const foldBy = Effect.fnUntraced(function* ({ history, name }: KnownEntity, aggregateId: string) {
  const states = new Map<bigint, unknown>()
  let count = 0
  const result = yield* history(aggregateId).pipe(
    Stream.take(foldedEvents + 1),
    Stream.runForEach(({ event, state }) =>
      Effect.sync(() => {
        count++
        states.set(event.version, state)
        const [oldest] = states.keys()
        if (states.size > shownEvents && oldest !== undefined) states.delete(oldest)
      })
    ),
    Effect.result
  )
  if (count === 0) return []
  const tooMany = `it has more than ${foldedEvents.toLocaleString("en-US")} events`
  const failure = Result.isFailure(result) ? result.failure.message : count > foldedEvents ? tooMany : null
  const texts = new Map([...states].map(([version, state]) => [version, textOf(state)] as const))
  const folded: Folded = { name, states: count > foldedEvents ? new Map() : texts, failure }
  return [folded]
})

/** The newest events of an aggregate, and the states after them. */
export const of = Effect.fnUntraced(function* (
  pages: LogPages,
  settings: Settings,
  entities: ReadonlyArray<KnownEntity>,
  aggregateId: string
) {
  const { latestVersion } = yield* EventStore
  const filter = new Filter({ aggregateIds: [aggregateId] })
  const { before, events } = yield* pages.before(filter, undefined, yield* latestVersion, shownEvents)
  const folded = (yield* Effect.forEach(entities, (entity) => foldBy(entity, aggregateId))).flat()
  const history: typeof AggregateHistory.Type = {
    steps: events.map((event) => ({
      event: eventOf(settings, event),
      states: folded.flatMap(({ name, states }) => {
        const json = states.get(event.version)
        return json === undefined ? [] : [{ entity: name, json: stored(settings, json) }]
      })
    })),
    before,
    given: entities.map(({ name }) => name),
    known: folded.map(({ failure, name }) => ({ name, failure: stored(settings, failure) }))
  }
  return history
})
