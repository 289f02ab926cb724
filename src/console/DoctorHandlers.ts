/** The checks of `strata doctor`, as the API has them. */
import { Duration, Effect, type Schema } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import type { Finding, Subjects } from "../doctor/Check.ts"
import * as Checks from "../doctor/Checks.ts"
import { Limits, ShowErrors } from "../doctor/HealthChecks.ts"
import { ShowQueries } from "../doctor/TransactionChecks.ts"
import type * as Health from "../Health.ts"
import { Api } from "./api/Api.ts"
import type { Flags } from "./api/DoctorApi.ts"
import { ProofRun } from "./ProofRun.ts"
import { Settings, whereShown } from "./Settings.ts"

type Asked = Schema.Struct.Type<typeof Flags>

const viewOf = (check: string, { level, remedy, says }: Finding) => ({ check, level, says, remedy: remedy ?? null })

const limitsOf = ({ maxBehindSeconds, maxWaitingSeconds, ...limits }: Omit<Asked, "queries">): Health.Limits => ({
  ...limits,
  ...(maxBehindSeconds === undefined ? {} : { maxBehind: Duration.seconds(maxBehindSeconds) }),
  ...(maxWaitingSeconds === undefined ? {} : { maxWaiting: Duration.seconds(maxWaitingSeconds) })
})

const examine = Effect.fnUntraced(function* ({ queries, ...limits }: Asked, settings: Settings) {
  if (queries === "shown") {
    yield* whereShown(settings, "this console hides what is stored, and so the statements of others")
  }
  const found: Array<ReturnType<typeof viewOf>> = []
  yield* Checks.examine((check, findings) =>
    Effect.sync(() => void found.push(...findings.map((finding) => viewOf(check, finding))))
  ).pipe(
    Effect.provideService(Limits, limitsOf(limits)),
    Effect.provideService(ShowQueries, queries === "shown"),
    Effect.provideService(ShowErrors, settings.showPayloads)
  )
  return found
})

export const layer = HttpApiBuilder.group(
  Api,
  "doctor",
  Effect.fnUntraced(function* (handlers) {
    const settings = yield* Settings
    const subjects = yield* Effect.context<Subjects>()
    const { now } = yield* ProofRun
    return handlers.handleAll({
      doctor: ({ query }) => Effect.provideContext(examine(query, settings), subjects),
      proof: () => now
    })
  })
)
