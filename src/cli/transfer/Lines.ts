/** The lines of a file or of stdin as they come in, with their numbers and where they end. */
import { Effect, Schema, Stream } from "effect"
import { type FileHandle, open } from "node:fs/promises"
import { HostProcess } from "../terminal/HostProcess.ts"

/** A file or stdin cannot be read or written. */
export class FileError extends Schema.TaggedError<FileError>("effect-strata/cli/FileError")("FileError", {
  message: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {}

/** The system's own message about a file, with the path in front unless the message names it. */
export const fileError = (path: string, cause: unknown): FileError => {
  const message = cause instanceof Error ? cause.message : String(cause)
  return new FileError({ message: message.includes(path) ? message : `${path}: ${message}`, cause })
}

export interface Line {
  readonly text: string
  /** The first line is number 1. */
  readonly number: number
  /** How many bytes the file has up to the end of the line, its line feed included. */
  readonly end: number
  /** Whether the line ends with a line feed. Without one the file may have been cut off in the middle of the line. */
  readonly complete: boolean
}

const bytesOfChunk = (chunk: unknown): Uint8Array => (chunk instanceof Uint8Array ? chunk : Buffer.from(String(chunk)))

/** The bytes of stdin. */
export const stdin: Stream.Stream<Uint8Array, FileError, HostProcess> = Stream.unwrap(
  HostProcess.useSync(({ stdin }) =>
    Stream.map(
      Stream.fromAsyncIterable(stdin, (cause) => fileError("stdin", cause)),
      bytesOfChunk
    )
  )
)

const readBytes = 256 * 1024

/** Closes a file that was read or written to its end, or given up. */
export const closing = (file: FileHandle) => Effect.promise(() => file.close().catch(() => {}))

/** The bytes of a file that is open. It stays open. */
export const bytesOfOpen = (path: string, file: FileHandle): Stream.Stream<Uint8Array, FileError> =>
  Stream.suspend(() =>
    Stream.fromAsyncIterable(file.createReadStream({ autoClose: false, highWaterMark: readBytes, start: 0 }), (cause) =>
      fileError(path, cause)
    )
  )

/** The bytes of a file. */
export const bytesOf = (path: string): Stream.Stream<Uint8Array, FileError> =>
  Stream.unwrap(
    Effect.map(
      Effect.acquireRelease(
        Effect.tryPromise({ try: () => open(path), catch: (cause) => fileError(path, cause) }),
        closing
      ),
      (file) =>
        Stream.fromAsyncIterable(file.createReadStream({ autoClose: false, highWaterMark: readBytes }), (cause) =>
          fileError(path, cause)
        )
    )
  )

const lineFeed = 10

/** Splits bytes into lines. Bytes that are not UTF-8 become U+FFFD. */
export const linesOf = <E, R>(bytes: Stream.Stream<Uint8Array, E, R>): Stream.Stream<Line, E, R> =>
  Stream.suspend(() => {
    let rest: Array<Uint8Array> = []
    let number = 0
    let end = 0
    const lineOf = (parts: ReadonlyArray<Uint8Array>, complete: boolean): Line => {
      const all = Buffer.concat(parts)
      number++
      end += all.length
      return { text: all.toString("utf8", 0, all.length - (complete ? 1 : 0)), number, end, complete }
    }
    const split = (chunk: Uint8Array): Array<Line> => {
      const lines: Array<Line> = []
      let start = 0
      for (let at = chunk.indexOf(lineFeed); at !== -1; at = chunk.indexOf(lineFeed, start)) {
        lines.push(lineOf([...rest, chunk.subarray(start, at + 1)], true))
        rest = []
        start = at + 1
      }
      if (start < chunk.length) rest.push(chunk.subarray(start))
      return lines
    }
    const last = Stream.suspend(() => (rest.length === 0 ? Stream.empty : Stream.succeed(lineOf(rest, false))))
    return Stream.concat(Stream.flattenIterable(Stream.map(bytes, split)), last)
  })
