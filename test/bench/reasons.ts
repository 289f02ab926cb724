/** Why the other side wins where it does. The tables of the guide say it beside each such figure. */
import type { Measurement } from "./report.ts"

/** Up to here a difference is none: rounds of the same code differ by more. */
const noise = 0.05

/** What is the better the lower it is. */
const isCost = (unit: string): boolean => /^(ms|kB|statements)/.test(unit)

/** Whether the other side of a figure is better, by more than noise. What has arrived is no race. */
export const isBehind = ({ ratio, unit }: Measurement): boolean =>
  isCost(unit) ? ratio > 1 + noise : unit.endsWith("/s") && ratio < 1 - noise

const checked =
  "the arguments are checked, and the call has a span, metrics and a place among those that are sent together"
const made =
  "each event is checked and made an object with a whole version and a time, and each page compared with the log before"
const delivered = "the other side is a part of this time"
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
  [
    /^decide\/condition-/,
    "the tag that is decided upon is a row more, with two entries of indexes and a lock, and the condition a look at it"
  ],
  [/^decide\/tags-/, "there are three more rows, each with two entries of indexes and a lock"],
  [/^decide\/untagged-/, "both sides send the same statements: it is noise"],
  [
    /^decide\/read$/,
    "each match is looked up by its version, where one scan of an index has the history of an aggregate"
  ],
  [/^decide\/hot/, "nearly all of them are overtaken, so most of the time both sides wait between their attempts"],
  [/^read\//, made],
  [
    /^typed\//,
    "each event is decoded by its schema, and made an instance of its class: 1.0 us, where the store takes 3 to 7; encoding takes 1.5"
  ],
  [/^spool\/backlog$/, "the other side has an empty table"],
  [/^(spool|subscribe|projection)\/.*(latency|lag|1000?-p)/, delivered],
  [/^subscribe\//, delivered],
  [
    /^projection\/batch-/,
    "each event is checked and made an object, as `read` does it, and a batch of 500 has two statements more: that the shard is still its own, and a wake-up; the handler's statement takes as long on both sides"
  ],
  [
    /^memory\/per-subscriber$/,
    "a subscriber is a stream that knows its filter, its place in the log, and what it has seen"
  ],
  [/^memory\/per-message$/, "a message has its lease, its attempts and its headers, and a fiber that handles it"],
  [/^start\//, begun],
  [/^(idle|takeover)\//, "it is a limit, and not another program"],
  [
    /^import$/,
    "each line is read, checked and hashed by this process, and the server parses its JSON once more: COPY does none of that"
  ],
  [
    /^restart\//,
    "a layer tries again after waits that double up to a second, for the server's sake; the other side tries every 50 ms"
  ],
  [/^stress\//, "both wait for the transaction that holds the version: the difference is the wake-up after it"],
  [
    /^peers\/.*-1000$/,
    "the server takes as long for both; each message is checked, encoded by its schema and gets an id of its own in this process, where the other side sends JSON as it is; plan: checks and encoding of all messages in one pass"
  ],
  [
    /^peers\/.*\/end-to-end$/,
    "a claim changes the state, by which messages are indexed, so it writes the row and two indexes; plan: an index of states that a claim leaves alone"
  ],
  [
    /^peers\/.*latency/,
    "a worker that is woken claims with a statement of its own, which also finds what another worker has left; plan: claim a message by the statement that stores it, where sender and worker are one process"
  ]
]

/** Why the other side wins, or undefined where it does not. A figure without a reason has an empty one. */
export const reasonOf = (measurement: Measurement): string | undefined =>
  isBehind(measurement) ? (reasons.find(([names]) => names.test(measurement.name))?.[1] ?? "") : undefined
