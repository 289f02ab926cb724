/** `strata events`: the log of events. */
import { Command } from "effect/cli"
import { append } from "./EventsAppend.ts"
import { exportEvents } from "./EventsExport.ts"
import { importEvents } from "./EventsImport.ts"
import { stats } from "./EventsStats.ts"
import { read, show, tail } from "./EventsRead.ts"

export const events = Command.make("events").pipe(
  Command.withSubcommands([read, tail, show, append, stats, exportEvents, importEvents]),
  Command.withDescription("The log of events"),
  Command.withExamples([{ command: "strata events read --backward --limit 10", description: "The last ten events" }])
)
