/** The keys by which the metadata of an event says where the event comes from: see `Origin`. */
import { Context, Effect, type Fiber, type Schema, Tracer } from "effect"
import { type Append, NewEvent } from "../Event.ts"
import { instanceOf } from "../internal/Instance.ts"
import { isTraced } from "../internal/Instruments.ts"
import * as TraceParent from "../internal/TraceParent.ts"
import { InvalidInput } from "../InvalidInput.ts"
import { isId, Origin } from "../Origin.ts"

/** They are no content of an event: whatever compares events leaves them out. */
export const originKeys = ["traceparent", "correlationId", "causationId"] as const

/**
 * The span that writes: the one of the operation where spans are collected here, else the one that another process has passed
 * on. Spans that nobody keeps are not named.
 */
const writingSpan = (fiber: Fiber.Fiber<unknown, unknown>): Tracer.AnySpan | undefined => {
  const span = Context.getOrUndefined(fiber.context, Tracer.ParentSpan)
  if (span === undefined || !span.sampled) return undefined
  return isTraced(fiber) || span._tag === "ExternalSpan" ? span : undefined
}

const issueOf = (field: "correlationId" | "causationId", value: string | undefined) =>
  value === undefined || isId(value)
    ? []
    : [{ field: `Origin.${field}`, message: "Expected a text of 1 to 512 characters, without NUL and lone surrogates" }]

/** What a fiber adds to the metadata of its events; nothing where it has no origin, and no span that is kept. */
const keysOf = (
  fiber: Fiber.Fiber<unknown, unknown>,
  tracing: "never" | undefined
): Record<string, string> | InvalidInput | undefined => {
  const { causationId, correlationId } = fiber.getRef(Origin)
  const span = tracing === "never" ? undefined : writingSpan(fiber)
  if (causationId === undefined && correlationId === undefined && span === undefined) return undefined
  const issues = [...issueOf("correlationId", correlationId), ...issueOf("causationId", causationId)]
  if (issues.length > 0) return new InvalidInput({ store: "EventStore", operation: "append", issues })
  return {
    ...(span === undefined ? {} : { traceparent: TraceParent.format(span) }),
    ...(correlationId === undefined ? {} : { correlationId }),
    ...(causationId === undefined ? {} : { causationId })
  }
}

const withKeys = (append: Append, keys: Record<string, string>): Append => ({
  ...append,
  events: append.events.map((event) => instanceOf(NewEvent, { ...event, metadata: { ...keys, ...event.metadata } }))
})

/** Appends with the keys of the caller's fiber. A key that the caller gives to an event stays as it is. */
export const withOrigin =
  <A, E, R>(append: (append: Append) => Effect.Effect<A, E, R>, tracing: "never" | undefined) =>
  (given: Append): Effect.Effect<A, E | InvalidInput, R> =>
    Effect.withFiber<A, E | InvalidInput, R>((fiber) => {
      const keys = keysOf(fiber, tracing)
      if (keys === undefined) return append(given)
      return keys instanceof InvalidInput ? Effect.fail(keys) : append(withKeys(given, keys))
    })

/** The metadata without these keys; null where nothing else is there. */
export const contentOf = (metadata: Schema.JsonObject | null): Schema.JsonObject | null => {
  const rest = Object.entries(metadata ?? {}).filter(([key]) => !originKeys.some((own) => own === key))
  return rest.length === 0 ? null : Object.fromEntries(rest)
}
