/** How the command fails: what it says, in a line or two, and with which exit status it ends. */
import { Cause, Config, Effect, Option, Predicate, Runtime, Schema } from "effect"
import { CliError } from "effect/cli"
import { SqlError } from "effect/sql"
import { InvalidInput, invalidInput } from "../../InvalidInput.ts"
import { reasonOf } from "../../postgres/database/Reasons.ts"
import { isReason, StoreError } from "../../StoreError.ts"
import type { Target } from "./HostProcess.ts"
import { OutputClosed } from "./Output.ts"
import { printableLines, say, withoutPasswords } from "./Printable.ts"

/** The arguments, the environment or the input make no sense to the command: exit status 2. */
export class WrongUsage extends Schema.TaggedError<WrongUsage>("effect-strata/cli/WrongUsage")("WrongUsage", {
  message: Schema.String
}) {}

/** The command was used correctly, but did not do or did not find what it should: exit status 1. */
export class CommandFailed extends Schema.TaggedError<CommandFailed>("effect-strata/cli/CommandFailed")(
  "CommandFailed",
  { message: Schema.String, cause: Schema.optionalKey(Schema.Defect()) }
) {}

/** Ends the process with a status. Everything that there is to say has been said. */
export class ExitStatus extends Schema.TaggedError<ExitStatus>("effect-strata/cli/ExitStatus")("ExitStatus", {
  status: Schema.Int
}) {
  override readonly [Runtime.errorExitCode] = this.status
}

const isUsage = (error: unknown): boolean =>
  error instanceof WrongUsage ||
  error instanceof InvalidInput ||
  error instanceof Config.ConfigError ||
  (Predicate.isTagged(error, "InvalidVersion") && error instanceof Error)

const messageOf = (error: unknown): string => {
  if (SqlError.isSqlError(error)) return reasonOf(error).message
  // Which operation of which store has failed says nothing to somebody who runs a command: only the reason does.
  if (error instanceof StoreError) return error.reason.message
  if (isReason(error)) return error.message
  if (error instanceof InvalidInput) return error.explanation
  if (error instanceof Config.ConfigError && Schema.isSchemaError(error.cause)) {
    return invalidInput("", "", error.cause.issue).explanation
  }
  return error instanceof Error ? error.message : String(error)
}

const causeIndent = "  "

/** Says on stderr what has failed, and fails with the status for it. An interruption stays an interruption. */
export const report = (
  cause: Cause.Cause<unknown>,
  { stderr, verbose }: { readonly stderr: Target; readonly verbose: boolean }
): Effect.Effect<void, ExitStatus> =>
  Effect.gen(function* () {
    if (Cause.hasInterruptsOnly(cause)) return yield* Effect.interrupt
    const error = Option.getOrElse(Cause.findErrorOption(cause), () => Cause.squash(cause))
    // The program that read the output has seen enough, as `head` has.
    if (error instanceof OutputClosed) return
    // The presenter has said already what is wrong with the arguments.
    if (CliError.isCliError(error) && error._tag === "ShowHelp") {
      return yield* error.errors.length === 0 ? Effect.void : new ExitStatus({ status: 2 })
    }
    say(stderr, messageOf(error))
    if (verbose) stderr.write(`${causeIndent}${printableLines(withoutPasswords(Cause.pretty(cause)), causeIndent)}\n`)
    return yield* new ExitStatus({ status: isUsage(error) ? 2 : 1 })
  })
