/** Passes the trace on from the span that enqueues a message to the span that handles it, by a header of the message. */
import { Effect, Option, Tracer } from "effect"
import * as TraceParent from "../internal/TraceParent.ts"
import type { SpoolMessage } from "../SpoolStore.ts"

/** The header that names the span around the caller. There is none without such a span. */
export const traceHeaders = Effect.map(Effect.serviceOption(Tracer.ParentSpan), (span): Record<string, string> =>
  Option.match(span, { onNone: () => ({}), onSome: (parent) => ({ traceparent: TraceParent.format(parent) }) })
)

/** The span that has enqueued the message; nothing if the message names none. */
export const enqueuedBy = ({ headers }: SpoolMessage): Tracer.ExternalSpan | undefined =>
  headers.traceparent === undefined ? undefined : TraceParent.parse(headers.traceparent)
