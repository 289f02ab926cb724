/** Queues and messages as the API shows them. */
import { Duration, Option } from "effect"
import type { QueueOverview, SpoolMessage } from "../SpoolStore.ts"
import type { Message, Queue } from "./api/SpoolApi.ts"
import { type Settings, stored } from "./Settings.ts"

export const queueOf = ({ counts, estimated, leased, oldestReady, queue }: QueueOverview): typeof Queue.Type => ({
  queue: queue ?? null,
  ...counts,
  leased,
  estimated,
  oldestReadyMillis: Option.match(oldestReady, { onNone: () => null, onSome: Duration.toMillis })
})

export const messageOf = (settings: Settings, message: SpoolMessage): typeof Message.Type => ({
  id: message.id,
  queue: message.queue ?? null,
  state: message.state,
  attempts: message.attempts,
  maxAttempts: message.maxAttempts,
  nextRetry: message.nextRetry,
  created: message.created,
  updated: message.updated,
  lastError: stored(settings, message.lastError),
  size: message.size,
  priority: message.priority,
  retryPolicyName: message.retryPolicyName
})
