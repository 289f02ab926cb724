/** What the verdict knows of what the processes do. */

/** How long workers have a message for, in milliseconds. */
export const leaseMillis = 3000

/** What is followed, where it is written down, and what of the log it is. */
export const followed = [
  { history: "follower-all", subscription: {}, where: "true" },
  {
    history: "follower-some",
    subscription: { aggregateIds: ["shared", "foreign", "account 3"], batchSize: 7 },
    where: "aggregate_id IN ('shared', 'foreign', 'account 3')"
  }
] as const
