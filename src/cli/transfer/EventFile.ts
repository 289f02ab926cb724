/**
 * Files of events: what `strata events export` has written, and `import` reads. `postgres/events/EventLines` makes their lines.
 *
 * **Details**
 *
 * Each event is a line of JSON, in the order of the log. The last line has the number of the events and the SHA-256 of all
 * lines before it; a file without that line is not complete. JSON goes from `jsonb` to `jsonb` as text, so that numbers
 * which JavaScript would round survive, as well as the microseconds of a time.
 */
import { Effect, Schema, Stream } from "effect"
import { Tags } from "../../EventStore.ts"
import { Checksum } from "../../postgres/events/EventLines.ts"
import type { Entry } from "../../postgres/events/Importing.ts"
import { CommandFailed } from "../terminal/CommandErrors.ts"
import { bytesOf, type FileError, type Line, linesOf } from "./Lines.ts"
import { faultOf, isKey, type Limits, timestampOf } from "./StorableValues.ts"

const parse = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

const isChecksumLine = (text: string) => text.startsWith('{"events":')

const firstBytes = '{"version":"'

/** Whether an export can begin with this text, which may itself be cut off. */
export const isBeginning = (text: string) => firstBytes.startsWith(text.slice(0, firstBytes.length))

/** What a look through a file has found. */
export interface Scan {
  readonly checksum: Checksum
  /** The number of bytes up to the end of the last whole event. */
  readonly end: number
  readonly lastEvent: string | undefined
  /** The text after the last line feed. */
  readonly rest: string | undefined
  /** Whether the file ends with its checksum, and the checksum is right. */
  readonly complete: boolean
}

const damaged = (path: string) =>
  new CommandFailed({ message: `${path} is damaged: its checksum is not that of its events; export it again` })

/** The error for a file that ends before its checksum. */
export const incomplete = (name: string) =>
  new CommandFailed({
    message: `${name} is not complete: it does not end with its checksum; export it again, or say --unchecked`
  })

/** Looks through a file. Fails if its checksum is wrong. */
export const scan = Effect.fnUntraced(function* (
  path: string,
  bytes: Stream.Stream<Uint8Array, FileError> = bytesOf(path)
): Effect.fn.Return<Scan, CommandFailed | FileError> {
  const checksum = new Checksum()
  let end = 0
  let lastEvent: string | undefined
  let rest: string | undefined
  let complete = false
  yield* Stream.runForEachArray(linesOf(bytes), (lines) =>
    Effect.gen(function* () {
      for (const { complete: whole, end: endOfLine, text } of lines) {
        if (complete) return yield* damaged(path)
        // A line is cut off when the machine goes down while it is written. The next export writes it again.
        if (!whole) {
          rest = text
          break
        }
        if (isChecksumLine(text)) {
          if (`${text}\n` !== checksum.line) return yield* damaged(path)
          complete = true
        } else {
          checksum.add(`${text}\n`, 1)
          lastEvent = text
          end = endOfLine
        }
      }
    })
  )
  return { checksum, end, lastEvent, rest, complete }
})

const areTags = Schema.is(Tags)

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const knownParts = new Set([
  "version",
  "id",
  "aggregateId",
  "eventType",
  "createdAt",
  "tags",
  // Which of the next two are SQL's NULL, in the file of an archive. An import knows JSON's null only.
  "nulls",
  "data",
  "metadata",
  "streamName"
])

/** The event of a line, or what is wrong with the line. */
export const entryOf = (where: string, text: string, limits: Limits): Entry | CommandFailed => {
  const wrong = (message: string) => new CommandFailed({ message: `${where} is no event: ${message}` })
  const value = parse(text)
  if (!isRecord(value)) return wrong("it is no JSON object")
  const { aggregateId, createdAt = null, data, eventType, id, metadata = null, tags = [], version } = value
  const excess = Object.keys(value).find((name) => !knownParts.has(name))
  if (excess !== undefined) return wrong(`"${excess}" is no part of an event`)
  if (!isKey(id) || !isKey(aggregateId) || !isKey(eventType)) {
    return wrong("its id, aggregateId and eventType have to be texts of 1 to 512 characters")
  }
  if (data === undefined) return wrong('it has no "data"')
  if (metadata !== null && !isRecord(metadata)) return wrong('"metadata" has to be an object or null')
  if (!areTags(tags)) return wrong('"tags" has to be a list of at most 64 texts of 1 to 255 characters, each once')
  const time = createdAt === null ? null : timestampOf(createdAt)
  if (time === undefined) return wrong('"createdAt" has to be a time such as 2026-01-31T12:00:00Z')
  const fault = faultOf(text, () => value, limits, { id, aggregateId, eventType, createdAt, version })
  if (fault !== undefined) return wrong(fault)
  return {
    where,
    from: typeof version === "string" ? version : undefined,
    id,
    aggregateId,
    eventType,
    createdAt: time,
    tags,
    json: text
  }
}

/**
 * The events of lines. A checksum at their end has to be right, and with `checked` it has to be there.
 *
 * **Gotchas**
 *
 * The checksum comes after the events. To import nothing of a damaged file, `scan` it before.
 */
export const entriesOf = <R>(
  name: string,
  lines: Stream.Stream<Line, FileError, R>,
  { checked, ...limits }: { readonly checked: boolean } & Limits
): Stream.Stream<Entry, FileError | CommandFailed, R> =>
  Stream.suspend(() => {
    const checksum = new Checksum()
    let complete = false
    const take = (chunk: ReadonlyArray<Line>): Effect.Effect<ReadonlyArray<Entry>, CommandFailed> =>
      Effect.gen(function* () {
        const entries: Array<Entry> = []
        for (const { number, text } of chunk) {
          if (isChecksumLine(text)) {
            if (`${text}\n` !== checksum.line || complete) return yield* damaged(name)
            complete = true
          } else if (text.trim() !== "") {
            const entry = entryOf(`line ${number} of ${name}`, text, limits)
            if (entry instanceof CommandFailed) return yield* entry
            checksum.add(`${text}\n`, 1)
            entries.push(entry)
          }
        }
        return entries
      })
    const whole = Effect.suspend(() => (checked && !complete ? Effect.fail(incomplete(name)) : Effect.void))
    return Stream.flattenIterable(Stream.mapEffect(Stream.chunks(lines), take)).pipe(Stream.onEnd(whole))
  })
