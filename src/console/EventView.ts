/** Events as the API shows them. */
import type { StoredEvent } from "../EventStore.ts"
import { toText } from "../internal/ExactJson.ts"
import type { Event } from "./api/LogApi.ts"
import { type Settings, stored } from "./Settings.ts"

export const eventOf = (
  settings: Settings,
  { aggregateId, createdAt, data, eventType, id, metadata, version }: StoredEvent
): typeof Event.Type => ({
  version,
  id,
  aggregateId,
  eventType,
  createdAt,
  data: stored(settings, toText(data)),
  metadata: stored(settings, toText(metadata))
})
