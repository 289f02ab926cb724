/** `strata schema`: what the tables and their columns are for. */
import { Effect } from "effect"
import { Command } from "effect/cli"
import { ofPartitions, tables } from "../../postgres/TableReference.ts"
import { Settings } from "../arguments/GlobalFlags.ts"
import * as Output from "../terminal/Output.ts"

export const schema = Command.make("schema").pipe(
  Command.withDescription(
    "Says what each table and column is for, as the comments in the database do. Needs no database"
  ),
  Command.withExamples([
    { command: "strata schema", description: "All tables" },
    { command: "strata schema --json", description: "A column on each line, for a program" }
  ]),
  Command.withHandler(() =>
    Effect.gen(function* () {
      const asJson = yield* Settings.json
      for (const { columns, description, key, name } of [...tables, ofPartitions]) {
        if (asJson) {
          yield* Output.json({ table: name, key, description })
          for (const column of columns) yield* Output.json({ table: name, column: column.name, ...column })
          continue
        }
        yield* Output.line(`${name}\n  ${description}\n`)
        const width = (part: "name" | "type") => Math.max(...columns.map((column) => column[part].length))
        for (const column of columns) {
          const [shownName, type] = [column.name.padEnd(width("name")), column.type.padEnd(width("type"))]
          yield* Output.line(`  ${shownName}  ${type}  ${column.description}`)
        }
        yield* Output.line("")
      }
    })
  )
)
