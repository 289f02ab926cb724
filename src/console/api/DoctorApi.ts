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

export class DoctorApi extends HttpApiGroup.make("doctor").add(
  HttpApiEndpoint.get("doctor", "/api/doctor", { success: Schema.Array(Finding), error: errors })
) {}
