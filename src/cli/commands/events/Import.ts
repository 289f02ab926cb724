/** `strata events import`: events from a file of JSON lines, or from go-sync-kit's SQLite store. */
import { Effect, Option, type Scope, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { open, rename, rm } from "node:fs/promises"
import * as Importing from "../../../postgres/events/Importing.ts"
import { bytesOf, fileError, type FileError, linesOf, stdin } from "../../arguments/Lines.ts"
import * as Database from "../../Database.ts"
import { Failed, WrongUsage } from "../../terminal/Failure.ts"
import * as Output from "../../terminal/Output.ts"
import * as Progress from "../../terminal/Progress.ts"
import * as EventFile from "../../transfer/EventFile.ts"
import * as SqliteFile from "../../transfer/SqliteFile.ts"

/** One transaction each: large enough to be fast, and short enough for whoever appends meanwhile. */
const batchSize = 1000

interface Source {
  readonly name: string
  /** How many there are, if that can be known. */
  readonly total: number | undefined
  readonly entries: Stream.Stream<Importing.Entry, Failed | FileError>
}

const jsonLines = Effect.fnUntraced(function* (
  path: string,
  checked: boolean
): Effect.fn.Return<Source, Failed | FileError> {
  // Before anything is written: a damaged file is not imported in part.
  const { checksum, complete } = yield* EventFile.scan(path)
  if (checked && !complete) return yield* EventFile.incomplete(path)
  return {
    name: path,
    total: checksum.events,
    entries: EventFile.entriesOf(path, linesOf(bytesOf(path)), { checked })
  }
})

const sqlite = Effect.fnUntraced(function* (path: string): Effect.fn.Return<Source, Failed, Scope.Scope> {
  return { name: path, ...(yield* SqliteFile.read(path)) }
})

/** Writes which version each event had there and has here: beside the file, complete or not at all. */
const mappingTo = Effect.fnUntraced(function* (path: string) {
  const attempt = <A>(f: () => Promise<A>) => Effect.tryPromise({ try: f, catch: (cause) => fileError(path, cause) })
  const draft = `${path}.draft`
  const file = yield* Effect.acquireRelease(
    attempt(() => open(draft, "w")),
    (file) =>
      Effect.promise(() =>
        file
          .close()
          .then(() => rm(draft, { force: true }))
          .catch(() => {})
      )
  )
  return {
    add: (written: ReadonlyArray<Importing.Written>) =>
      attempt(() =>
        file.appendFile(
          written
            .map(({ entry, version }) => `${JSON.stringify({ from: entry.from, to: String(version), id: entry.id })}\n`)
            .join("")
        )
      ),
    finish: attempt(async () => {
      await file.sync()
      await rename(draft, path)
    })
  }
})

const run = Effect.fnUntraced(function* ({ entries, name, total }: Source, mapping: string | undefined) {
  const writer = yield* Importing.make
  const map = mapping === undefined ? undefined : yield* mappingTo(mapping)
  let added = 0
  let seen = 0
  yield* Progress.during("imported", total, ({ advance }) =>
    Stream.runForEach(Stream.grouped(entries, batchSize), (batch) =>
      Effect.gen(function* () {
        const written = yield* writer.write(batch)
        seen += written.length
        added += written.filter(({ isNew }) => isNew).length
        if (map !== undefined) yield* map.add(written)
        yield* advance(written.length)
      })
    )
  ).pipe(
    Effect.onInterrupt(() => {
      const message = `strata: interrupted after ${Output.count(seen, "event")}; run it again to go on\n`
      return Effect.sync(() => void process.stderr.write(message))
    })
  )
  if (map !== undefined) yield* map.finish
  const already = seen - added
  yield* Output.done(
    `${Output.count(added, "event")} imported from ${name}` +
      (already === 0 ? "" : `, ${already.toLocaleString("en-US")} were there already`) +
      (mapping === undefined ? "" : `; their versions are in ${mapping}`),
    { events: seen, added, already, ...(mapping === undefined ? {} : { versions: mapping }) }
  )
})

/** How many differences are named one by one. */
const named = 10

const verify = Effect.fnUntraced(function* ({ entries, name, total }: Source) {
  const writer = yield* Importing.make
  let events = 0
  let differences = 0
  let highest = 0n
  yield* Progress.during("compared", total, ({ advance, say }) => {
    const differs = (entry: Importing.Entry, how: string) => {
      differences++
      if (differences <= named) say(`${entry.where}: the event "${entry.id}" ${how}`)
    }
    return Stream.runForEach(Stream.grouped(entries, batchSize), (batch) =>
      Effect.gen(function* () {
        const stored = yield* writer.look(batch)
        for (const entry of batch) {
          const found = stored.get(entry.id)
          if (found === undefined) differs(entry, "is not in the log")
          else if (!found.same) differs(entry, "has another aggregate, type, data or metadata in the log")
          else if (!found.sameTime) differs(entry, "has another time in the log")
          else if (found.version <= highest) differs(entry, "is in the log before one that it comes after")
          if (found !== undefined && found.version > highest) highest = found.version
        }
        events += batch.length
        yield* advance(batch.length)
      })
    )
  })
  if (differences > 0) {
    const differ = `${Output.count(differences, "event")} of ${events.toLocaleString("en-US")} of ${name} differ from the log`
    return yield* new Failed({ message: differences > named ? `${differ}; the first ${named} are above` : differ })
  }
  yield* Output.done(`${Output.count(events, "event")} of ${name} are in the log as they are there`, { events })
})

const flags = {
  file: Argument.String("file").pipe(
    Argument.optional,
    Argument.withDescription("What strata events export has written; - for stdin")
  ),
  sqlite: Flag.String("sqlite").pipe(
    Flag.optional,
    Flag.withMetavar("FILE"),
    Flag.withDescription("The SQLite file of go-sync-kit instead")
  ),
  map: Flag.String("map").pipe(
    Flag.optional,
    Flag.withMetavar("FILE"),
    Flag.withDescription(
      "Where to write the versions that the events had and have; else beside the file, as FILE.versions.jsonl"
    )
  ),
  unchecked: Flag.Boolean("unchecked").pipe(
    Flag.withDefault(false),
    Flag.withoutNegation,
    Flag.withDescription("Take JSON lines without a checksum at their end")
  ),
  verify: Flag.Boolean("verify").pipe(
    Flag.withDefault(false),
    Flag.withoutNegation,
    Flag.withDescription("Import nothing: compare each event, and their order, with the log")
  )
}

const sourceOf = Effect.fnUntraced(function* ({
  file,
  sqlite: sqliteFile,
  unchecked
}: Command.Command.Config.Infer<typeof flags>) {
  if (Option.isSome(file) === Option.isSome(sqliteFile)) {
    return yield* new WrongUsage({ message: "give a file of JSON lines, - for stdin, or --sqlite FILE" })
  }
  if (Option.isSome(sqliteFile)) return yield* sqlite(sqliteFile.value)
  const path = Option.getOrElse(file, () => "-")
  if (path !== "-") return yield* jsonLines(path, !unchecked)
  const source: Source = {
    name: "stdin",
    total: undefined,
    entries: EventFile.entriesOf("stdin", linesOf(stdin), { checked: !unchecked })
  }
  return source
})

export const importEvents = Command.make("import", flags, (input) =>
  Effect.gen(function* () {
    const source = yield* sourceOf(input)
    if (input.verify) return yield* verify(source)
    const beside = source.name === "stdin" ? undefined : `${source.name}.versions.jsonl`
    yield* run(
      source,
      Option.getOrElse(input.map, () => beside)
    )
  }).pipe(Effect.scoped, Effect.provide(Database.layer))
).pipe(
  Command.withDescription(
    "Imports events with their ids and times, in their order. What is there already, by its id, is left: run it again to go on"
  ),
  Command.withExamples([
    { command: "strata events import events.jsonl", description: "What strata events export has written" },
    { command: "strata events import --sqlite events.db", description: "The SQLite store of go-sync-kit" },
    { command: "strata events import --sqlite events.db --verify", description: "Is all of it here, in its order?" }
  ])
)
