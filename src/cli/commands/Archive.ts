/** `strata archive`, `archives` and `restore`: the oldest parts of a log as files, and back. */
import { Clock, type Config, DateTime, Effect, Layer, Option, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { leftIn } from "../../doctor/ArchiveChecks.ts"
import * as Postgres from "../../postgres/index.ts"
import * as Parameters from "../arguments/Parameters.ts"
import * as Database from "../connection/Database.ts"
import { WrongUsage } from "../terminal/CommandErrors.ts"
import * as Output from "../terminal/Output.ts"
import * as Progress from "../terminal/Progress.ts"
import { resumable } from "../terminal/Resuming.ts"

const { Archive, EventArchive, PostgresConfig } = Postgres

const directory = Flag.String("dir").pipe(
  Flag.optional,
  Flag.withMetavar("DIR"),
  Flag.withDescription("The directory of the files, which has to be there; or DB_ARCHIVE_DIR")
)

/** The archive in the directory that was given, or else in that of the environment. */
const layerOf = (dir: Option.Option<string>) =>
  Layer.merge(
    Database.layerTables(),
    Layer.unwrap(
      Effect.gen(function* (): Effect.fn.Return<
        Layer.Layer<Postgres.EventArchive.EventArchive>,
        Config.ConfigError | WrongUsage
      > {
        const path = Option.getOrUndefined(dir) ?? (yield* PostgresConfig.archive)
        if (path === undefined) {
          return yield* new WrongUsage({ message: "no directory is named; give --dir DIR, or set DB_ARCHIVE_DIR" })
        }
        return EventArchive.layerDirectory(path)
      })
    )
  )

type Part = Postgres.Archive.Part

const time = (at: DateTime.Utc | null) => (at === null ? null : DateTime.formatIso(at))

const jsonOf = ({ archivedAt, firstCreatedAt, lastCreatedAt, ...part }: Part) => ({
  ...part,
  firstCreatedAt: time(firstCreatedAt),
  lastCreatedAt: time(lastCreatedAt),
  archivedAt: time(archivedAt)
})

const listing: Output.Listing<Part> = {
  columns: [
    { title: "FROM", show: ({ firstVersion }) => String(firstVersion), right: true },
    { title: "TO", show: ({ endVersion }) => String(endVersion - 1n), right: true },
    { title: "EVENTS", show: ({ events }) => events.toLocaleString("en-US"), right: true },
    { title: "BYTES", show: ({ bytes }) => bytes.toLocaleString("en-US"), right: true },
    { title: "LAST OF", show: ({ lastCreatedAt }) => time(lastCreatedAt) ?? "" },
    { title: "ARCHIVED AT", show: ({ archivedAt }) => DateTime.formatIso(archivedAt) },
    { title: "FILE", show: ({ name }) => name }
  ],
  toJson: jsonOf,
  nothing: "nothing is archived",
  gather: true
}

const eventsOf = (parts: ReadonlyArray<Part>): string =>
  `${Output.count(parts.length, "part")} with ${Output.count(
    parts.reduce((sum, { events }) => sum + events, 0),
    "event"
  )}`

/** What takes less than this says nothing of how far it is. */
const quietMillis = 1000

/** Shows how far it is while it runs. */
const telling = <A, E, R>(run: (tell: Postgres.Archive.Tell) => Effect.Effect<A, E, R>) =>
  resumable(
    Progress.watching((show) =>
      Effect.flatMap(Clock.currentTimeMillis, (startMillis) =>
        run(({ doing, done, endVersion, events, firstVersion }) =>
          Effect.flatMap(Clock.currentTimeMillis, (nowMillis) =>
            nowMillis - startMillis < quietMillis
              ? Effect.void
              : show(`${doing} versions ${firstVersion} to ${endVersion - 1n}`, events === 0 ? 1 : done / events)
          )
        )
      )
    )
  )

export const archive = Command.make("archive", {
  before: Parameters.versionOrTime("before").pipe(
    Flag.withDescription("Versions below this one, or events from before this time")
  ),
  dir: directory
}).pipe(
  Command.withDescription(
    "Writes the oldest partitions of the log to compressed files, verifies each, and detaches it. Run again, it goes on. As the owner of the tables"
  ),
  Command.withExamples([
    {
      command: "strata archive --before 2026-01-01 --dir /srv/archive",
      description: "What was appended before this year"
    },
    { command: "strata archive --before 5000000", description: "Versions below 5,000,000, to DB_ARCHIVE_DIR" }
  ]),
  Command.withHandler(({ before }) =>
    Effect.gen(function* () {
      const { left, parts } = yield* telling((tell) => Archive.archive({ before, tell }))
      yield* Output.done(`${eventsOf(parts)} archived; no more, as ${left}`, { parts: parts.map(jsonOf), left })
    })
  ),
  Command.provide(({ dir }) => layerOf(dir))
)

export const archives = Command.make("archives").pipe(
  Command.withDescription("Lists the parts of the log that are archived"),
  Command.withExamples([{ command: "strata archives", description: "Which versions are in which file" }]),
  Command.withHandler(() =>
    Effect.gen(function* () {
      const given = yield* Effect.serviceOption(EventArchive.EventArchive)
      const left = Option.isNone(given) ? [] : yield* leftIn(given.value)
      yield* Effect.forEach(left, ({ remedy, says }) => Effect.logWarning(`${says}; ${remedy}`))
      yield* Output.list(Stream.fromIterable(yield* Archive.parts), listing)
    })
  ),
  Command.provide(() => Layer.merge(Database.layerTables(), Postgres.layerArchiveConfig))
)

export const restore = Command.make("restore", {
  from: Parameters.version("from").pipe(
    Flag.optional,
    Flag.withDescription("Only the parts that have this version, or later ones; all unless given")
  ),
  remove: Parameters.toggle("remove", "Remove the file of each part, once the part is back"),
  dir: directory
}).pipe(
  Command.withDescription("Brings archived parts back into the table, the newest first. As the owner of the tables"),
  Command.withExamples([
    { command: "strata restore --dir /srv/archive", description: "All that is archived" },
    { command: "strata restore --from 4000000", description: "What has version 4,000,000 or a later one" }
  ]),
  Command.withHandler(({ from, remove }) =>
    Effect.gen(function* () {
      const parts = yield* telling((tell) =>
        Archive.restore({ remove, tell, ...(Option.isSome(from) ? { from: from.value } : {}) })
      )
      yield* Output.done(`${eventsOf(parts)} restored`, { parts: parts.map(jsonOf) })
    })
  ),
  Command.provide(({ dir }) => layerOf(dir))
)
