/**
 * The log as lines of JSON: an event in each, in the order of the log, and a checksum at their end.
 *
 * **Details**
 *
 * JSON goes from `jsonb` to text as the server writes it, so that numbers which JavaScript would round survive, as well as the
 * microseconds of a time.
 */
import { Predicate, Schema } from "effect"
import { createHash, type Hash } from "node:crypto"
import { printableJson } from "../../internal/PrintableJson.ts"

/** A row of the log, its JSON as text. */
export const Row = Schema.Struct({
  version: Schema.BigInt,
  id: Schema.String,
  aggregateId: Schema.String,
  eventType: Schema.String,
  data: Schema.NullOr(Schema.String),
  metadata: Schema.NullOr(Schema.String),
  createdAtText: Schema.NullOr(Schema.String),
  tags: Schema.NullOr(Schema.Array(Schema.String))
})

const lineWith = (row: typeof Row.Type, more: object): string => {
  const { aggregateId, createdAtText: createdAt, data, eventType, id, metadata, tags, version } = row
  const parts = {
    version: String(version),
    id,
    aggregateId,
    eventType,
    createdAt,
    ...(tags === null ? {} : { tags }),
    ...more
  }
  return printableJson(`${JSON.stringify(parts).slice(0, -1)},"data":${data},"metadata":${metadata}}\n`)
}

/** The line of an event. It may end on a terminal, so that nothing in it is a control character. */
export const lineOf = (row: typeof Row.Type): string => lineWith(row, {})

/** The same, with the names of those of its two parts that are SQL's NULL, where the other lines have JSON's null for both. */
export const exactLineOf = (row: typeof Row.Type): string => {
  const nulls = [...(row.data === null ? ["data"] : []), ...(row.metadata === null ? ["metadata"] : [])]
  return lineWith(row, nulls.length === 0 ? {} : { nulls })
}

/** Counts and hashes the lines of events, and makes the last line of them. */
export class Checksum {
  events = 0
  readonly hash: Hash

  constructor() {
    this.hash = createHash("sha256")
  }

  add(lines: string, count: number): void {
    this.hash.update(lines)
    this.events += count
  }

  /** The SHA-256 of the lines that were added. */
  get sha256(): string {
    return this.hash.copy().digest("hex")
  }

  /** The last line of a file with the lines that were added. */
  get line(): string {
    return `${JSON.stringify({ events: this.events, sha256: this.sha256 })}\n`
  }
}

const firstBytes = '{"version":"'

/** The version of a line, which is its first part. */
export const versionOfLine = (line: string): bigint => {
  const digits = line.startsWith(firstBytes) ? line.slice(firstBytes.length, line.indexOf('"', firstBytes.length)) : ""
  return /^\d{1,19}$/.test(digits) ? BigInt(digits) : -1n
}

const isText = (value: unknown): value is string => typeof value === "string"

const areTexts = (value: unknown): value is ReadonlyArray<string> => Array.isArray(value) && value.every(isText)

const headOf = (json: string): object | undefined => {
  try {
    const head: unknown = JSON.parse(json)
    return Predicate.isObject(head) ? head : undefined
  } catch {
    return undefined
  }
}

const beforeData = ',"data":'
const beforeMetadata = ',"metadata":'

/**
 * The event of a line, if it is one. Its JSON stays text, for numbers that JavaScript would round: `jsonb` as text has a space
 * before each key and after each colon, and in a text a quote is escaped, so what stands before the two parts is nowhere else in
 * the line.
 */
export const rowOf = (line: string): typeof Row.Type | undefined => {
  const data = line.indexOf(beforeData)
  const metadata = line.lastIndexOf(beforeMetadata)
  const {
    aggregateId,
    createdAt,
    eventType,
    id,
    nulls = [],
    tags = null
  }: Record<string, unknown> = {
    ...headOf(`${line.slice(0, data)}}`)
  }
  const version = versionOfLine(line)
  return version < 0n ||
    !isText(id) ||
    !isText(aggregateId) ||
    !isText(eventType) ||
    !(createdAt === null || isText(createdAt)) ||
    !areTexts(nulls) ||
    !(tags === null || areTexts(tags))
    ? undefined
    : {
        version,
        id,
        aggregateId,
        eventType,
        createdAtText: createdAt,
        tags,
        data: nulls.includes("data") ? null : line.slice(data + beforeData.length, metadata),
        metadata: nulls.includes("metadata") ? null : line.slice(metadata + beforeMetadata.length, -1)
      }
}

/** When Postgres began to count microseconds. */
const epochMillis = Date.UTC(2000, 0, 1)

/** The time of a row, as the driver makes it of the microseconds that it gets: towards the year 2000. It has no infinity. */
export const timeOf = (text: string | null): Date | null => {
  if (text === null) return null
  const point = text.lastIndexOf(".")
  const seconds = Date.parse(`${text.slice(0, point)}Z`)
  const micros = Number(text.slice(point + 1, -1))
  // In whole milliseconds: together they have more digits than a number, far from 1970.
  const millis = seconds + Math.floor(micros / 1000)
  return new Date(millis < epochMillis && micros % 1000 > 0 ? millis + 1 : millis)
}
