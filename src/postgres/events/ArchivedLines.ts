/**
 * How the file of an archived part of the log is read: `Exporting` has made its lines, and their checksum.
 *
 * **Details**
 *
 * The checksum is at the end, and a reader gives away events before it has come there. So a file is read to its end once before any
 * event of it is given, and every reader of this process relies on that then.
 */
import { Effect, Predicate, Stream } from "effect"
import { pipeline, Readable } from "node:stream"
import { createGunzip } from "node:zlib"
import { ArchiveError, type EventArchive } from "./EventArchive.ts"
import { Checksum, type Row } from "./Exporting.ts"

/** What is known of a file. */
export interface File {
  readonly name: string
  readonly events: number
  /** The checksum of its lines. */
  readonly sha256: string
}

/** An event as a line of the file has it. */
export type ArchivedRow = typeof Row.Type

const damaged = ({ name }: File, what: string, cause?: unknown) =>
  new ArchiveError({ reason: "Damaged", name, message: `the file ${name} ${what}`, ...(cause === undefined ? {} : { cause }) })

const uncompressed = (file: File, bytes: Stream.Stream<Uint8Array, ArchiveError>): Stream.Stream<Uint8Array, ArchiveError> =>
  Stream.unwrap(
    Effect.gen(function* () {
      const compressed = yield* Stream.toAsyncIterableEffect(bytes)
      const plain = yield* Effect.acquireRelease(
        Effect.sync(() => pipeline(Readable.from(compressed, { objectMode: false }), createGunzip(), () => {})),
        (plain) => Effect.sync(() => plain.destroy())
      )
      return Stream.fromAsyncIterable<Uint8Array, ArchiveError>(plain, (cause) =>
        cause instanceof ArchiveError ? cause : damaged(file, "cannot be uncompressed", cause)
      )
    })
  )

const lineFeed = 10

/** The lines as they come, without their line feeds. What comes after the last line feed is left out. */
const linesOf = <E>(bytes: Stream.Stream<Uint8Array, E>): Stream.Stream<ReadonlyArray<string>, E> =>
  Stream.suspend(() => {
    let rest: Array<Uint8Array> = []
    return Stream.map(bytes, (chunk) => {
      const end = chunk.lastIndexOf(lineFeed)
      if (end === -1) {
        rest.push(chunk)
        return []
      }
      const whole = Buffer.concat([...rest, chunk.subarray(0, end)])
      rest = [chunk.subarray(end + 1)]
      return whole.toString("utf8").split("\n")
    })
  })

const isChecksum = (line: string): boolean => line.startsWith('{"events":')

const firstBytes = '{"version":"'

/** The version of a line, which is its first part. */
export const versionOfLine = (line: string): bigint => {
  const digits = line.startsWith(firstBytes) ? line.slice(firstBytes.length, line.indexOf('"', firstBytes.length)) : ""
  return /^\d{1,19}$/.test(digits) ? BigInt(digits) : -1n
}

/** The lines of events, in pages. */
export const pagesOf = (archive: EventArchive["Service"], file: File): Stream.Stream<ReadonlyArray<string>, ArchiveError> =>
  Stream.map(linesOf(uncompressed(file, archive.read(file.name))), (lines) =>
    isChecksum(lines.at(-1) ?? "") ? lines.slice(0, -1) : lines
  )

/** Reads all of a file. Fails if it is not complete, or not the one that was archived. */
export const verify = Effect.fnUntraced(function* (
  archive: EventArchive["Service"],
  file: File
): Effect.fn.Return<void, ArchiveError> {
  const checksum = new Checksum()
  let last = ""
  yield* Stream.runForEach(linesOf(uncompressed(file, archive.read(file.name))), (lines) =>
    Effect.suspend(() => {
      const events = lines.filter((line) => !isChecksum(line))
      if (last !== "" && lines.length > 0) return Effect.fail(damaged(file, "goes on after its checksum"))
      if (events.length < lines.length) last = `${lines.at(-1)}\n`
      checksum.add(events.map((line) => `${line}\n`).join(""), events.length)
      return Effect.void
    })
  )
  if (last === "") return yield* damaged(file, "is not complete: it has no checksum")
  if (last !== checksum.line) return yield* damaged(file, "is damaged: its checksum is not that of its events")
  if (checksum.events !== file.events || checksum.sha256 !== file.sha256) {
    return yield* damaged(file, "is not the one that was archived")
  }
})

const isText = (value: unknown): value is string => typeof value === "string"

const isTags = (value: unknown): value is ReadonlyArray<string> => Array.isArray(value) && value.every(isText)

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
 * The event of a line. Its JSON stays text, for numbers that JavaScript would round: `jsonb` as text has a space before each key and
 * after each colon, and in a text a quote is escaped, so what stands before the two parts is nowhere else in the line.
 */
export const rowOf = (file: File, line: string): ArchivedRow | ArchiveError => {
  const data = line.indexOf(beforeData)
  const metadata = line.lastIndexOf(beforeMetadata)
  const { aggregateId, createdAt, eventType, id, tags = null }: Record<string, unknown> = {
    ...headOf(`${line.slice(0, data)}}`)
  }
  const version = versionOfLine(line)
  return version < 0n ||
    !isText(id) ||
    !isText(aggregateId) ||
    !isText(eventType) ||
    !(createdAt === null || isText(createdAt)) ||
    !(tags === null || isTags(tags))
    ? damaged(file, "has a line that is no event")
    : {
        version,
        id,
        aggregateId,
        eventType,
        createdAtText: createdAt,
        tags,
        data: line.slice(data + beforeData.length, metadata),
        metadata: line.slice(metadata + beforeMetadata.length, -1)
      }
}

/** When Postgres began to count microseconds. */
const epochMillis = Date.UTC(2000, 0, 1)

/** The time of a row, as the driver makes it of the microseconds that it gets: towards the year 2000. */
export const timeOf = (text: string | null): Date | null => {
  if (text === null) return null
  const point = text.lastIndexOf(".")
  const seconds = Date.parse(`${text.slice(0, point)}Z`)
  const micros = Number(text.slice(point + 1, -1))
  const millis = seconds + micros / 1000
  return new Date(millis < epochMillis ? Math.ceil(millis) : Math.floor(millis))
}
