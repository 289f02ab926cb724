import { appends } from "./events.ts"
/** The rate of appends against the number of writers: what the chart shows. */
import type { Figure } from "./harness.ts"

const prefix = "append/writers-"

export const figures: ReadonlyArray<Figure> = [1, 4, 16, 64, 256].map((count) => ({
  name: `${prefix}${count}`,
  operations: count < 16 ? 2_048 : 5_120,
  quick: Math.max(256, count * 4),
  otherName: "bare driver",
  unit: "events/s",
  conditions: count === 1 ? "1 fiber" : `${count} fibers`,
  sides: appends(count)
}))

/** How many writers a figure of these is about. */
export const writersOf = (name: string): number | undefined =>
  name.startsWith(prefix) ? Number(name.slice(prefix.length)) : undefined
