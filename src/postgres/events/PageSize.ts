/**
 * How many events a page has, so that all of them together are no more than some megabytes when they arrive.
 *
 * **Details**
 *
 * Only the server knows how long the JSON of an event is before it has been sent, and to add up lengths there takes a quarter
 * of a page's time. So each event of a page may have its share of `pageBytes`, and the server holds back the JSON of an event
 * that is longer: the page ends before it, and the next one has fewer events, of which each may be longer. An event that is
 * read alone may be as long as a message of the driver.
 */
import { longestTextBytes } from "../database/RowSize.ts"
import { heldBackBytes, jsonLength } from "./EventRow.ts"

/** How many events a page has at most, unless a query says otherwise. */
export const pageEvents = 1000

/**
 * How many events a statement looks through for those that a filter describes, where the reader wants to know how far it has
 * come: no answer takes long then, and after a lost connection the reader need not begin anew. It takes some 30 milliseconds.
 */
export const partEvents = 50_000

/** How many bytes of JSON a page has at most, unless it has only one event. */
const pageBytes = 4 * 1024 * 1024

/** How many times as many events the next page has if this one was full. */
const growth = 2

/**
 * How many bytes of JSON each event of a page of that many can have. It is the same for all pages up to the next power of two:
 * the number stands in the statement, and the server prepares each other statement anew.
 */
export const shareBytes = (limit: number, longest: number): number =>
  limit === 1 ? longest : Math.min(longest, pageBytes >> (32 - Math.clz32(limit - 1)))

/** How many events a page can have of which one has so many bytes of JSON: a power of two, or one. */
const roomFor = (bytes: number): number => (bytes > pageBytes ? 1 : 1 << (31 - Math.clz32(pageBytes / bytes)))

export interface Page {
  /** The rows before the first one whose JSON was held back. */
  readonly rows: ReadonlyArray<unknown>
  /** Whether there may be more rows after them. */
  readonly isFull: boolean
  /** How many events the next page is to have. */
  readonly nextLimit: number
}

/** What a statement that was to read `limit` rows has brought. `most` is how many a page may have. */
export const pageOf = (rows: ReadonlyArray<unknown>, limit: number, most: number): Page => {
  let longest = 1
  // What is held back of a page of one event has no place anywhere: the row is an event that cannot be read.
  const end = limit === 1 ? 1 : rows.length
  // What no text can hold does not become shorter in a smaller page.
  if (heldBackBytes(rows.at(-1)) === longestTextBytes) return { rows, isFull: true, nextLimit: limit }
  for (let index = 0; index < end; index++) {
    const heldBack = limit === 1 ? undefined : heldBackBytes(rows[index])
    if (heldBack !== undefined) {
      const nextLimit = Math.max(1, Math.min(limit >> 1, roomFor(heldBack)))
      return { rows: rows.slice(0, index), isFull: true, nextLimit }
    }
    longest = Math.max(longest, jsonLength(rows[index]))
  }
  const isFull = rows.length >= limit
  return { rows, isFull, nextLimit: isFull ? Math.min(most, limit * growth, roomFor(longest)) : limit }
}
