/** `strata events export`: the log as a file of JSON lines. */
import { Effect, Option, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import type { FileHandle } from "node:fs/promises"
import { PostgresDatabase } from "../../../postgres/database/PostgresDatabase.ts"
import { longestBytes } from "../../../postgres/database/RowSize.ts"
import { Checksum, lineOf } from "../../../postgres/events/EventLines.ts"
import * as EventTable from "../../../postgres/events/EventTable.ts"
import * as Exporting from "../../../postgres/events/Exporting.ts"
import * as Parameters from "../../arguments/Parameters.ts"
import * as Database from "../../connection/Database.ts"
import { whileRead } from "../../terminal/ClosedPipe.ts"
import { CommandFailed, WrongUsage } from "../../terminal/CommandErrors.ts"
import type { HostProcess } from "../../terminal/HostProcess.ts"
import * as Output from "../../terminal/Output.ts"
import * as Progress from "../../terminal/Progress.ts"
import { resumable } from "../../terminal/Resuming.ts"
import * as EventFile from "../../transfer/EventFile.ts"
import { bytesOfOpen, fileError, type FileError } from "../../transfer/Lines.ts"
import { openToAppend } from "../../transfer/NewFile.ts"

/** Where the events go, and what is there already. */
interface Target {
  readonly write: (
    text: string
  ) => Effect.Effect<void, Output.OutputClosed | Output.OutputFailed | FileError, HostProcess>
  /** Makes sure that what was written stays. */
  readonly finish: Effect.Effect<void, FileError>
  readonly checksum: Checksum
  readonly after: bigint
}

const toStdout = (after: Option.Option<bigint>): Target => ({
  write: Output.write,
  finish: Effect.void,
  checksum: new Checksum(),
  after: Option.getOrElse(after, () => 0n)
})

/** The version of the last event in a file, once it is certain that this log has the same event. */
const lastVersionOf = Effect.fnUntraced(function* (path: string, lastEvent: string) {
  const { sql } = yield* PostgresDatabase
  const last = EventFile.entryOf(`the last line of ${path}`, lastEvent, { maxBytes: longestBytes(sql) })
  if (last instanceof CommandFailed) return yield* last
  const version = BigInt(last.from ?? "0")
  const [stored] = yield* Exporting.rowsAt(version)
  if (stored?.id !== last.id) {
    return yield* new CommandFailed({
      message: `${path} is of another log: its last event, version ${version}, is not in this one`
    })
  }
  return version
})

/**
 * Opens a file to append to it. A file that has events already, complete or not, is cut after its last whole event, and goes
 * on from there.
 */
const toFile = Effect.fnUntraced(function* (path: string, after: Option.Option<bigint>) {
  const attempt = <A>(f: () => Promise<A>) => Effect.tryPromise({ try: f, catch: (cause) => fileError(path, cause) })
  const targetOf = (file: FileHandle, checksum: Checksum, after: bigint): Target => ({
    write: (text) => attempt(() => file.appendFile(text)),
    finish: attempt(() => file.sync()),
    checksum,
    after
  })
  const file = yield* openToAppend(path)
  const found = yield* EventFile.scan(path, bytesOfOpen(path, file))
  if (found.lastEvent === undefined && found.rest !== undefined && !EventFile.isBeginning(found.rest)) {
    return yield* new CommandFailed({ message: `${path} is there already, and is no export; name another file` })
  }
  if (found.lastEvent === undefined) {
    yield* attempt(() => file.truncate(0))
    return targetOf(
      file,
      new Checksum(),
      Option.getOrElse(after, () => 0n)
    )
  }
  if (Option.isSome(after)) {
    return yield* new WrongUsage({
      message: `${path} has events, and goes on after the last of them; leave out --after`
    })
  }
  const version = yield* lastVersionOf(path, found.lastEvent)
  yield* attempt(() => file.truncate(found.end))
  return targetOf(file, found.checksum, version)
})

/** Writes the events and the checksum, and returns how many events were written. */
const writeLog = Effect.fnUntraced(function* ({ after, checksum, finish, write }: Target) {
  const before = checksum.events
  const pages = yield* Exporting.settledPages(after)
  yield* Progress.during({ verb: "exported", total: yield* Exporting.countAfter(after) }, ({ advance }) =>
    Stream.runForEach(pages, (rows) =>
      Effect.gen(function* () {
        const text = rows.map(lineOf).join("")
        yield* write(text)
        checksum.add(text, rows.length)
        yield* advance(rows.length)
      })
    )
  )
  yield* write(checksum.line)
  yield* finish
  return checksum.events - before
})

const flags = {
  file: Argument.String("file").pipe(
    Argument.optional,
    Argument.withDescription("The file; stdout unless given. A file that has events already goes on after the last one")
  ),
  after: Parameters.version("after").pipe(Flag.optional, Flag.withDescription("Only versions above this one"))
}

export const exportEvents = Command.make("export", flags).pipe(
  Command.withDescription(
    "Writes the log as JSON lines, with a checksum at the end. Run again, it adds to the file what is new"
  ),
  Command.withExamples([
    { command: "strata events export events.jsonl", description: "To a file; run it again for what is new since" },
    { command: "strata events export | gzip > events.jsonl.gz", description: "To another program" }
  ]),
  Command.withHandler(({ after, file }) =>
    Effect.gen(function* () {
      yield* EventTable.checkAndWarn
      if (Option.isNone(file)) return yield* whileRead(Effect.asVoid(writeLog(toStdout(after))))
      const target = yield* toFile(file.value, after)
      const added = yield* resumable(writeLog(target))
      const { events } = target.checksum
      const isNew = added === events ? "" : `, ${added.toLocaleString("en-US")} of them new`
      yield* Output.done(`${Output.count(events, "event")} in ${file.value}${isNew}`, {
        file: file.value,
        events,
        added
      })
    }).pipe(Effect.scoped)
  ),
  Command.provide(Database.layer)
)
