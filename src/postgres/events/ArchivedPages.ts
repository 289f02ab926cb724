/**
 * The events of archived parts as the lines of their files have them, in pages of which each is checked by itself: most readers
 * do not come to the end of a file, where its checksum is.
 */
import { Effect, Semaphore, Stream } from "effect"
import { createHash } from "node:crypto"
import * as ArchiveFile from "./ArchiveFile.ts"
import type * as ArchiveTable from "./ArchiveTable.ts"
import { inBatches } from "./Batches.ts"
import type { ArchiveError, EventArchive } from "./EventArchive.ts"
import * as EventLines from "./EventLines.ts"

type Archive = EventArchive["Service"]

/** An event as its line has it: its JSON is text. */
export type ArchivedRow = typeof EventLines.Row.Type

type Checksums = ReadonlyArray<string>

/** The checksums of the pages of each file that was read to its end. One file of an archive is read at a time for that. */
interface Verified {
  readonly byFile: Map<string, Checksums>
  readonly turn: Semaphore.Semaphore
}

const verifiedOf = new WeakMap<Archive, Verified>()

const checksumOf = (lines: ReadonlyArray<string>): string =>
  createHash("sha256").update(lines.join("\n")).digest("base64")

const pagesOf = (archive: Archive, part: ArchiveTable.Part) =>
  inBatches(ArchiveFile.linesOf(archive, part), (line) => line.length)

/** Reads a file to its end, unless this process has done that. Returns the checksums of its pages. */
const verify = (archive: Archive, part: ArchiveTable.Part): Effect.Effect<Checksums, ArchiveError> =>
  Effect.suspend(() => {
    const verified = verifiedOf.get(archive) ?? { byFile: new Map(), turn: Semaphore.makeUnsafe(1) }
    verifiedOf.set(archive, verified)
    const { byFile, turn } = verified
    const key = `${part.sha256} ${part.name}`
    const read = Effect.suspend(() => {
      const known = byFile.get(key)
      return known !== undefined
        ? Effect.succeed(known)
        : Effect.tap(Stream.runCollect(Stream.map(pagesOf(archive, part), checksumOf)), (checksums) =>
            Effect.sync(() => byFile.set(key, checksums))
          )
    })
    return Semaphore.withPermit(turn, read)
  })

/** The rows of a part above a version, in pages. */
export const rowsAfter = (
  archive: Archive,
  part: ArchiveTable.Part,
  after: bigint
): Stream.Stream<ReadonlyArray<ArchivedRow>, ArchiveError> => {
  const rowsOf = (
    lines: ReadonlyArray<string>,
    checksum: string | undefined
  ): Effect.Effect<ReadonlyArray<ArchivedRow>, ArchiveError> =>
    Effect.suspend(() => {
      const found: Array<ArchivedRow> = []
      if (checksumOf(lines) !== checksum) {
        return Effect.fail(ArchiveFile.damaged(part.name, "has changed since it was read before"))
      }
      if (EventLines.versionOfLine(lines.at(-1) ?? "") <= after) return Effect.succeed(found)
      for (const line of lines) {
        if (EventLines.versionOfLine(line) <= after) continue
        const row = EventLines.rowOf(line)
        if (row === undefined) return Effect.fail(ArchiveFile.damaged(part.name, "has a line that is no event"))
        found.push(row)
      }
      return Effect.succeed(found)
    })
  return Stream.unwrap(
    Effect.map(verify(archive, part), (checksums) =>
      Stream.mapEffect(Stream.zipWithIndex(pagesOf(archive, part)), ([lines, page]) => rowsOf(lines, checksums[page]))
    )
  )
}
