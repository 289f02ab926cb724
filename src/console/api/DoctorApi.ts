/** What `strata doctor` checks. */
import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { errors } from "./Fields.ts"

export const Finding = Schema.Struct({
  /** The name of the check. */
  check: Schema.String,
  level: Schema.Literals(["ok", "warning", "problem"]),
  says: Schema.String,
  /** What to do about it. */
  remedy: Schema.NullOr(Schema.String)
})

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
  HttpApiEndpoint.get("doctor", "/api/doctor", { success: Schema.Array(Finding), error: errors }),
  HttpApiEndpoint.get("proof", "/api/proof", { success: Proof, error: errors })
) {}
