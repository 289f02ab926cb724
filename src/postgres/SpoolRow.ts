/** How a row of the table of messages becomes a message. */
import { Schema, SchemaTransformation } from "effect"
import { SpoolMessage, State } from "../SpoolMessage.ts"
import { ExactJson } from "./EventRow.ts"

const codes = State.literals

/** The number that stands for a state in the table. */
export const codeOf = (state: State): number => codes.indexOf(state)

const Code = Schema.Literals([0, 1, 2, 3, 4, 5])

export const StateCode = Code.pipe(
  Schema.decodeTo(
    State,
    SchemaTransformation.transform({
      decode: (code) => codes[code],
      encode: (state) => Code.literals[codeOf(state)] ?? 0
    })
  )
)

/** A row of the table, as `columns` names its parts. */
export const Row = Schema.Struct({
  id: Schema.String,
  queue: Schema.NullOr(Schema.String),
  state: StateCode,
  attempts: Schema.Int,
  maxAttempts: Schema.Int,
  nextRetry: Schema.DateTimeUtcFromDate,
  created: Schema.DateTimeUtcFromDate,
  updated: Schema.DateTimeUtcFromDate,
  lastError: Schema.String,
  size: Schema.BigInt,
  priority: Schema.Int,
  headers: Schema.Record(Schema.String, Schema.String),
  retryPolicyName: Schema.String,
  /** In a list, as JSON's null is a payload, too. */
  payload: Schema.NullOr(ExactJson)
})

// RetrySpool writes JSON's null for no headers, and an older one no policy.
const shared = `id, queue, state, attempts, max_attempts AS "maxAttempts", next_retry AS "nextRetry", created, updated,
  coalesce(last_error, '') AS "lastError", size, priority, coalesce(nullif(headers, 'null'), '{}') AS headers,
  coalesce(retry_policy_name, '') AS "retryPolicyName"`

/** The parts of a row, the payload as text: the driver's own parser rounds numbers. */
export const columns = `${shared}, '[' || payload::text || ']' AS payload`

/** The parts of a row without the payload. */
export const columnsWithoutPayload = `${shared}, NULL::text AS payload`

// Its parts have been checked as those of a row.
export const toMessage = ({ payload, queue, ...row }: typeof Row.Type): SpoolMessage =>
  new SpoolMessage(
    { ...row, ...(queue === null ? {} : { queue }), ...(Array.isArray(payload) ? { payload: payload[0] } : {}) },
    { disableChecks: true }
  )

/** An array to be cast to that of another type. The driver takes no array of nothing but nulls, but that as a literal. */
export const nullable = (
  values: ReadonlyArray<string | number | bigint | null>
): ReadonlyArray<string | null> | string =>
  values.every((value) => value === null)
    ? `{${values.map(() => "NULL").join()}}`
    : values.map((value) => (value === null ? null : String(value)))
