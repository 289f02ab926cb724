/** How long readers wait before they look without a wake-up, where no notification arrives. */
import { Duration } from "effect"
import type { Table } from "./Notifications.ts"

/** While there is something in the table, and once nothing was found for a while. */
const shortestWait = Duration.seconds(1)
const longestWait = Duration.seconds(5)
const timeUntilIdle = Duration.seconds(30)

/** The pace of all readers of a layer. `now` is a clock in milliseconds. */
export const makePace = (now: () => number) => {
  const began = now()
  const foundAt = new Map<Table, number>()
  return {
    /** There was something in the table. */
    found: (table: Table): void => {
      foundAt.set(table, now())
    },
    /** How long to wait before the next look into the table. */
    wait: (table: Table): Duration.Duration =>
      now() - (foundAt.get(table) ?? began) < Duration.toMillis(timeUntilIdle) ? shortestWait : longestWait
  }
}
