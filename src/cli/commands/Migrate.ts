/** `strata migrate`: brings the tables to what this version needs, or says which files that takes. */
import { DateTime, Effect, Option, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { fileURLToPath } from "node:url"
import * as Migrations from "../../postgres/Migrations.ts"
import * as Parameters from "../arguments/Parameters.ts"
import * as Database from "../connection/Database.ts"
import { CommandFailed } from "../terminal/CommandErrors.ts"
import * as Output from "../terminal/Output.ts"
import * as Progress from "../terminal/Progress.ts"
import { resumable } from "../terminal/Resuming.ts"

const statusListing: Output.Listing<Migrations.Status> = {
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

const status = Command.make("status").pipe(
  Command.withDescription("Shows when each migration was run. Fails if one is pending"),
  Command.withExamples([
    { command: "strata migrate status", description: "In a deployment, before the program starts" }
  ]),
  Command.withHandler(() =>
    Effect.gen(function* () {
      const statuses = yield* Migrations.status
      yield* Output.list(Stream.fromIterable(statuses), statusListing)
      const pending = statuses.filter(({ appliedAt }) => Option.isNone(appliedAt)).length
      if (pending > 0) {
        return yield* new CommandFailed({
          message: `${Output.count(pending, "migration")} pending; run: strata migrate`
        })
      }
    })
  ),
  Command.provide(() => Database.layerTables())
)

const flags = {
  dryRun: Parameters.toggle("dry-run", "Only name the files of the migrations that are pending"),
  notify: Flag.Literals("notify", ["rows"]).pipe(
    Flag.optional,
    Flag.withDescription("Also install go-sync-kit's trigger, for programs that listen to its channels")
  ),
  owners: Flag.String("owner").pipe(
    Flag.atLeast(0),
    Flag.withMetavar("ROLE"),
    Flag.withDescription("Also adopt what belongs to this role, such as a Go service's; give it again for others")
  ),
  index: Flag.Literals("index", ["containment"]).pipe(
    Flag.optional,
    Flag.withDescription("Also index what events contain, for queries by data and metadata")
  ),
  layout: Flag.Literals("layout", ["compact"]).pipe(
    Flag.optional,
    Flag.withDescription(
      "Make a table of events that takes less room; only for a log without events, and not beside Go"
    )
  ),
  partitions: Parameters.positive("partitions").pipe(
    Flag.optional,
    Flag.withMetavar("SIZE"),
    Flag.withDescription("Divide the table of events into partitions of so many versions, while others go on writing")
  )
}

type Flags = Command.Command.Config.Infer<typeof flags>

/** Only a real run may make an embedded database that does not exist. */
const layerOf = ({ dryRun, index, layout, notify, owners, partitions }: Flags) =>
  Database.layerTables({
    owners,
    ...(Option.isNone(notify) ? {} : { notify: notify.value }),
    ...(Option.isNone(index) ? {} : { index: index.value }),
    ...(Option.isNone(layout) ? {} : { layout: layout.value }),
    ...(Option.isNone(partitions) ? {} : { partitions: { size: BigInt(partitions.value) } }),
    create: !dryRun
  })

const pendingListing: Output.Listing<{ readonly file: string }> = {
  columns: [{ title: "MIGRATION", show: ({ file }) => file }],
  toJson: (item) => item,
  nothing: "nothing is pending"
}

const listPending = Effect.gen(function* () {
  const pending = (yield* Migrations.status).filter(({ appliedAt }) => Option.isNone(appliedAt))
  const files = pending.map(({ file }) => ({ file: fileURLToPath(new URL(file, Migrations.directory)) }))
  yield* Output.list(Stream.fromIterable(files), pendingListing)
})

const runPending = Effect.gen(function* () {
  const files = yield* resumable(
    Progress.watching((show) => Migrations.migrateTelling(({ doing, file, share }) => show(`${file}: ${doing}`, share)))
  )
  yield* Output.done(files.length === 0 ? "Nothing is pending" : `Run: ${files.join(", ")}`, { files })
})

export const migrate = Command.make("migrate", flags).pipe(
  Command.withDescription("Runs the migrations that are pending, while others go on writing"),
  Command.withExamples([
    { command: "strata migrate --schema strata", description: "Make the tables, in a schema of their own" },
    { command: "strata migrate --dry-run", description: "Name the files of the migrations that are pending" }
  ]),
  Command.withHandler(({ dryRun }) => (dryRun ? listPending : runPending)),
  Command.provide(layerOf),
  Command.withSubcommands([status])
)
