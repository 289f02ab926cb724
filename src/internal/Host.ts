/** How a process names itself to people who look at many. */
import { Context } from "effect"

/** The name of the process. Without one it is that of the file that it runs. */
export const ProcessName: Context.Reference<string> = Context.Reference<string>(
  "effect-strata/Projection/ProcessName",
  {
    defaultValue: () => process.argv[1]?.split(/[/\\]/).at(-1) ?? ""
  }
)

/** The machine's name, and the number of the process there. */
export const hostAndPid = (): { readonly host: string; readonly pid: number } => ({
  host: process.getBuiltinModule("node:os").hostname(),
  pid: process.pid
})
