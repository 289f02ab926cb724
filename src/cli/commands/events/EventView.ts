/** How events are shown, and the flags that select events. */
import { DateTime, Option } from "effect"
import { type Command, Flag } from "effect/cli"
import type { StoredEvent } from "../../../EventStore.ts"
import { toText, withDigits } from "../../../internal/ExactJson.ts"
import * as Parameters from "../../arguments/Parameters.ts"
import type { Listing } from "../../terminal/Output.ts"

/** An event as JSON, with the names of the contract. */
export const toJson = (event: StoredEvent) => ({
  version: event.version,
  id: event.id,
  aggregateId: event.aggregateId,
  eventType: event.eventType,
  data: withDigits(event.data),
  metadata: withDigits(event.metadata),
  createdAt: DateTime.formatIso(event.createdAt),
  streamName: event.streamName
})

export const listing: Listing<StoredEvent> = {
  columns: [
    { title: "VERSION", show: ({ version }) => String(version), right: true },
    { title: "CREATED AT", show: ({ createdAt }) => DateTime.formatIso(createdAt) },
    { title: "AGGREGATE", show: ({ aggregateId }) => aggregateId },
    { title: "TYPE", show: ({ eventType }) => eventType, colourOf: ({ eventType }) => eventType },
    { title: "DATA", show: ({ data }) => toText(data) }
  ],
  toJson,
  nothing: "no events"
}

/** Which events are selected: those that meet all flags. */
export const filterFlags = {
  aggregateIds: Parameters.key("aggregate").pipe(
    Flag.atLeast(0),
    Flag.withDescription("Only events of this aggregate; give it again for others")
  ),
  eventTypes: Parameters.key("type").pipe(
    Flag.atLeast(0),
    Flag.withDescription("Only events of this type; give it again for others")
  ),
  tags: Parameters.tag("tag").pipe(
    Flag.atLeast(0),
    Flag.withDescription("Only events with this tag; give it again for events that have others, too")
  ),
  data: Parameters.json("data").pipe(Flag.optional, Flag.withDescription("Only events whose data contains this")),
  metadata: Parameters.jsonObject("metadata").pipe(
    Flag.optional,
    Flag.withDescription("Only events whose metadata contains this")
  ),
  createdAfter: Parameters.time("created-after").pipe(
    Flag.optional,
    Flag.withDescription("Only events that are younger than this, such as 2026-01-31T12:00:00Z")
  )
}

/** The filter that the flags describe. */
export const filterOf = (flags: Command.Command.Config.Infer<typeof filterFlags>) => ({
  ...(flags.aggregateIds.length === 0 ? {} : { aggregateIds: flags.aggregateIds }),
  ...(flags.eventTypes.length === 0 ? {} : { eventTypes: flags.eventTypes }),
  ...(flags.tags.length === 0 ? {} : { tags: flags.tags }),
  ...(Option.isNone(flags.data) ? {} : { data: flags.data.value }),
  ...(Option.isNone(flags.metadata) ? {} : { metadata: flags.metadata.value }),
  ...(Option.isNone(flags.createdAfter) ? {} : { createdAfter: flags.createdAfter.value })
})
