/** The parts of the log that pages are of, and the queries of versions in them that pages are made of. */
import type { Fragment } from "effect/sql/Statement"
import type { Indexes } from "./CompactLog.ts"

/** No version is higher. */
export const highestPossible = 2n ** 63n - 1n

/** The part of the log that a page is of. */
export interface Range {
  readonly after: bigint
  /** The last version, or SQL for it. */
  readonly last: bigint | Fragment
  readonly direction: "ASC" | "DESC"
  /** How many events it has at most. */
  readonly limit: number
  /** Whether it is so short that what a filter describes is looked for one by one where no index has it in order. */
  readonly isShort?: boolean | undefined
  /** What has to be true of the log, or the page is empty. */
  readonly guard?: Fragment | undefined
}

/** A part of the log whose ends may both be SQL. */
export type Span = Omit<Range, "after" | "guard"> & {
  readonly after: bigint | Fragment
  /** Which indexes of a compact log there are. */
  readonly indexes: Indexes
}

/** The first events of a span. */
export interface Source {
  /** What stands after FROM, with all columns of events. */
  readonly from: Fragment
  /** The columns by which the server finds them in the order of versions, so that it stops once there are enough. */
  readonly order: ReadonlyArray<string>
}

/** The order of a source. */
export const inOrder = ({ order }: Pick<Source, "order">, { direction }: Pick<Span, "direction">): string =>
  `ORDER BY ${order.map((column) => `${column} ${direction}`).join(", ")}`

/** A query of the first versions of a span that match the filter, and these conditions. */
export type Course = (span: Span, conditions: ReadonlyArray<Fragment>) => Fragment
