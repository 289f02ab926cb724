/** The `strata` command: all of its subcommands. */
import { Command } from "effect/cli"
import { doctor } from "./Doctor.ts"
import { events } from "./Events.ts"
import { migrate } from "./Migrate.ts"
import { offsets } from "./Offsets.ts"
import { projections } from "./Projections.ts"
import * as Settings from "./Settings.ts"
import { spool } from "./Spool.ts"
import { states } from "./States.ts"
import { status } from "./Status.ts"

export const strata = Command.make("strata").pipe(
  Command.withSubcommands([status, doctor, migrate, events, offsets, states, spool, projections]),
  Command.withGlobalFlags(Settings.all),
  Command.withDescription(
    "Looks after durable stores: their tables, events, offsets, states, messages and projections"
  ),
  Command.withExamples([
    { command: "strata doctor --url postgres://app@localhost/app", description: "Is this server fit for it?" },
    { command: "strata migrate --pglite ./data", description: "A database in a directory, without a server" },
    { command: "source <(strata --completions bash)", description: "Completion in this shell" }
  ])
)
