/** How a row of the table of messages becomes a message. */
import type { PgClient } from "@effect/sql-pg"
import { DateTime, Predicate, Result, Schema } from "effect"
import { Statement } from "effect/sql"
import { exactJson, type LargeIntegers, parseExact } from "../../internal/ExactJson.ts"
import { instanceOf } from "../../internal/Instance.ts"
import { maxHeadersBytes, maxTextLength, SpoolMessage } from "../../SpoolMessage.ts"
import type { CorruptRow } from "../../StoreError.ts"
import { decodeRow } from "../database/DecodeRows.ts"
import { heldBackBytes, longestRow, longestTextBytes, tooLarge } from "../database/RowSize.ts"
import { StateCode, stateOfCode } from "./MessageState.ts"

const parts = {
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
  retryPolicyName: Schema.String
}

/** A row of the table, as `columns` names its parts. */
const rowOf = (integers: LargeIntegers) => Schema.Struct({ ...parts, payload: Schema.NullOr(exactJson(integers)) })

const fragment = (columns: string) => Statement.fragment([Statement.literal(columns)])

/** `jsonb` of so few bytes has no more than 80 numbers, of which each has 150,000 digits at most. */
const fewBytes = 1000

/** There is room for the headers twice: see `maxPayloadBytes`. */
const longestHeaders = 2 * maxHeadersBytes

/** How long other texts of a row may be that other programs have written: the end of such an error is not worth its message. */
const longestText = maxTextLength

// For a message without headers RetrySpool writes JSON's null, and its older versions write no policy.
const withoutJson = `id, queue, state, attempts, max_attempts AS "maxAttempts", next_retry AS "nextRetry", created, updated,
  left(coalesce(last_error, ''), ${longestText}) AS "lastError", size, priority,
  left(coalesce(retry_policy_name, ''), ${longestText}) AS "retryPolicyName"`

const shared = `${withoutJson},
  CASE WHEN (pg_catalog.pg_column_size(headers) > ${fewBytes} OR pg_catalog.pg_column_compression(headers) IS NOT NULL)
      AND octet_length(headers::text) > ${longestHeaders}
    THEN pg_catalog.to_jsonb('#'::text || octet_length(headers::text)::text) ELSE coalesce(nullif(headers, 'null'), '{}') END AS headers`

/** The parts of a row, as they are read in an inner SELECT, and as they are sent. */
export interface Columns {
  readonly read: Statement.Fragment
  readonly sent: Statement.Fragment
}

/** The payload as text: the driver's own parser rounds numbers. */
const payload = "payload::text AS payload"

/**
 * The parts of a row, for `SELECT ${sent} FROM (SELECT ${read} FROM .. OFFSET 0) AS message`. A payload that the driver does not
 * take with the rest of the row is held back: see `RowSize`. Its text is made once, by the inner SELECT: without the OFFSET
 * the planner makes two.
 */
export const columnsOf = (sql: PgClient.PgClient): Columns => ({
  read: fragment(`${shared}, ${payload}`),
  sent: fragment(`id, queue, state, attempts, "maxAttempts", "nextRetry", created, updated, "lastError", size, priority, headers,
    "retryPolicyName", CASE WHEN octet_length(payload) > ${longestRow(sql) - 3 * maxHeadersBytes} THEN '#'::text || octet_length(payload)::text ELSE payload END
      AS payload`)
})

/** The parts of a row without the payload. */
export const columnsWithoutPayload: Columns = {
  read: fragment(`${shared}, NULL::text AS payload`),
  sent: fragment("*")
}

/** The parts of a row without any JSON, as if it had been held back. */
export const bareColumns: Columns = {
  read: fragment(`${withoutJson}, '{}'::jsonb AS headers, '#${longestTextBytes}'::text AS payload`),
  sent: fragment("*")
}

type Parts = Omit<ReturnType<typeof rowOf>["Type"], "queue" | "payload">

/** The message with these parts, made past its constructor: 0.3 us, where the constructor takes 8 us. */
const toMessage = (parts: Parts, queue: string | null, payload: Schema.Json | undefined): SpoolMessage =>
  instanceOf(SpoolMessage, {
    ...parts,
    ...(queue === null ? {} : { queue }),
    ...(payload === undefined ? {} : { payload })
  })

const isHeaders = (value: unknown): value is Readonly<Record<string, string>> =>
  Predicate.isObject(value) && !Array.isArray(value) && Object.values(value).every(Predicate.isString)

const timeOf = (value: unknown): DateTime.Utc | undefined =>
  value instanceof Date && !Number.isNaN(value.getTime()) ? DateTime.fromDateUnsafe(value) : undefined

/** The message of a row that has the usual types, which are checked by hand: 1 us, where the schema takes 12 us. */
const plainMessage = (row: unknown, integers: LargeIntegers): SpoolMessage | undefined => {
  if (!Predicate.isObject(row)) return undefined
  const { attempts, headers, id, lastError, maxAttempts, payload, priority, queue, retryPolicyName, size } = row
  const state = stateOfCode(row.state)
  const [nextRetry, created, updated] = [timeOf(row.nextRetry), timeOf(row.created), timeOf(row.updated)]
  if (
    state === undefined ||
    nextRetry === undefined ||
    created === undefined ||
    updated === undefined ||
    typeof id !== "string" ||
    (typeof queue !== "string" && queue !== null) ||
    typeof attempts !== "number" ||
    typeof maxAttempts !== "number" ||
    typeof lastError !== "string" ||
    typeof size !== "bigint" ||
    typeof priority !== "number" ||
    typeof retryPolicyName !== "string" ||
    (typeof payload !== "string" && payload !== null) ||
    !isHeaders(headers)
  ) {
    return undefined
  }
  const parsed = payload === null ? undefined : parseExact(payload, integers)
  if (payload !== null && parsed === undefined) return undefined
  return toMessage(
    {
      id,
      state,
      attempts,
      maxAttempts,
      nextRetry,
      created,
      updated,
      lastError,
      size,
      priority,
      headers,
      retryPolicyName
    },
    queue,
    parsed
  )
}

/** What rows have become. */
export interface Decoded {
  readonly messages: Array<SpoolMessage>
  /** What is wrong with each row that does not fit the model. */
  readonly corrupt: Array<CorruptRow>
}

/** The error of a row of which the payload or the headers were held back. */
const tooLargeRow = (table: string, row: unknown): CorruptRow | undefined => {
  if (!Predicate.isObject(row)) return undefined
  for (const part of [row.payload, row.headers]) {
    const bytes = typeof part === "string" ? heldBackBytes(part) : undefined
    if (bytes !== undefined) return tooLarge(table, String(row.id), bytes)
  }
  return undefined
}

/** Decodes rows of the table with this name, each by itself. A row that is not plain is left to the schema. */
export const messageDecoder = (table: string, integers: LargeIntegers): ((rows: ReadonlyArray<unknown>) => Decoded) => {
  const decode = decodeRow(rowOf(integers), table, ["id"])
  return (rows) => {
    const decoded: Decoded = { messages: [], corrupt: [] }
    for (const row of rows) {
      const plain = plainMessage(row, integers)
      if (plain !== undefined) {
        decoded.messages.push(plain)
        continue
      }
      const tooLarge = tooLargeRow(table, row)
      if (tooLarge !== undefined) {
        decoded.corrupt.push(tooLarge)
        continue
      }
      const result = decode(row)
      if (Result.isFailure(result)) {
        decoded.corrupt.push(result.failure)
        continue
      }
      const { payload, queue, ...parts } = result.success
      decoded.messages.push(toMessage(parts, queue, payload ?? undefined))
    }
    return decoded
  }
}
