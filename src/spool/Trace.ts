/** Trace context in the headers of messages: the `traceparent` of W3C. */
import { Effect, Option, Tracer } from "effect"
import type { SpoolMessage } from "../SpoolStore.ts"

/** The header for the span that encloses the caller, if there is one. */
export const traceParent = Effect.map(Effect.serviceOption(Tracer.ParentSpan), (span): Record<string, string> =>
  Option.match(span, {
    onNone: () => ({}),
    onSome: ({ sampled, spanId, traceId }) => ({ traceparent: `00-${traceId}-${spanId}-${sampled ? "01" : "00"}` })
  })
)

/** The span of whoever has enqueued the message. */
export const parentOf = ({ headers }: SpoolMessage): { readonly parent?: Tracer.ExternalSpan } => {
  const [, traceId, spanId, flags] = /^00-(\w+)-(\w+)-(\w\w)$/.exec(headers.traceparent ?? "") ?? []
  return traceId === undefined || spanId === undefined
    ? {}
    : { parent: Tracer.externalSpan({ traceId, spanId, sampled: flags === "01" }) }
}
