/**
 * The latest pages of the log, as many as fit, for the subscribers that have read everything before them. A subscriber that
 * is slower reads the table itself, so it neither holds up the others nor makes the process keep more than this.
 */
import type { Items } from "./TailItems.ts"

const keptEvents = 4096
const keptBytes = 8 * 1024 * 1024

/** Items that follow one another in the log, with no event between them that is not there. */
export interface Part extends Items {
  /** It holds every event above this version. */
  readonly after: bigint
}

interface Page extends Part {
  readonly bytes: number
}

export interface TailPages {
  /** Every event up to here that will ever be has been added. */
  readonly end: () => bigint
  /** Adds every event above the end up to a version, which is the new end. Drops the oldest pages if they are too many. */
  readonly add: (items: Items, upTo: bigint, bytes: number) => Part
  /** Whether every event above this version is still there. */
  readonly covers: (version: bigint) => boolean
  /** Every event above this version, and maybe some before them. Undefined if the version is not covered. */
  readonly above: (version: bigint) => Part | undefined
}

const join = (pages: ReadonlyArray<Page>, { after }: Page): Part => ({
  after,
  items: pages.flatMap(({ items }) => items),
  events: pages.every(({ events }) => events !== undefined) ? pages.flatMap(({ events = [] }) => events) : undefined
})

/** Pages of the log above a version. */
export const make = (after: bigint): TailPages => {
  const pages: Array<Page> = []
  let end = after
  let count = 0
  let bytes = 0

  const dropOldest = () => {
    for (let [oldest] = pages; oldest !== undefined && pages.length > 1; [oldest] = pages) {
      if (count <= keptEvents && bytes <= keptBytes) break
      pages.shift()
      count -= oldest.items.length
      bytes -= oldest.bytes
    }
  }

  return {
    end: () => end,
    add: ({ events, items }, upTo, size) => {
      const page = { after: end, items, events, bytes: size }
      pages.push(page)
      end = upTo
      count += items.length
      bytes += size
      dropOldest()
      return page
    },
    covers: (version) => version >= (pages[0]?.after ?? end),
    above: (version) => {
      const index = pages.findLastIndex(({ after }) => after <= version)
      const first = pages[index]
      if (first === undefined) return undefined
      return index === pages.length - 1 ? first : join(pages.slice(index), first)
    }
  }
}
