/** `strata events export`: the log as a file of JSON lines. */
import { Effect, Option, Schema, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { existsSync } from "node:fs"
import { open } from "node:fs/promises"
import { decodeRows } from "../../../postgres/database/DecodeRows.ts"
import { PostgresDatabase } from "../../../postgres/database/PostgresDatabase.ts"
import * as EventTable from "../../../postgres/events/EventTable.ts"
import * as Settling from "../../../postgres/events/Settling.ts"
import { fileError, type FileError } from "../../arguments/Lines.ts"
import * as Parameters from "../../arguments/Parameters.ts"
import * as Database from "../../Database.ts"
import { Failed, WrongUsage } from "../../terminal/Failure.ts"
import * as Output from "../../terminal/Output.ts"
import * as Progress from "../../terminal/Progress.ts"
import * as EventFile from "../../transfer/EventFile.ts"

const pageSize = 1000

const Count = Schema.Struct({ count: Schema.Int })

/** The events above a version that nothing can come before any more, in pages. */
const settled = Effect.gen(function* () {
  const { names, query, sql, tables } = yield* PostgresDatabase
  const { marks } = yield* Settling.make
  const decode = decodeRows(EventFile.Row, names.events, ["version"])
  const decodeCount = decodeRows(Count, names.events, [])
  yield* EventTable.checkAndWarn

  const page = (after: bigint, last: bigint) =>
    Effect.flatMap(
      query(sql`
        SELECT version, id, aggregate_id AS "aggregateId", event_type AS "eventType",
          coalesce(data::text, 'null') AS data, coalesce(metadata::text, 'null') AS metadata,
          to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS "createdAt"
        FROM ${tables.events} WHERE version > ${after} AND version <= ${last} ORDER BY version LIMIT ${pageSize}`),
      decode
    )

  return {
    page,
    count: (after: bigint) =>
      Effect.map(
        Effect.flatMap(
          query(sql`SELECT count(*)::float8 AS count FROM ${tables.events} WHERE version > ${after}`),
          decodeCount
        ),
        ([row]) => row?.count ?? 0
      ),
    pages: (after: bigint) => {
      let from = after
      return Stream.flatMap(marks(after), (last) =>
        Stream.paginate(from, (after: bigint) =>
          Effect.map(page(after, last), (rows) => {
            from = last
            const end = rows.at(-1)?.version
            return [
              rows.length === 0 ? [] : [rows],
              end === undefined || rows.length < pageSize ? Option.none() : Option.some(end)
            ] as const
          })
        )
      )
    }
  }
})

type Settled = Effect.Success<typeof settled>

/** Where to write, and what is there already. */
interface Target {
  readonly write: (text: string) => Effect.Effect<void, Output.OutputClosed | FileError>
  /** All of it is written: sees that it stays. */
  readonly finish: Effect.Effect<void, FileError>
  readonly checksum: EventFile.Checksum
  readonly after: bigint
}

const toStdout = (after: bigint): Target => ({
  write: Output.write,
  finish: Effect.void,
  checksum: new EventFile.Checksum(),
  after
})

/** A file goes on after its last whole event: be it that it is not complete, or that there are more by now. */
const toFile = Effect.fnUntraced(function* (path: string, after: Option.Option<bigint>, { page }: Settled) {
  const attempt = <A>(f: () => Promise<A>) => Effect.tryPromise({ try: f, catch: (cause) => fileError(path, cause) })
  const found = existsSync(path) ? yield* EventFile.scan(path) : undefined
  if (found?.lastEvent === undefined && found?.rest !== undefined && !EventFile.isBeginning(found.rest)) {
    return yield* new Failed({ message: `${path} is there already, and is no export; name another file` })
  }
  const file = yield* Effect.acquireRelease(
    attempt(() => open(path, "a")),
    (file) => Effect.promise(() => file.close().catch(() => {}))
  )
  const target = { write: (text: string) => attempt(() => file.appendFile(text)), finish: attempt(() => file.sync()) }
  if (found?.lastEvent === undefined) {
    yield* attempt(() => file.truncate(0))
    return { ...target, checksum: new EventFile.Checksum(), after: Option.getOrElse(after, () => 0n) }
  }
  if (Option.isSome(after)) {
    return yield* new WrongUsage({
      message: `${path} has events, and goes on after the last of them; leave out --after`
    })
  }
  const last = EventFile.entryOf(`the last line of ${path}`, found.lastEvent)
  if (last instanceof Failed) return yield* last
  const version = BigInt(last.from ?? "0")
  const [stored] = yield* page(version - 1n, version)
  if (stored?.id !== last.id) {
    return yield* new Failed({
      message: `${path} is of another log: its last event, version ${version}, is not in this one`
    })
  }
  yield* attempt(() => file.truncate(found.end))
  return { ...target, checksum: found.checksum, after: version }
})

const file = Argument.String("file").pipe(
  Argument.optional,
  Argument.withDescription("The file; stdout unless given. One that is there already goes on after its last event")
)

const after = Parameters.version("after").pipe(Flag.optional, Flag.withDescription("Only versions above this one"))

export const exportEvents = Command.make("export", { file, after }, ({ after, file }) =>
  Effect.gen(function* () {
    const log = yield* settled
    const target: Target = Option.isSome(file)
      ? yield* toFile(file.value, after, log)
      : toStdout(Option.getOrElse(after, () => 0n))
    const { checksum, finish, write } = target
    const before = checksum.events
    yield* Progress.during("exported", yield* log.count(target.after), ({ advance }) =>
      Stream.runForEach(log.pages(target.after), (rows) =>
        Effect.gen(function* () {
          const text = rows.map(EventFile.lineOf).join("")
          yield* write(text)
          checksum.add(text, rows.length)
          yield* advance(rows.length)
        })
      )
    )
    yield* write(checksum.line)
    yield* finish
    if (Option.isSome(file)) {
      const events = checksum.events
      const added = events - before
      const rest = before === 0 ? "" : `, ${added.toLocaleString("en-US")} of them new`
      yield* Output.done(`${Output.count(events, "event")} in ${file.value}${rest}`, {
        file: file.value,
        events,
        added
      })
    }
  }).pipe(Effect.scoped, Effect.provide(Database.layer))
).pipe(
  Command.withDescription(
    "Writes the log as JSON lines, with a checksum at the end. Run again, a file goes on where it ends"
  ),
  Command.withExamples([
    { command: "strata events export events.jsonl", description: "To a file; run again for what is new since" },
    { command: "strata events export | gzip > events.jsonl.gz", description: "To another program" }
  ])
)
