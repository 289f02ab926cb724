/** The `strata` command: all of its subcommands. */
import { Command } from "effect/cli"
import * as GlobalFlags from "./arguments/GlobalFlags.ts"
import { archive, archives, restore } from "./commands/Archive.ts"
import { console } from "./commands/Console.ts"
import { doctor } from "./commands/Doctor.ts"
import { events } from "./commands/events/Events.ts"
import { grants } from "./commands/Grants.ts"
import { migrate } from "./commands/Migrate.ts"
import { offsets } from "./commands/Offsets.ts"
import { projections } from "./commands/Projections.ts"
import { schema } from "./commands/Schema.ts"
import { spool } from "./commands/Spool.ts"
import { states } from "./commands/States.ts"
import { status } from "./commands/Status.ts"

export const strata = Command.make("strata").pipe(
  Command.withDescription(
    "Looks after durable stores: their tables, events, offsets, states, messages and projections"
  ),
  Command.withExamples([
    { command: "strata doctor --url postgres://app@localhost/app", description: "Is this server fit for the stores?" },
    { command: "strata migrate --pglite ./data", description: "Make a database in a directory, without a server" },
    { command: "source <(strata --completions bash)", description: "Complete commands in this shell" }
  ]),
  Command.withSubcommands([
    status,
    doctor,
    console,
    migrate,
    grants,
    schema,
    events,
    archive,
    archives,
    restore,
    offsets,
    states,
    spool,
    projections
  ]),
  Command.withGlobalFlags(GlobalFlags.all)
)
