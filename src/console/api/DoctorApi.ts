/** What `strata doctor` checks. */
import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup, HttpApiSchema } from "effect/http-api"
import { Count, errors } from "./Fields.ts"

export const Finding = Schema.Struct({
  /** The name of the check. */
  check: Schema.String,
  level: Schema.Literals(["ok", "warning", "problem"]),
  says: Schema.String,
  /** What to do about it. */
  remedy: Schema.NullOr(Schema.String)
})

/** What one check has found, as soon as it is known. */
export const Found = Schema.Struct({
  /** The place of the check among all checks: some end before others that come before them. */
  place: Schema.Int,
  findings: Schema.Array(Finding)
})

/** The flags of `strata doctor`: by which limits it judges, each as the doctor has it unless given. */
export const Flags = {
  maxBehindSeconds: Schema.optionalKey(Count),
  maxLag: Schema.optionalKey(Count),
  maxParked: Schema.optionalKey(Count),
  maxSkipped: Schema.optionalKey(Count),
  maxBounced: Schema.optionalKey(Count),
  maxWaitingSeconds: Schema.optionalKey(Count),
  /** Whether the last statement of a transaction is shown that readers wait for: it may have secrets in it. */
  queries: Schema.optionalKey(Schema.Literal("shown"))
}

/** The proof that runs in the process of the console, or has run last. */
export const Proof = Schema.Struct({
  state: Schema.Literals(["none", "running", "done", "failed"]),
  /** For how long its writers run. */
  millis: Schema.Finite,
  elapsedMillis: Schema.Finite,
  /** How many events its subscriber was given. */
  delivered: Schema.Int,
  finding: Schema.NullOr(Finding),
  failure: Schema.NullOr(Schema.String)
})

export class DoctorApi extends HttpApiGroup.make("doctor").add(
  HttpApiEndpoint.get("doctor", "/api/doctor", {
    query: Flags,
    success: Schema.Array(Finding),
    error: errors
  }),
  HttpApiEndpoint.get("checks", "/api/doctor/live", {
    query: Flags,
    /** The same, a check after the other. */
    success: HttpApiSchema.StreamSse({ data: Found }),
    error: errors
  }),
  HttpApiEndpoint.get("proof", "/api/proof", { success: Proof, error: errors })
) {}
