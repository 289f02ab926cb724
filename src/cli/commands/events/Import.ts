/** `strata events import`: events from a file of JSON lines, or from go-sync-kit's SQLite store. */
import { Effect, Option, type Scope, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { PostgresDatabase } from "../../../postgres/database/PostgresDatabase.ts"
import { longestBytes } from "../../../postgres/database/RowSize.ts"
import * as Batches from "../../../postgres/events/Batches.ts"
import * as Importing from "../../../postgres/events/Importing.ts"
import * as Parameters from "../../arguments/Parameters.ts"
import * as Database from "../../connection/Database.ts"
import { CommandFailed, WrongUsage } from "../../terminal/CommandErrors.ts"
import type { HostProcess } from "../../terminal/HostProcess.ts"
import * as Output from "../../terminal/Output.ts"
import * as Progress from "../../terminal/Progress.ts"
import { resumable } from "../../terminal/Resuming.ts"
import * as EventFile from "../../transfer/EventFile.ts"
import { bytesOf, type FileError, linesOf, stdin } from "../../transfer/Lines.ts"
import { openDraft } from "../../transfer/NewFile.ts"
import * as SqliteFile from "../../transfer/SqliteFile.ts"
import type { Limits } from "../../transfer/StorableValues.ts"

const flags = {
  file: Argument.String("file").pipe(
    Argument.optional,
    Argument.withDescription("A file that strata events export has written; - for stdin")
  ),
  sqlite: Flag.String("sqlite").pipe(
    Flag.optional,
    Flag.withMetavar("FILE"),
    Flag.withDescription("The SQLite file of go-sync-kit instead")
  ),
  map: Flag.String("map").pipe(
    Flag.optional,
    Flag.withMetavar("FILE"),
    Flag.withDescription("Where to write the old and the new version of each event; FILE.versions.jsonl unless given")
  ),
  unchecked: Parameters.toggle("unchecked", "Accept JSON lines without a checksum at their end"),
  verify: Parameters.toggle("verify", "Import nothing: compare each event, and the order of the events, with the log")
}

/** Where the events come from. */
interface Source {
  readonly name: string
  /** How many events there are, if that can be known. */
  readonly total: number | undefined
  readonly entries: Stream.Stream<Importing.Entry, CommandFailed | FileError, HostProcess>
}

/** Looks through the whole file first, so that nothing of a damaged file is imported. */
const jsonLines = Effect.fnUntraced(function* (
  path: string,
  checked: boolean,
  limits: Limits
): Effect.fn.Return<Source, CommandFailed | FileError> {
  const { checksum, complete } = yield* EventFile.scan(path)
  if (checked && !complete) return yield* EventFile.incomplete(path)
  return {
    name: path,
    total: checksum.events,
    entries: EventFile.entriesOf(path, linesOf(bytesOf(path)), { checked, ...limits })
  }
})

const sqliteFile = Effect.fnUntraced(function* (
  path: string,
  limits: Limits
): Effect.fn.Return<Source, CommandFailed, Scope.Scope> {
  return { name: path, ...(yield* SqliteFile.read(path, limits)) }
})

const sourceOf = Effect.fnUntraced(function* ({
  file,
  sqlite,
  unchecked
}: Command.Command.Config.Infer<typeof flags>): Effect.fn.Return<
  Source,
  CommandFailed | FileError | WrongUsage,
  Scope.Scope | PostgresDatabase
> {
  if (Option.isSome(file) === Option.isSome(sqlite)) {
    return yield* new WrongUsage({ message: "give a file of JSON lines, - for stdin, or --sqlite FILE" })
  }
  const limits = { maxBytes: longestBytes((yield* PostgresDatabase).sql) }
  if (Option.isSome(sqlite)) return yield* sqliteFile(sqlite.value, limits)
  const path = Option.getOrElse(file, () => "-")
  if (path !== "-") return yield* jsonLines(path, !unchecked, limits)
  return {
    name: "stdin",
    total: undefined,
    entries: EventFile.entriesOf("stdin", linesOf(stdin), { checked: !unchecked, ...limits })
  }
})

/** The events in batches, each of which a transaction imports. */
const inBatches = <E, R>(entries: Stream.Stream<Importing.Entry, E, R>) =>
  Batches.inBatches(entries, ({ json }) => json.length)

/**
 * A file with the old and the new version of each event. It appears under its name once all events are imported, and not at
 * all if the import fails.
 */
const mappingTo = Effect.fnUntraced(function* (path: string) {
  const { append, finish } = yield* openDraft(path)
  const lineOf = ({ entry, version }: Importing.Written) =>
    `${JSON.stringify({ from: entry.from, to: String(version), id: entry.id })}\n`
  return {
    add: (written: ReadonlyArray<Importing.Written>) => append(written.map(lineOf).join("")),
    finish
  }
})

const importAll = Effect.fnUntraced(function* ({ entries, name, total }: Source, mapping: string | undefined) {
  const { write } = yield* Importing.make
  const map = mapping === undefined ? undefined : yield* mappingTo(mapping)
  let added = 0
  let seen = 0
  const work = Progress.during({ verb: "imported", total }, ({ advance }) =>
    Stream.runForEach(inBatches(entries), (batch) =>
      Effect.gen(function* () {
        const written = yield* write(batch)
        seen += written.length
        added += written.filter(({ isNew }) => isNew).length
        if (map !== undefined) yield* map.add(written)
        yield* advance(written.length)
      })
    )
  )
  yield* resumable(work, () => Output.count(seen, "event"))
  if (map !== undefined) yield* map.finish
  const already = seen - added
  yield* Output.done(
    `${Output.count(added, "event")} imported from ${name}` +
      (already === 0 ? "" : `, ${already.toLocaleString("en-US")} were there already`) +
      (mapping === undefined ? "" : `; their versions are in ${mapping}`),
    { events: seen, added, already, ...(mapping === undefined ? {} : { versions: mapping }) }
  )
})

/** How many differences are named, each in a line. */
const maxNamedDifferences = 10

/** What is stored under the id of an event, compared with that event. */
interface Stored {
  readonly version: bigint
  readonly same: boolean
  readonly sameTime: boolean
}

/** How an event differs from what is stored under its id; nothing if it does not. `highest` is the highest version before. */
const differenceOf = (stored: Stored | undefined, highest: bigint): string | undefined => {
  if (stored === undefined) return "is not in the log"
  if (!stored.same) return "has another aggregate, type, data or metadata in the log"
  if (!stored.sameTime) return "has another time in the log"
  return stored.version <= highest ? "is in the log before an event that it should follow" : undefined
}

const verifyAll = Effect.fnUntraced(function* ({ entries, name, total }: Source) {
  const { look } = yield* Importing.make
  let events = 0
  let differences = 0
  let highest = 0n
  yield* Progress.during({ verb: "compared", total }, ({ advance, say }) =>
    Stream.runForEach(inBatches(entries), (batch) =>
      Effect.gen(function* () {
        const stored = yield* look(batch)
        for (const entry of batch) {
          const found = stored.get(entry.id)
          const difference = differenceOf(found, highest)
          if (difference !== undefined && ++differences <= maxNamedDifferences) {
            say(`${entry.where}: the event "${entry.id}" ${difference}`)
          }
          if (found !== undefined && found.version > highest) highest = found.version
        }
        events += batch.length
        yield* advance(batch.length)
      })
    )
  )
  if (differences > 0) {
    const message = `${Output.count(differences, "event")} of ${events.toLocaleString("en-US")} of ${name} differ from the log`
    return yield* new CommandFailed({
      message: differences > maxNamedDifferences ? `${message}; the first ${maxNamedDifferences} are above` : message
    })
  }
  yield* Output.done(`${Output.count(events, "event")} of ${name} are in the log, unchanged and in the same order`, {
    events
  })
})

export const importEvents = Command.make("import", flags).pipe(
  Command.withDescription(
    "Imports events in their order, with their ids and times. Leaves out those whose id is in the log: run it again to go on"
  ),
  Command.withExamples([
    { command: "strata events import events.jsonl", description: "A file that strata events export has written" },
    { command: "strata events import --sqlite events.db", description: "The SQLite store of go-sync-kit" },
    { command: "strata events import --sqlite events.db --verify", description: "Is all of it here, in its order?" }
  ]),
  Command.withHandler((input) =>
    Effect.gen(function* () {
      const source = yield* sourceOf(input)
      if (input.verify) return yield* verifyAll(source)
      const beside = source.name === "stdin" ? undefined : `${source.name}.versions.jsonl`
      yield* importAll(
        source,
        Option.getOrElse(input.map, () => beside)
      )
    }).pipe(Effect.scoped)
  ),
  Command.provide(Database.layer)
)
