/** `strata migrate`: brings the tables to what this version needs, or says what that takes. */
import { DateTime, Effect, Option, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { fileURLToPath } from "node:url"
import * as Migrations from "../../postgres/Migrations.ts"
import * as Database from "../Database.ts"
import { Failed } from "../terminal/Failure.ts"
import * as Output from "../terminal/Output.ts"

const listing: Output.Listing<Migrations.Status> = {
  columns: [
    { title: "MIGRATION", show: ({ file }) => file },
    {
      title: "STATUS",
      show: ({ appliedAt }) =>
        Option.match(appliedAt, { onNone: () => "pending", onSome: (at) => `run at ${DateTime.formatIso(at)}` })
    }
  ],
  toJson: ({ appliedAt, file }) => ({
    file,
    appliedAt: Option.getOrNull(Option.map(appliedAt, DateTime.formatIso))
  }),
  nothing: "no migrations"
}

const fileListing: Output.Listing<{ readonly file: string }> = {
  columns: [{ title: "MIGRATION", show: ({ file }) => file }],
  toJson: (item) => item,
  nothing: "nothing is pending"
}

const status = Command.make("status", {}, () =>
  Effect.gen(function* () {
    const statuses = yield* Migrations.status
    yield* Output.list(Stream.fromIterable(statuses), listing)
    const pending = statuses.filter(({ appliedAt }) => Option.isNone(appliedAt)).length
    if (pending > 0) {
      return yield* new Failed({ message: `${Output.count(pending, "migration")} pending; run: strata migrate` })
    }
  }).pipe(Effect.provide(Database.layerTables()))
).pipe(
  Command.withDescription("Shows each migration, and when it was run. Fails if one is pending"),
  Command.withExamples([
    { command: "strata migrate status", description: "In a deployment, before the program starts" }
  ])
)

const dryRun = Flag.Boolean("dry-run").pipe(
  Flag.withDefault(false),
  Flag.withoutNegation,
  Flag.withDescription("Only name the files that would be run")
)

const flags = {
  dryRun,
  notify: Flag.Literals("notify", ["rows"]).pipe(
    Flag.optional,
    Flag.withDescription("Also install go-sync-kit's trigger, for programs that listen to its channels")
  ),
  index: Flag.Literals("index", ["containment"]).pipe(
    Flag.optional,
    Flag.withDescription("Also index what events contain, for queries by data and metadata")
  )
}

const pendingFiles = Effect.map(Migrations.status, (statuses) =>
  statuses.flatMap(({ appliedAt, file }) =>
    Option.isNone(appliedAt) ? [{ file: fileURLToPath(new URL(file, Migrations.directory)) }] : []
  )
)

export const migrate = Command.make("migrate", flags, ({ dryRun, index, notify }) => {
  const extras = {
    ...(Option.isNone(notify) ? {} : { notify: notify.value }),
    ...(Option.isNone(index) ? {} : { index: index.value })
  }
  return dryRun
    ? Effect.flatMap(pendingFiles, (files) => Output.list(Stream.fromIterable(files), fileListing)).pipe(
        Effect.provide(Database.layerTables(extras))
      )
    : Effect.gen(function* () {
        const files = yield* Migrations.migrate
        yield* Output.done(files.length === 0 ? "Nothing is pending" : `Run: ${files.join(", ")}`, { files })
      }).pipe(Effect.provide(Database.layerTables({ ...extras, create: true })))
}).pipe(
  Command.withSubcommands([status]),
  Command.withDescription("Runs the migrations that are pending, in one transaction"),
  Command.withExamples([
    { command: "strata migrate --schema strata", description: "Make the tables, in a schema of their own" },
    { command: "strata migrate --dry-run", description: "Name the files that would be run" }
  ])
)
