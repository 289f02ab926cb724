/**
 * When a connection that is silent is lost. It has neither I/O nor a clock: `Watch` says what it sees, and when.
 *
 * **Details**
 *
 * A connection is silent while an answer is due and nothing arrives. That says little: a statement may take long, or wait
 * for a lock. So the server is asked, on another connection, what the backend does. The connection is lost
 *
 * - if the backend is gone,
 * - if the backend waits for its client at two looks and has done nothing in between: its answer, or the statement, does
 *   not get through,
 * - if nobody can be reached for `unknownMillis`,
 * - if nobody can say what the backend does for as long, and all that runs on the connection can as well run again.
 */

/** After how many looks in a row that find a connection silent the server is asked. A look takes place each second. */
const silentLooks = 2

/** The time between two findings that the backend waits for its client. */
const idleGapMillis = 2000

/** How long nothing can be found out about a silent connection before it is lost. */
const unknownMillis = 10_000

/** The waits before a server that says that it works is asked again. */
const firstPauseMillis = 2000
const longestPauseMillis = 8000

/** A statement takes its time to get to the server: a line is taken to carry this much in a millisecond, or more. */
const slowestBytesPerMilli = 64

/** What is taken to have been sent where nobody knows: it takes half a minute. */
export const unknownSentBytes = 30_000 * slowestBytesPerMilli

/** A connection at one moment, in milliseconds that never go back. */
export interface Sample {
  readonly at: number
  readonly received: number
  readonly isAwaiting: boolean
  /** When it is last known to have waited for nothing, and how many bytes have been sent since. */
  readonly quietAt: number
  readonly sentSince: number
}

/** What the server has said of a backend. */
export type Finding =
  /** It is not there. */
  | { readonly _tag: "Gone" }
  /** It waits for its client, since the moment that the server names in words. Its last statement came so long ago. */
  | { readonly _tag: "Idle"; readonly since: string; readonly lastCameMillisAgo: number }
  | { readonly _tag: "Working" }
  /** The server was there, and did not say, or could not know, what the backend does. */
  | { readonly _tag: "Untold" }
  /** There was no server. */
  | { readonly _tag: "Unreachable" }

/** How a connection was lost, and what is known of the statement that was on its way. */
export type Loss =
  | { readonly _tag: "Gone" }
  | { readonly _tag: "Idle"; readonly hasArrived: boolean }
  | { readonly _tag: "Untold" }
  | { readonly _tag: "Unreachable" }

/** What was seen of one connection. */
export interface Seen {
  /** The last sample at which it was not silent. */
  readonly last: Sample
  /** How many samples in a row found it silent since. */
  readonly silentCount: number
  /** When the server may be asked again. */
  readonly nextAt: number
  readonly pauseMillis: number
  /** The findings in this silence that nothing has contradicted. */
  readonly idle: { readonly since: string; readonly at: number } | undefined
  readonly unreachableCount: number
  /** Whether all that runs on the connection only reads, so that nothing but time is lost with it. */
  readonly onlyReads: boolean
}

export const begin = (sample: Sample, onlyReads: boolean): Seen => ({
  onlyReads,
  last: sample,
  silentCount: 0,
  nextAt: 0,
  pauseMillis: firstPauseMillis,
  idle: undefined,
  unreachableCount: 0
})

/** Whether nothing has come since the last samples, though an answer is due. */
export const isSilent = ({ last }: Seen, { isAwaiting, received }: Sample): boolean =>
  isAwaiting && received === last.received

/** Where a sample shows no silence, everything begins anew. */
export const see = (seen: Seen, sample: Sample): Seen =>
  isSilent(seen, sample) ? { ...seen, silentCount: seen.silentCount + 1 } : begin(sample, seen.onlyReads)

/** Whether to ask the server now. */
export const isDue = ({ nextAt, silentCount }: Seen, at: number): boolean => silentCount >= silentLooks && at >= nextAt

/** The server works, or says nothing: it is asked again later, and ever less often. */
const later = (seen: Seen, at: number): Seen => ({
  ...seen,
  idle: undefined,
  unreachableCount: 0,
  nextAt: at + seen.pauseMillis,
  pauseMillis: Math.min(2 * seen.pauseMillis, longestPauseMillis)
})

/** Whether what was sent can have got to the server. */
const canHaveArrived = ({ at, quietAt, sentSince }: Sample): boolean => at - quietAt >= sentSince / slowestBytesPerMilli

export const isLoss = (judged: Seen | Loss): judged is Loss => "_tag" in judged

/** Takes in what the server has said of a connection that is still silent. */
export const judge = (seen: Seen, finding: Finding, sample: Sample): Seen | Loss => {
  const { at } = sample
  const isUnknownForLong = at - seen.last.at >= unknownMillis
  switch (finding._tag) {
    case "Gone":
      return { _tag: "Gone" }
    case "Idle": {
      if (!canHaveArrived(sample)) return later(seen, at)
      const { idle } = seen
      if (idle === undefined || idle.since !== finding.since) {
        const first = { since: finding.since, at }
        return { ...seen, idle: first, unreachableCount: 0, nextAt: at + idleGapMillis }
      }
      if (at - idle.at < idleGapMillis) return { ...seen, nextAt: idle.at + idleGapMillis }
      return { _tag: "Idle", hasArrived: finding.lastCameMillisAgo <= at - sample.quietAt }
    }
    case "Unreachable": {
      const unreachableCount = seen.unreachableCount + 1
      // A process that was busy for long has not read its answers: it takes more than one look.
      return unreachableCount > 1 && isUnknownForLong
        ? { _tag: "Unreachable" }
        : { ...seen, idle: undefined, unreachableCount }
    }
    case "Untold":
      return seen.onlyReads && isUnknownForLong ? { _tag: "Untold" } : later(seen, at)
    case "Working":
      return later(seen, at)
  }
}
