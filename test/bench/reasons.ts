/** Why the other side wins where it does. The tables of the guide say it beside each such figure. */
import type { Measurement } from "./report.ts"

/** Up to here a difference is none: rounds of the same code differ by more. */
const noise = 0.05

/** Whether the other side of a figure is better, by more than noise. */
export const isBehind = ({ ratio, unit }: Measurement): boolean =>
  unit.endsWith("/s") ? ratio < 1 - noise : (unit.startsWith("ms") || unit.startsWith("kB")) && ratio > 1 + noise

const checked =
  "the arguments are checked, and the call has a span, metrics and a place among those that are sent together"
const made =
  "each event is checked and made an object with a whole version and a time, and each page compared with the log before"
const delivered = "the other side is a part of this time"
const stored = "a message is in three indexes by its queue and a text as its id, which the sender can choose"
const begun = "the other side has loaded nothing of this package"

/** The reasons by the names of the figures. The first that fits counts. */
const reasons: ReadonlyArray<readonly [names: RegExp, reason: string]> = [
  [/^append\/batch-/, "each event is checked, and comes back as it is stored"],
  [
    /^append\/with-.*subscribers$/,
    "the process that appends gives each event to each subscriber, on the same two cores"
  ],
  [/^append\/with-.*own-aggregates$/, "each event is read again, for one subscriber"],
  [/^(append|offset|state)\//, checked],
  [/^decide\/condition-/, "the condition is a look at its tags beside all that `expected` does"],
  [/^decide\/tags-/, "there are three more rows, and their index"],
  [/^decide\/untagged-/, "both sides send the same statements: it is noise"],
  [
    /^decide\/read$/,
    "each match is looked up by its version, where one scan of an index has the history of an aggregate"
  ],
  [
    /^decide\/hot/,
    "who is overtaken reads all events of the tag again, as events; the other side reads a few columns of a table made for it"
  ],
  [/^read\//, made],
  [/^typed\//, "each event is decoded by its schema, and made an instance of its class"],
  [/^spool\/backlog$/, "the other side has an empty table"],
  [/^(spool|subscribe|projection)\/.*(latency|lag|1000?-p)/, delivered],
  [/^subscribe\//, delivered],
  [
    /^projection\/batch-/,
    "an event goes through a handler, and each batch checks that the shard is still its own, and moves the offset"
  ],
  [
    /^memory\/per-subscriber$/,
    "a subscriber is a stream that knows its filter, its place in the log, and what it has seen"
  ],
  [/^memory\/per-message$/, "a message has its lease, its attempts and its headers, and a fiber that handles it"],
  [/^start\//, begun],
  [/^peers\/.*-1000$/, stored],
  [
    /^peers\/.*\/end-to-end$/,
    "each message is settled by a statement that checks its lease, and its row kept up to date; theirs is deleted without one"
  ],
  [/^peers\/.*latency/, "a message is found by its notification in the table, where the other side can hand it over"]
]

/** Why the other side wins, or undefined where it does not. A figure without a reason has an empty one. */
export const reasonOf = (measurement: Measurement): string | undefined =>
  isBehind(measurement) ? (reasons.find(([names]) => names.test(measurement.name))?.[1] ?? "") : undefined
