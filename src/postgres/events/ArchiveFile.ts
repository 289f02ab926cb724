/**
 * The files of archived events: the lines of `EventLines`, with a checksum at their end, compressed by gzip. `gunzip` makes of one
 * what `strata events import` reads.
 */
import { Effect, Option, Stream } from "effect"
import { ArchiveError, type EventArchive } from "./EventArchive.ts"
import { Checksum } from "./EventLines.ts"

type Archive = EventArchive["Service"]

/** Which file, and what it has to have. */
export interface File {
  readonly name: string
  readonly events: number
  readonly sha256: string
}

/** What was written. */
export interface Written extends File {
  /** How many bytes the file has, compressed as it is. */
  readonly bytes: number
}

/** Lines of events, and how many there are. */
export interface Lines {
  readonly text: string
  readonly count: number
}

export const damaged = (name: string, says: string, cause?: unknown): ArchiveError =>
  new ArchiveError({
    reason: "Damaged",
    name,
    message: `the archive file ${name} ${says}; bring it back from a copy`,
    ...(cause === undefined ? {} : { cause })
  })

/** Passes bytes through a transformation of the platform. What the stream fails with comes out of it. */
const through = <E, E2>(
  bytes: Stream.Stream<Uint8Array, E>,
  transformation: () => ReadableWritablePair<Uint8Array, Uint8Array>,
  onError: (cause: unknown) => E2
): Stream.Stream<Uint8Array, E | E2> =>
  Stream.suspend(() => {
    let failure: Option.Option<E> = Option.none()
    const source = Stream.tapError(bytes, (error) => Effect.sync(() => void (failure = Option.some(error))))
    return Stream.fromReadableStream<Uint8Array, E | E2>({
      evaluate: () => Stream.toReadableStream(source).pipeThrough(transformation()),
      onError: (cause) => Option.getOrElse(failure, () => onError(cause))
    })
  })

/** Writes a file of lines, with their checksum at its end, and says what is in it. */
export const write = <E>(
  { write }: Archive,
  name: string,
  lines: Stream.Stream<Lines, E>
): Effect.Effect<Written, ArchiveError | E> =>
  Effect.suspend(() => {
    const checksum = new Checksum()
    let bytes = 0
    const texts = Stream.map(lines, ({ count, text }) => {
      checksum.add(text, count)
      return text
    })
    const all = Stream.concat(
      texts,
      Stream.suspend(() => Stream.succeed(checksum.line))
    )
    const compressed = through(
      Stream.encodeText(all),
      () => new CompressionStream("gzip"),
      (cause) => new ArchiveError({ reason: "Failed", name, message: `${name} cannot be compressed`, cause })
    )
    const counted = Stream.map(compressed, (chunk) => {
      bytes += chunk.length
      return chunk
    })
    return Effect.map(write(name, counted), () => ({
      name,
      events: checksum.events,
      sha256: checksum.sha256,
      bytes
    }))
  })

const isChecksumLine = (text: string) => text.startsWith('{"events":')

/**
 * The lines of the events of a file. Fails with `"Damaged"` at the first sign that the file is not the one that was written: at its
 * end at the latest, so nothing that the lines are used for may last before that.
 */
export const linesOf = ({ read }: Archive, { events, name, sha256 }: File): Stream.Stream<string, ArchiveError> =>
  Stream.suspend(() => {
    const checksum = new Checksum()
    let complete = false
    const take = (chunk: ReadonlyArray<string>): Effect.Effect<ReadonlyArray<string>, ArchiveError> => {
      if (complete) return Effect.fail(damaged(name, "goes on after its checksum"))
      const last = chunk.at(-1) ?? ""
      complete = isChecksumLine(last)
      const lines = complete ? chunk.slice(0, -1) : chunk
      checksum.add(lines.map((line) => `${line}\n`).join(""), lines.length)
      const isWrong =
        complete && (`${last}\n` !== checksum.line || checksum.events !== events || checksum.sha256 !== sha256)
      return isWrong ? Effect.fail(damaged(name, "has another checksum than its events")) : Effect.succeed(lines)
    }
    const whole = Effect.suspend(() =>
      complete ? Effect.void : Effect.fail(damaged(name, "ends before its checksum"))
    )
    const bytes = through(
      read(name),
      () => new DecompressionStream("gzip"),
      (cause) => damaged(name, "cannot be uncompressed", cause)
    )
    const lines = Stream.splitLines(Stream.decodeText(bytes))
    return Stream.flattenIterable(Stream.mapEffect(Stream.chunks(lines), take)).pipe(Stream.onEnd(whole))
  })
