/** `strata events`: the log of events. */
import { Command } from "effect/cli"
import { append } from "./Append.ts"
import { exportEvents } from "./Export.ts"
import { importEvents } from "./Import.ts"
import { read, show, tail } from "./Read.ts"
import { stats } from "./Stats.ts"
import { tag } from "./Tag.ts"

export const events = Command.make("events").pipe(
  Command.withDescription("The log of events"),
  Command.withExamples([{ command: "strata events read --backward --limit 10", description: "The last ten events" }]),
  Command.withSubcommands([read, tail, show, append, tag, stats, exportEvents, importEvents])
)
