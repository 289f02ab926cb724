/**
 * The rule for holes: how far a reader of the log may go without losing an event.
 *
 * A writer draws a version from a sequence before its transaction commits, so a reader can see version 12 and not see 11.
 * Such a hole is either *in flight*: the transaction that drew 11 is still open, and may commit. Or it is *dead*: that
 * transaction was rolled back. A reader that passes a hole in flight loses its event for ever, and a reader that waits for a
 * dead hole stalls for ever. The rows do not tell the two apart. The table's locks do, if they are read at the right moment.
 *
 * Postgres guarantees three things. Versions are drawn in ascending order. An INSERT takes the table's ROW EXCLUSIVE lock
 * before it draws a version, and holds the lock until its transaction has ended. A commit is visible before its locks are
 * released. Therefore a reader takes these steps, in this order:
 *
 * 1. Ask for a **page**: the events above the cursor. The versions that follow the cursor without a hole are settled.
 * 2. At a hole, remember the highest version of the page. The version of the hole is lower, so it was drawn earlier, and the
 *    transaction that drew it held the lock before the page was read.
 * 3. Only now ask for the **holders**: the transactions that hold the lock, without the reader's own. A transaction that drew
 *    the version of a hole is among them, or it has ended, and then its event can be seen from now on, if there is one.
 * 4. **Wait** until none of these holders holds the lock any more. A transaction that takes the lock later draws a higher
 *    version, so the reader does not wait for it.
 * 5. The highest version of step 2 is now a **mark**: a statement that begins from now on sees every event up to the mark
 *    that there will ever be. Ask for a page again, deliver its events up to the mark, and pass all holes below the mark.
 *
 * The opposite order loses events: after the holders were read, and before the page is, one transaction can take the lock
 * and draw 11, and another one can commit 12. So the state says which question comes next, and its type takes the answer to
 * no other question:
 *
 * ```
 *            page: a hole            holders: some
 *   page ──────────────────▶ holders ─────────────▶ wait ◀─┐ holders: some are left
 *    ▲ ▲                        │                   │ └────┘ page: the hole is still there
 *    │ └── holders: none ───────┘                   │
 *    └──── holders: none is left; page: no hole ────┘
 * ```
 *
 * **Details**
 *
 * - *While it waits*, a reader may ask for pages as well. A page settles the versions without a hole, whenever it is read;
 *   they need not wait for a holder that has drawn higher versions only (30 ms instead of 1.08 s).
 * - *Another server*, after a restart or a failover, does not know the transactions of the server before, and its log may
 *   end earlier. So what was seen on one server decides nothing on another: the reader starts again after its cursor, as it
 *   does when it has lost its connection.
 * - *A prepared transaction* outlives a crash of its server, but gets another virtual id there, which begins with `-1/`:
 *   `12/2` became `-1/1702`. So every holder with such an id counts as one of the holders of step 3.
 * - *A mark outlives the read* that made it: a later read passes the holes below it at once, whatever is held by then. A log
 *   that ends below the mark has been set back, and will draw those versions again: there the mark is void.
 * - *Inside a transaction* a reader sees events of its own that may still be rolled back. Its marks are for this reader only.
 *
 * This module is plain data and pure functions. When to ask, how long to wait and when to report a holder is decided by its
 * two drivers: the tail that subscribers share, and bounded reads.
 */

/** Versions that follow one another without a hole. */
export interface Run {
  readonly first: bigint
  readonly last: bigint
}

/** The answer to "page": what one statement saw of the log above the cursor. */
export interface Page {
  /** Names the server that answered, from one start of it to the next. */
  readonly server: string
  /**
   * The versions that can be seen, in order, up to the highest. A reader that only wants to know how far the log is settled
   * may leave out others: the rule takes them for holes, which can cost time but no event. A highest version at or below
   * the cursor shows that the log ends there.
   */
  readonly runs: ReadonlyArray<Run>
  /** Whether the page ended at its limit, so that there may be more events above its highest version. */
  readonly isFull: boolean
}

/** The answer to "holders". */
export interface Holders {
  /** Names the server that answered, from one start of it to the next. */
  readonly server: string
  /** The virtual ids of the transactions that hold the table's lock, without the reader's own. */
  readonly holders: ReadonlySet<string>
}

/** On this server, a statement that begins from now on sees every event up to this version that there will ever be. */
export interface Mark {
  readonly version: bigint
  readonly server: string
}

interface Reader {
  /** The cursor: every event up to here that there will ever be was delivered, or lies before the place of the start. */
  readonly after: bigint
  /** The last mark. A page shows whether it is one of this log. */
  readonly mark: Mark | undefined
}

interface AtHole extends Reader {
  /** The highest version that was visible before the holders were asked for. */
  readonly highest: bigint
  readonly server: string
}

/** Asks for a page above `after`. */
export interface AsksPage extends Reader {
  readonly ask: "page"
}

/** A page has shown a hole above `after`. Asks for the holders. */
export interface AsksHolders extends AtHole {
  readonly ask: "holders"
}

/** Holders may still fill the hole. Asks, after a while, for the holders or for a page, in any order. */
export interface Waits extends AtHole {
  readonly ask: "wait"
  /** Those of the holders of step 3 that still held the lock when the reader asked last. */
  readonly holders: ReadonlySet<string>
}

export type State = AsksPage | AsksHolders | Waits

/** Starts after a cursor, with the mark of an earlier read if there is one. */
export const begin = (after: bigint, mark?: Mark): AsksPage => ({ ask: "page", after, mark })

/**
 * Takes the page that was asked for. The new `after` is how far the reader may go: the page has every event up to there that
 * there will ever be.
 */
export const seePage = (state: AsksPage | Waits, { isFull, runs, server }: Page): State => {
  const highest = runs.at(-1)?.last ?? state.after
  const mark = isOfThisLog(state.mark, server, isFull ? undefined : highest) ? state.mark : undefined
  const settled = endWithoutHole(runs, mark !== undefined && mark.version > state.after ? mark.version : state.after)
  // Between the highest version of a full page and the mark there may be events that are not in the page.
  const after = isFull && highest < settled ? highest : settled
  // The holders that are known cover the holes below `state.highest`, however many versions can be seen above it by now.
  const isSameHole = state.ask === "wait" && after < state.highest
  if (isSameHole && (isFull || after < highest)) return { ...state, after, mark }
  return after < highest ? { ask: "holders", after, mark, highest, server } : { ask: "page", after, mark }
}

/** Takes the holders that were asked for. If none is left that may fill the hole, there is a new mark. */
export const seeHolders = (state: AsksHolders | Waits, { holders: now, server }: Holders): AsksPage | Waits => {
  const { after, highest, mark } = state
  if (server !== state.server) return begin(after)
  const holders = state.ask === "wait" ? remaining(state.holders, now) : now
  return holders.size === 0
    ? begin(after, { version: highest, server })
    : { ask: "wait", after, mark, highest, server, holders }
}

/** The mark with which a later read may begin: not one that was made inside a transaction. */
export const remember = (before: Mark | undefined, state: State, inTransaction: boolean): Mark | undefined =>
  inTransaction ? before : state.mark

/** Those of the holders before that still hold the lock now. */
export const remaining = (before: ReadonlySet<string>, now: ReadonlySet<string>): ReadonlySet<string> =>
  new Set([...now].filter((holder) => before.has(holder) || isRecovered(holder)))

/** Whether this is a prepared transaction that the server has recovered after a crash: it has no backend any more. */
const isRecovered = (holder: string): boolean => holder.startsWith("-1/")

/** Whether the mark was made on this server, and the log, whose end may be unknown, still reaches up to the mark. */
const isOfThisLog = (mark: Mark | undefined, server: string, end: bigint | undefined): boolean =>
  mark !== undefined && mark.server === server && (end === undefined || mark.version <= end)

/** The last version that follows this one without a hole. */
const endWithoutHole = (runs: ReadonlyArray<Run>, version: bigint): bigint => {
  let end = version
  for (const { first, last } of runs) {
    if (first > end + 1n) break
    if (last > end) end = last
  }
  return end
}

/** The runs of what a page has, which is in the order of versions. Without a hole that takes no look at each item. */
export const runsOf = <A>(items: ReadonlyArray<A>, versionOf: (item: A) => bigint): ReadonlyArray<Run> => {
  const [lowest] = items
  const highest = items.at(-1)
  if (lowest === undefined || highest === undefined) return []
  let first = versionOf(lowest)
  let last = versionOf(highest)
  if (last - first === BigInt(items.length - 1)) return [{ first, last }]
  const runs: Array<Run> = []
  last = first
  for (const item of items) {
    const version = versionOf(item)
    if (version > last + 1n) {
      runs.push({ first, last })
      first = version
    }
    last = version
  }
  return [...runs, { first, last }]
}
