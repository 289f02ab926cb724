/**
 * The latest pages of the log, as many as fit, for the subscribers that have read everything before them. A subscriber that
 * is slower reads the table itself, so it neither holds up the others nor makes the process keep more than this.
 */
import type { Item } from "./TailItems.ts"

const keptEvents = 4096
const keptBytes = 8 * 1024 * 1024

interface Page {
  /** It holds every event above this version. */
  readonly after: bigint
  readonly items: ReadonlyArray<Item>
  readonly bytes: number
}

export interface TailPages {
  /** Every event up to here that will ever be has been added. */
  readonly end: () => bigint
  /** Adds every event above the end up to a version, which is the new end. Drops the oldest pages if they are too many. */
  readonly add: (items: ReadonlyArray<Item>, upTo: bigint, bytes: number) => void
  /** Whether every event above this version is still there. */
  readonly covers: (version: bigint) => boolean
  /** The pages with every event above this version, the first of which may begin below it. None if it is not covered. */
  readonly above: (version: bigint) => ReadonlyArray<Item>
}

/** Pages of the log above a version. */
export const make = (after: bigint): TailPages => {
  const pages: Array<Page> = []
  let end = after
  let events = 0
  let bytes = 0

  const dropOldest = () => {
    for (let [oldest] = pages; oldest !== undefined && pages.length > 1; [oldest] = pages) {
      if (events <= keptEvents && bytes <= keptBytes) break
      pages.shift()
      events -= oldest.items.length
      bytes -= oldest.bytes
    }
  }

  return {
    end: () => end,
    add: (items, upTo, size) => {
      pages.push({ after: end, items, bytes: size })
      end = upTo
      events += items.length
      bytes += size
      dropOldest()
    },
    covers: (version) => version >= (pages[0]?.after ?? end),
    above: (version) => {
      const first = pages.findLastIndex(({ after }) => after <= version)
      return first === -1 ? [] : pages.slice(first).flatMap(({ items }) => items)
    }
  }
}
