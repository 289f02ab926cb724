/**
 * What has caused what a fiber writes: events and messages that are written keep it, so that a row of the log can be followed to
 * the request that it all began with.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { EventStore, Origin } from "effect-strata"
 *
 * // Each event that the handling of a request appends has its id as `correlationId`.
 * export const place = (requestId: string) =>
 *   EventStore.EventStore.use((events) =>
 *     events.append({ aggregateId: "order-7", eventType: "Placed", data: { total: 3 } })
 *   ).pipe(Effect.provideService(Origin.Origin, { correlationId: requestId }))
 *
 * // All that came of it: events and, by their headers, messages.
 * export const story = (requestId: string) =>
 *   EventStore.EventStore.useSync((events) => events.read({ metadata: { correlationId: requestId } }))
 * ```
 *
 * **Details**
 *
 * `append` puts `correlationId` and `causationId` into the metadata of the events, and a queue into the headers of its messages.
 * Both add `traceparent`, the span that has written the event or the message, where spans are collected. A key that the caller
 * gives stays as it is.
 *
 * The handlers of projections and queues run with the origin of what they handle: what they append and enqueue has its id
 * as `causationId`, and carries its `correlationId` on, which is its id where it has none. A `batchHandler` has several
 * events, and a subscriber no handler: they say it with `causedBy`.
 *
 * Where content is compared, these keys are left out: an append that is tried again in another trace is the same append.
 */
import { Context, Effect } from "effect"
import { isText } from "./internal/Fields.ts"
import * as TraceParent from "./internal/TraceParent.ts"

/** What has caused what is written. Both are texts of 1 to 512 characters. */
export interface Origin {
  /** What it all began with: the id of a request, or of the first event or message. */
  readonly correlationId?: string
  /** The id of the event or the message that has caused this one. */
  readonly causationId?: string
}

const nothing: Origin = {}

/** The origin of what the fiber writes: provide it with `Effect.provideService`. */
export const Origin: Context.Reference<Origin> = Context.Reference<Origin>("effect-strata/Origin", {
  defaultValue: () => nothing
})

/** An event, or a message of a queue. */
export type Source =
  | { readonly id: string; readonly metadata: Readonly<Record<string, unknown>> | null }
  | { readonly id: string; readonly headers: Readonly<Record<string, string>> }

/** How many characters an id can have: as many as that of an event. */
const longestId = 512

/** Whether every backend can keep the id. */
export const isId = (id: unknown): id is string =>
  isText(id) && id !== "" && (id.length <= longestId || [...id].length <= longestId)

const keysOf = (source: Source): Readonly<Record<string, unknown>> | null =>
  "headers" in source ? source.headers : source.metadata

const textAt = (source: Source, key: string): string | undefined => {
  const value = keysOf(source)?.[key]
  return isId(value) ? value : undefined
}

/** The origin of what this event, or this message, causes. An id that another program has made too long is left out. */
export const of = (source: Source): Origin => {
  if (!isId(source.id)) return nothing
  return { correlationId: textAt(source, "correlationId") ?? source.id, causationId: source.id }
}

/**
 * Says that this event, or this message, causes what the effect writes. Its spans are linked to the one that has written the
 * event.
 *
 * ```ts
 * import { Effect, Stream } from "effect"
 * import { EventStore, Origin, Spool } from "effect-strata"
 *
 * export const notify = (mails: Spool.Spool<string>) =>
 *   EventStore.EventStore.use((events) =>
 *     events.subscribe({ after: "end" }).pipe(
 *       Stream.runForEach((event) => mails.enqueue(event.aggregateId).pipe(Origin.causedBy(event)))
 *     )
 *   )
 * ```
 */
export const causedBy =
  (source: Source) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> => {
    const caused = Effect.provideService(effect, Origin, of(source))
    const writer = TraceParent.parse(textAt(source, "traceparent") ?? "")
    return writer === undefined ? caused : Effect.linkSpans(caused, writer)
  }
