/**
 * Hints that something may have changed, by topic, inside of one process. A hint carries nothing, and several that come
 * before the first is taken are one.
 */
import { Effect, Queue, Stream } from "effect"

export interface Hints {
  /** Wakes those who wait for the topic now. */
  readonly send: (topic: string) => void
  /** One hint for everything that is sent from here on, and one more for everything that is sent while it is acted on. */
  readonly receive: (topic: string) => Stream.Stream<void>
}

export const make = (): Hints => {
  const receivers = new Map<string, Set<Queue.Enqueue<void>>>()
  return {
    send: (topic) => {
      for (const queue of receivers.get(topic) ?? []) Queue.offerUnsafe(queue, undefined)
    },
    receive: (topic) =>
      Stream.callback<void>(
        (queue) =>
          Effect.acquireRelease(
            Effect.sync(() => {
              const all = receivers.get(topic) ?? new Set()
              receivers.set(topic, all.add(queue))
              return all
            }),
            (all) =>
              Effect.sync(() => {
                all.delete(queue)
                if (all.size === 0 && receivers.get(topic) === all) receivers.delete(topic)
              })
          ),
        { bufferSize: 1, strategy: "sliding" }
      )
  }
}
