/** The checks of `strata doctor`, as the API has them. */
import { Effect } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import type { Finding, Subjects } from "../doctor/Check.ts"
import * as Checks from "../doctor/Checks.ts"
import { Api } from "./api/Api.ts"
import { ProofRun } from "./ProofRun.ts"

const viewOf = (check: string, { level, remedy, says }: Finding) => ({ check, level, says, remedy: remedy ?? null })

const examine = Effect.gen(function* () {
  const found: Array<ReturnType<typeof viewOf>> = []
  yield* Checks.examine((check, findings) =>
    Effect.sync(() => void found.push(...findings.map((finding) => viewOf(check, finding))))
  )
  return found
})

export const layer = HttpApiBuilder.group(
  Api,
  "doctor",
  Effect.fnUntraced(function* (handlers) {
    const subjects = yield* Effect.context<Subjects>()
    const { now } = yield* ProofRun
    return handlers.handleAll({ doctor: () => Effect.provideContext(examine, subjects), proof: () => now })
  })
)
