/** The checks of `strata doctor`, as the API has them. */
import { Effect } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import type { Check, Finding, Subjects } from "../cli/doctor/Check.ts"
import * as Checks from "../cli/doctor/Checks.ts"
import { Api } from "./api/Api.ts"

const viewOf = (check: string, { level, remedy, says }: Finding) => ({ check, level, says, remedy: remedy ?? null })

const runAll = (checks: ReadonlyArray<Check>) =>
  Effect.map(
    Effect.forEach(checks, (check) =>
      Effect.map(Checks.run(check), (findings) => findings.map((finding) => viewOf(check.name, finding)))
    ),
    (findings) => findings.flat()
  )

/** Checks the server, and, if no table is missing, the tables. */
const examine = Effect.gen(function* () {
  const ofServer = yield* runAll(Checks.serverChecks)
  const missing = yield* runAll([Checks.missingTables])
  const ofTables = missing.length === 0 ? yield* runAll(Checks.tableChecks) : []
  return [...ofServer, ...missing, ...ofTables]
})

export const layer = HttpApiBuilder.group(
  Api,
  "doctor",
  Effect.fnUntraced(function* (handlers) {
    const subjects = yield* Effect.context<Subjects>()
    return handlers.handleAll({ doctor: () => Effect.provideContext(examine, subjects) })
  })
)
