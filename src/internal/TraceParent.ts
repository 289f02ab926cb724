/** `traceparent` of W3C Trace Context, version 00: a span as text, in the headers of messages and the metadata of events. */
import { Predicate, type Schema, Tracer } from "effect"

export const format = ({ sampled, spanId, traceId }: Tracer.AnySpan): string =>
  `00-${traceId}-${spanId}-${sampled ? "01" : "00"}`

const pattern = /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/

/** The lowest bit of the flags says whether the trace is recorded. */
const sampledFlag = 1

/** The span that the text stands for; nothing if it stands for none. */
export const parse = (text: string): Tracer.ExternalSpan | undefined => {
  const [, traceId, spanId, flags] = pattern.exec(text) ?? []
  return traceId === undefined || spanId === undefined || flags === undefined
    ? undefined
    : Tracer.externalSpan({ traceId, spanId, sampled: (Number.parseInt(flags, 16) & sampledFlag) === sampledFlag })
}

/** The span that has appended an event, if its metadata names one. */
export const of = ({ metadata }: { readonly metadata: Schema.JsonObject | null }): Tracer.ExternalSpan | undefined => {
  const text = metadata?.["traceparent"]
  return Predicate.isString(text) ? parse(text) : undefined
}
