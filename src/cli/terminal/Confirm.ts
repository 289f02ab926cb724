/** Asks before the command does something that cannot be undone. */
import { Effect } from "effect"
import { Flag, Prompt } from "effect/cli"
import * as Parameters from "../arguments/Parameters.ts"
import { CommandFailed, WrongUsage } from "./CommandErrors.ts"
import { HostProcess } from "./HostProcess.ts"
import { printable } from "./Printable.ts"

/** The flag of the subcommands that ask. */
export const yes = Parameters.toggle("yes", "Do not ask before it is done").pipe(Flag.withAlias("y"))

/**
 * Succeeds if the user agrees, or has agreed beforehand with `--yes`. Without a terminal there is nobody to ask, so that
 * `--yes` is required there.
 */
export const confirm = Effect.fnUntraced(function* (question: string, agreed: boolean) {
  if (agreed) return
  const { stdin, stdout } = yield* HostProcess
  if (stdin.isTTY !== true || stdout.isTTY !== true) {
    return yield* new WrongUsage({ message: `${question} There is no terminal to ask on; say --yes to do it` })
  }
  if (!(yield* Prompt.run(Prompt.Confirm({ message: printable(question) })))) {
    return yield* new CommandFailed({ message: "nothing was done" })
  }
})
