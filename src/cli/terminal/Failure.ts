/** What goes wrong, in a line or two: what failed, and what to do. */
import { Cause, Config, Data, Effect, Option, Predicate, Runtime, Schema } from "effect"
import { CliError } from "effect/cli"
import { SqlError } from "effect/sql"
import { InvalidInput, invalidInput } from "../../InvalidInput.ts"
import { reasonOf } from "../../postgres/database/Reasons.ts"
import { isReason, StoreError } from "../../StoreError.ts"
import { OutputClosed } from "./Output.ts"

/** The command was given what it cannot make sense of: exit status 2. */
export class WrongUsage extends Schema.TaggedError<WrongUsage>("effect-strata/cli/WrongUsage")("WrongUsage", {
  message: Schema.String
}) {}

/** The command did not do, or did not find, what it should: exit status 1. */
export class Failed extends Schema.TaggedError<Failed>("effect-strata/cli/Failed")("Failed", {
  message: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {}

/** Ends the process with a status; all that is to be said has been. */
class ExitStatus extends Data.TaggedError("ExitStatus")<{ readonly status: number }> {
  override readonly [Runtime.errorExitCode] = this.status
}

const isUsage = (error: unknown): boolean =>
  error instanceof WrongUsage ||
  error instanceof InvalidInput ||
  error instanceof Config.ConfigError ||
  (Predicate.isTagged(error, "InvalidVersion") && error instanceof Error)

const issuesOf = ({ issues }: InvalidInput): string =>
  issues.map(({ field, message }) => (field === "" ? message : `${field}: ${message}`)).join("; ")

const messageOf = (error: unknown): string => {
  if (SqlError.isSqlError(error)) return reasonOf(error).message
  // The store and the operation are this program's business.
  if (error instanceof StoreError) return error.reason.message
  if (isReason(error)) return error.message
  if (error instanceof InvalidInput) return issuesOf(error)
  if (error instanceof Config.ConfigError && Schema.isSchemaError(error.cause)) {
    return issuesOf(invalidInput("", "", error.cause.issue))
  }
  return error instanceof Error ? error.message : String(error)
}

const write = (text: string) => Effect.sync(() => void process.stderr.write(text))

/** Says on stderr what has failed, and ends with the status of that. Interruption stays what it is. */
export const report = (
  cause: Cause.Cause<unknown>,
  { verbose }: { readonly verbose: boolean }
): Effect.Effect<void, ExitStatus> =>
  Effect.gen(function* () {
    if (Cause.hasInterruptsOnly(cause)) return yield* Effect.interrupt
    const error = Option.getOrElse(Cause.findErrorOption(cause), () => Cause.squash(cause))
    // Whoever read the output has seen enough.
    if (error instanceof OutputClosed) return
    // What it has to say was said where it was found.
    if (CliError.isCliError(error) && error._tag === "ShowHelp") {
      return yield* error.errors.length === 0 ? Effect.void : new ExitStatus({ status: 2 })
    }
    yield* write(`strata: ${messageOf(error)}\n`)
    if (verbose) yield* write(`${Cause.pretty(cause)}\n`)
    return yield* new ExitStatus({ status: isUsage(error) ? 2 : 1 })
  })
