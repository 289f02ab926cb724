/**
 * The rule for holes: how far a reader of the log may go without losing an event.
 *
 * A writer draws a version from a sequence before its transaction commits, so a reader can see version 12 and not see 11.
 * That hole is either *in flight*, because the transaction that drew 11 may still commit, or *dead*, because that
 * transaction was rolled back. A reader that passes a hole in flight loses its event for ever; a reader that waits for a
 * dead one stalls for ever. Nothing in the rows tells the two apart. The locks of the table do, if they are read at the
 * right moment.
 *
 * Postgres guarantees three things. Versions are drawn in ascending order. An INSERT takes the table's ROW EXCLUSIVE lock
 * before it draws a version and holds the lock until its transaction has ended. A commit is visible before its lock is
 * released. From these follow the steps:
 *
 * 1. Ask for a page: events above the cursor, in order. The versions that follow the cursor without a hole are settled.
 * 2. At a hole, remember the highest version of that page. Whoever may fill the hole has drawn a lower version than this
 *    one, so it drew it before the page was read, and it held the lock by then.
 * 3. Only now ask for the holders: the transactions that hold the lock, without the reader's own. A transaction that may
 *    fill the hole is either among them, or it has ended, and what it committed is visible from now on.
 * 4. Wait until none of these holders holds the lock any more. Transactions that take the lock later draw higher versions,
 *    so nobody waits for them.
 * 5. The highest version of step 2 is now a mark: every event up to it that will ever be is visible to a statement that
 *    begins from now on. Ask for a page again, deliver what it has up to the mark, and pass all holes below the mark.
 *
 * Holders that are read before the page lose events: a transaction may take the lock and draw 11 in between, and another
 * may commit 12 before the page is read. Therefore the state says which question comes next, and each answer is taken only
 * by a state that asks for it.
 *
 * **Details**
 *
 * - *While it waits*, a reader may ask for pages as well, as often as it likes. The versions without a hole grow, and need
 *   not wait for a holder that turns out to have drawn higher versions only (30 ms instead of 1.08 s).
 * - *Another server*, after a failover or a restart, knows nothing of the transactions of the one before it, and its log may
 *   end earlier. What was seen on one server decides nothing on another one: the reader starts again after its cursor. A
 *   reader that loses its connection starts again as well.
 * - *A prepared transaction* outlives a crash of its server, but under another virtual id, which begins with `-1/`: `12/2`
 *   became `-1/1702`. So any holder with such an id counts as one of the holders before.
 * - *A mark outlives the read that made it*: a later read takes what is below it for settled, however many holders there
 *   are. Not if the log ends below the mark: such a log has been set back, and draws the versions up to the mark again.
 * - *Inside a transaction* a reader sees its own events, which may still be rolled back, or committed long after others have
 *   passed them. A mark made there is of no use outside.
 *
 * Everything here is plain data and functions of it. When to ask, how long to wait and whom to tell is the drivers'
 * business: the subscribers' tail and the bounded reads of the Postgres backend.
 */

/** Versions that follow one another without a hole. */
export interface Run {
  readonly first: bigint
  readonly last: bigint
}

/** The answer to "page": what one statement has seen of the log above a cursor. */
export interface Page {
  /** The run of the server that has answered. */
  readonly server: string
  /**
   * The versions that it saw, in order. The last one is the highest. A reader that only asks how far the log is settled may
   * leave out others: they are taken for holes, which can cost time and never an event.
   */
  readonly runs: ReadonlyArray<Run>
  /** Whether it ends at its limit: there may be visible events above the highest one. */
  readonly isFull: boolean
}

/** The answer to "holders": the transactions, but the reader's own, that hold the table's lock. */
export interface Holders {
  /** The run of the server that has answered. */
  readonly server: string
  /** Their virtual ids. */
  readonly holders: ReadonlySet<string>
}

/** Every event up to this version that will ever be on this server is visible to a statement that begins from now on. */
export interface Mark {
  readonly version: bigint
  readonly server: string
}

interface Reader {
  /** The cursor: the reader has been given, or told of, every event up to here that will ever be. */
  readonly after: bigint
  /** The last mark that was made or verified. */
  readonly mark: Mark | undefined
}

interface Hole extends Reader {
  /** The highest version that was visible before the holders were asked for. */
  readonly highest: bigint
  readonly server: string
}

/** Asks for a page above `after`. */
export interface AsksPage extends Reader {
  readonly ask: "page"
}

/** There is a hole above `after`. Asks for the holders. */
export interface AsksHolders extends Hole {
  readonly ask: "holders"
}

/** The hole is waited for. Asks after a while for the holders or for a page: for either, in any order. */
export interface Waits extends Hole {
  readonly ask: "wait"
  /** Those of the first holders who have not been seen to be gone. */
  readonly holders: ReadonlySet<string>
}

export type State = AsksPage | AsksHolders | Waits

/** Starts after a cursor, with a mark of an earlier read if there is one. */
export const begin = (after: bigint, mark?: Mark): AsksPage => ({ ask: "page", after, mark })

/**
 * Takes the page that was asked for. The new `after` is how far the reader may go: every event of the page up to there may
 * be delivered, and no other event will come at or below it.
 */
export const seePage = (state: AsksPage | Waits, { isFull, runs, server }: Page): State => {
  const highest = runs.at(-1)?.last ?? state.after
  const mark = isOfThisLog(state.mark, server, isFull ? undefined : highest) ? state.mark : undefined
  const settled = endWithoutHole(runs, mark !== undefined && mark.version > state.after ? mark.version : state.after)
  // Between the highest version of a full page and the mark there may be events that are not in the page.
  const after = isFull && highest < settled ? highest : settled
  // It is the same hole still. Its holders cover it, however many versions have become visible above it.
  const isStillOpen = state.ask === "wait" && state.server === server && after < state.highest
  if (isStillOpen && (isFull || after < highest)) return { ...state, after, mark }
  return after < highest ? { ask: "holders", after, mark, highest, server } : { ask: "page", after, mark }
}

/** Takes the holders that were asked for. Once those who may fill the hole are gone, there is a new mark. */
export const seeHolders = (state: AsksHolders | Waits, { holders: now, server }: Holders): AsksPage | Waits => {
  const { after, highest, mark } = state
  if (server !== state.server) return begin(after)
  const holders = state.ask === "wait" ? remaining(state.holders, now) : now
  return holders.size === 0
    ? begin(after, { version: highest, server })
    : { ask: "wait", after, mark, highest, server, holders }
}

/** The mark with which a later read may begin, which is not inside of this one's transaction. */
export const remember = (before: Mark | undefined, state: State, inTransaction: boolean): Mark | undefined =>
  inTransaction ? before : state.mark

/** Those of the holders before who hold the lock still. */
export const remaining = (before: ReadonlySet<string>, now: ReadonlySet<string>): ReadonlySet<string> =>
  new Set([...now].filter((holder) => before.has(holder) || isRecovered(holder)))

/** A prepared transaction that the server has found again after a crash: it has no backend. */
const isRecovered = (holder: string): boolean => holder.startsWith("-1/")

/** Whether the mark was made on this server, and in a log that still reaches up to it, as far as its end is known. */
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

/** The versions of a page, which are in order, as runs. */
export const runsOf = (versions: Iterable<bigint>): ReadonlyArray<Run> => {
  const runs: Array<Run> = []
  let first: bigint | undefined
  let last = 0n
  for (const version of versions) {
    if (first !== undefined && version !== last + 1n) runs.push({ first, last })
    if (first === undefined || version !== last + 1n) first = version
    last = version
  }
  if (first !== undefined) runs.push({ first, last })
  return runs
}
