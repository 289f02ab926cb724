/** What of the log is archived: whether its files are there, and can be read here. */
import { Effect, Option, Schema, Stream } from "effect"
import { count } from "../internal/Words.ts"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import * as ArchiveFile from "../postgres/events/ArchiveFile.ts"
import * as ArchiveTable from "../postgres/events/ArchiveTable.ts"
import { type ArchiveError, EventArchive } from "../postgres/events/EventArchive.ts"
import { type Finding, type Findings, ok, orOk, problem, rows, warning } from "./Check.ts"

const Least = Schema.Struct({ version: Schema.NullOr(Schema.BigInt) })

/** How many files are named. */
const mostNamed = 3

/** A part with its events, in words. */
const textOf = ({ endVersion, events, firstVersion }: ArchiveTable.Part): string =>
  `${count(events, "event")} of the versions ${firstVersion} to ${endVersion - 1n}`

const lost = (part: ArchiveTable.Part, { message, name }: ArchiveError): Finding =>
  problem(
    `${textOf(part)} cannot be read: ${message}`,
    `bring ${name} back from a copy, or give this command the archive that has it: DB_ARCHIVE_DIR`
  )

/** What this gives for each part: nothing if it is well. */
const each = (
  parts: ReadonlyArray<ArchiveTable.Part>,
  look: (part: ArchiveTable.Part) => Effect.Effect<unknown, ArchiveError>
) =>
  Effect.map(
    Effect.forEach(
      parts,
      (part) => Effect.match(look(part), { onFailure: (error) => [lost(part, error)], onSuccess: () => [] }),
      { concurrency: 4 }
    ),
    (findings) => findings.flat()
  )

const withoutArchive = (parts: ReadonlyArray<ArchiveTable.Part>): Finding =>
  problem(
    `${count(parts.length, "part")} of the log ${parts.length === 1 ? "is" : "are"} archived, and no archive is given here: whoever reads old events fails`,
    "set DB_ARCHIVE_DIR, also for the application, or give its layer an EventArchive; or run: strata restore --dir DIR"
  )

/** What was left behind in the archive. */
export const leftIn = ({ leftovers }: EventArchive["Service"]): Effect.Effect<ReadonlyArray<Finding>> =>
  leftovers === undefined
    ? Effect.succeed([])
    : Effect.match(leftovers, {
        onFailure: ({ message }) => [
          problem(
            `the archive cannot be listed: ${message}`,
            "see that this command may read it, or set DB_ARCHIVE_DIR"
          )
        ],
        onSuccess: (names) =>
          names.length === 0
            ? []
            : [
                warning(
                  `${count(names.length, "file")} of the archive ${names.length === 1 ? "was" : "were"} left unfinished by a process ` +
                    `that was killed: ${names.slice(0, mostNamed).join(", ")}${names.length > mostNamed ? ", .." : ""}`,
                  `run strata archive, which removes what nobody writes any more, or delete ${names.length === 1 ? "it" : "them"}`
                )
              ]
      })

/** Are the files of archived events there, and is nothing of them in the table, too? */
export const archive: Findings = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const parts = yield* ArchiveTable.listVisible(database)
  const end = parts.at(-1)?.endVersion
  const given = yield* Effect.serviceOption(EventArchive)
  const left = Option.isNone(given) ? [] : yield* leftIn(given.value)
  if (end === undefined) return left
  if (Option.isNone(given)) return [withoutArchive(parts)]
  const [least] = yield* rows(Least, database.sql`SELECT min(version) AS version FROM ${database.tables.events}`)
  const twice =
    least !== undefined && least.version !== null && least.version < end
      ? [
          problem(
            `version ${least.version} is in the table, and everything below version ${end} is archived`,
            "delete from the table what is below that version, once it is certain that the files have it"
          )
        ]
      : []
  // The beginning of a file says whether it is there.
  const missing = yield* each(parts, ({ name }) =>
    Effect.flatMap(Stream.runHead(given.value.read(name)), (head) =>
      Option.isNone(head) ? Effect.fail(ArchiveFile.damaged(name, "is empty")) : Effect.void
    )
  )
  const events = parts.reduce((sum, part) => sum + part.events, 0)
  return orOk(
    [...twice, ...missing, ...left],
    `all below version ${end}: ${count(events, "event")} in ${count(parts.length, "file")}, which are there`
  )
})

/** Does each file have the events that were archived? It is read as a whole. */
export const proveArchive: Effect.Effect<ReadonlyArray<Finding>, Error, PostgresDatabase> = Effect.gen(function* () {
  const parts = yield* Effect.flatMap(PostgresDatabase, ArchiveTable.listVisible)
  const given = yield* Effect.serviceOption(EventArchive)
  if (parts.length === 0 || Option.isNone(given)) return []
  const damaged = yield* each(parts, (part) => Stream.runDrain(ArchiveFile.linesOf(given.value, part)))
  return damaged.length > 0 ? damaged : ok(`${count(parts.length, "file")} with the checksums that were written down`)
})
