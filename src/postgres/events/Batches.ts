/** Groups what goes to the server, so that a statement has many items where they are small, and few where they are large. */
import { Stream } from "effect"

/** How many items a batch has at most: enough to be fast, and few enough that others wait for a short time. */
const most = 1000

/** How many characters a batch has at most, unless it has only one item. */
const longest = 8 * 1024 * 1024

interface Batch<A> {
  readonly items: Array<A>
  readonly length: number
}

/** The items in batches, which are smaller where items are long. The next batch is read while one is worked on. */
export const inBatches = <A, E, R>(
  items: Stream.Stream<A, E, R>,
  lengthOf: (item: A) => number
): Stream.Stream<ReadonlyArray<A>, E, R> =>
  Stream.mapAccum(
    items,
    (): Batch<A> => ({ items: [], length: 0 }),
    (batch, item): readonly [Batch<A>, ReadonlyArray<ReadonlyArray<A>>] => {
      const length = batch.length + lengthOf(item)
      if (batch.items.length === 0 || (batch.items.length < most && length <= longest)) {
        batch.items.push(item)
        return [{ items: batch.items, length }, []]
      }
      return [{ items: [item], length: lengthOf(item) }, [batch.items]]
    },
    { onHalt: ({ items }) => (items.length === 0 ? [] : [items]) }
  ).pipe(Stream.buffer({ capacity: 1 }))
