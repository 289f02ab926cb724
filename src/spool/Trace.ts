/** Passes on from the sender of a message to its handler what has caused it, by headers of the message: see `Origin`. */
import { Context, Effect, Tracer } from "effect"
import * as TraceParent from "../internal/TraceParent.ts"
import { Origin } from "../Origin.ts"
import type { SpoolMessage } from "../SpoolStore.ts"

/** The headers that name the span around the caller, if there is one, and the origin of what it writes. */
export const traceHeaders = Effect.withFiber((fiber): Effect.Effect<Record<string, string>> => {
  const span = Context.getOrUndefined(fiber.context, Tracer.ParentSpan)
  const { causationId, correlationId } = fiber.getRef(Origin)
  return Effect.succeed({
    ...(span === undefined ? {} : { traceparent: TraceParent.format(span) }),
    ...(correlationId === undefined ? {} : { correlationId }),
    ...(causationId === undefined ? {} : { causationId })
  })
})

/** The span that has enqueued the message; nothing if the message names none. */
export const enqueuedBy = ({ headers }: SpoolMessage): Tracer.ExternalSpan | undefined =>
  headers.traceparent === undefined ? undefined : TraceParent.parse(headers.traceparent)
