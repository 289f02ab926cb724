/** Asks before something is done that cannot be undone. */
import { Effect } from "effect"
import { Flag, Prompt } from "effect/cli"
import { Failed, WrongUsage } from "./Failure.ts"

/** For the subcommands that ask. */
export const yes = Flag.Boolean("yes").pipe(
  Flag.withAlias("y"),
  Flag.withDefault(false),
  Flag.withoutNegation,
  Flag.withDescription("Do not ask")
)

/** Goes on if the user agrees, or has said so beforehand. Where nobody can be asked, that is necessary. */
export const confirm = Effect.fnUntraced(function* (question: string, agreed: boolean) {
  if (agreed) return
  if (!process.stdin.isTTY || !process.stdout.isTTY) {
    return yield* new WrongUsage({ message: `${question} There is no terminal to ask on; say --yes to do it` })
  }
  if (!(yield* Prompt.run(Prompt.Confirm({ message: question })))) {
    return yield* new Failed({ message: "nothing was done" })
  }
})
