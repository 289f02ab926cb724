/** Leases in statements: as rows, and the messages that they are about. */
import type { Lease } from "../../SpoolMessage.ts"
import { valueRows } from "../database/ValueRows.ts"
import { code } from "./MessageState.ts"
import type { SpoolTable } from "./SpoolTable.ts"

/** The leases as rows, with their places among them. */
export const leasesAsRows = ({ sql }: SpoolTable, leases: ReadonlyArray<Lease>) => {
  const rows = valueRows(sql, [
    ["text", leases.map(({ queue = "" }) => queue)],
    ["text", leases.map(({ id }) => id)],
    ["text", leases.map(({ owner }) => owner)],
    ["int", leases.map(({ attempt }) => attempt)],
    ["int", leases.map((_, place) => place)]
  ])
  return sql`${rows} AS lease (queue, id, owner, attempt, place)`
}

/**
 * The message of each lease that is held, locked or not. `state + 0` hides the state from the planner: with statistics that
 * know of no active message it would walk the index of states for each lease. As it is, it looks the id up.
 */
export const leasedMessage = (
  { isOfQueues, sql, table }: SpoolTable,
  locking: "FOR UPDATE" | "FOR UPDATE SKIP LOCKED" | "OFFSET 0"
) => sql`
  LATERAL (
    SELECT queue, id${sql.literal(isOfQueues ? ", remember" : "")} FROM ${table}
    WHERE id::text = lease.id AND ${sql.literal(isOfQueues ? "queue" : "coalesce(queue, '')")} = lease.queue
      AND state + 0 = ${code.active} AND lease_owner = lease.owner AND attempts = lease.attempt
    ${sql.literal(locking)}
  ) AS message`
