/** The parts of the log that a reader passes one after the other, some of which have no events. */
import { Array, Stream } from "effect"
import type { StoredEvent } from "../Event.ts"

/** The events of all steps. A stream for each step would let memory grow with the number of steps. */
export const eventsIn = <E>(
  steps: Stream.Stream<{ readonly events: ReadonlyArray<StoredEvent> }, E>
): Stream.Stream<StoredEvent, E> =>
  Stream.flattenArray(
    Stream.filter(
      Stream.map(steps, ({ events }) => events),
      Array.isReadonlyArrayNonEmpty
    )
  )
