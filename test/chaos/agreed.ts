/** What the verdict knows of what the processes do. */
import { Schema } from "effect"
import { Placed } from "../support/histories.ts"

/** How long the lease of a worker lasts, in milliseconds. */
export const leaseMillis = 3000

/** The table of the messages. */
export const messages = "strata_messages"

/** The subscriptions of the follower: the history that each writes, and the condition on the events that it must get. */
export const followed = [
  { history: "follower-all", subscription: {}, where: "true", keepsCursor: false },
  {
    history: "follower-some",
    subscription: { aggregateIds: ["shared", "foreign", "account 3"], batchSize: 7 },
    where: "aggregate_id IN ('shared', 'foreign', 'account 3')",
    keepsCursor: false
  }
] as const

/** What the reader reads again and again, with the cursor that it keeps. */
export const polled = { history: "follower-read", where: "true", keepsCursor: true }

/** All who read the log, and note what they have seen and were told. */
export const readers = [...followed, polled]

/** What an asynchronous failover has taken away: what the server had that was lost, and its standby never got. */
export const SetBack = Schema.Struct({
  events: Schema.Array(Placed),
  messages: Schema.Array(Schema.String),
  /** Messages that were handled. */
  handled: Schema.Array(Schema.String)
})

/** The history of what was set back. */
export const setBacks = "set-backs"

/** What the processes of a lossless run are told, and what they say. */
export const Command = Schema.Struct({ pace: Schema.Literals(["wait", "go", "end"]) })
export type Pace = (typeof Command.Type)["pace"]

export const Said = Schema.Struct({
  /** How many events were acknowledged. */
  written: Schema.optionalKey(Schema.Int),
  /** The last version that a reader has. */
  at: Schema.optionalKey(Schema.String),
  findings: Schema.optionalKey(
    Schema.Array(Schema.Struct({ about: Schema.String, found: Schema.String, wrong: Schema.Array(Schema.String) }))
  )
})

/** What the processes of a run of decisions are told: to read for a race, to decide once all have read, or to decide alone. */
export const RacerCommand = Schema.Union([
  Schema.Struct({ race: Schema.Int, step: Schema.Literals(["read", "decide"]) }),
  Schema.Struct({ decisions: Schema.Int }),
  Schema.Struct({ end: Schema.Literal(true) })
])

/** What they say. */
export const RacerSaid = Schema.Union([
  Schema.Struct({ race: Schema.Int, has: Schema.Literal("read") }),
  /** How the racers of the process have ended: `won`, `overtaken`, `undone`, or anything else, which is wrong. */
  Schema.Struct({ race: Schema.Int, has: Schema.Literal("decided"), ends: Schema.Array(Schema.String) }),
  Schema.Struct({ decided: Schema.Int, wrong: Schema.Array(Schema.String) })
])

/** The types of the events that racers and lone decisions write. */
export const raced = "Raced"
export const decided = "Decided"
