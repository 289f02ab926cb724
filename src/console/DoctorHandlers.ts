/** The checks of `strata doctor`, as the API has them. */
import { Duration, Effect, Queue, type Schema, Stream } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import type { Finding, Subjects } from "../doctor/Check.ts"
import * as Checks from "../doctor/Checks.ts"
import { Limits, ShowErrors } from "../doctor/HealthChecks.ts"
import { ShowQueries } from "../doctor/TransactionChecks.ts"
import type * as Health from "../Health.ts"
import { Api } from "./api/Api.ts"
import type { Flags, Found as FoundSchema } from "./api/DoctorApi.ts"
import { ProofRun } from "./ProofRun.ts"
import { Settings, whereShown } from "./Settings.ts"

type Found = typeof FoundSchema.Type

type Asked = Schema.Struct.Type<typeof Flags>

const viewOf = (check: string, { level, remedy, says }: Finding) => ({ check, level, says, remedy: remedy ?? null })

const limitsOf = ({ maxBehindSeconds, maxWaitingSeconds, ...limits }: Omit<Asked, "queries">): Health.Limits => ({
  ...limits,
  ...(maxBehindSeconds === undefined ? {} : { maxBehind: Duration.seconds(maxBehindSeconds) }),
  ...(maxWaitingSeconds === undefined ? {} : { maxWaiting: Duration.seconds(maxWaitingSeconds) })
})

/** What all checks find, a check after the other as they end. */
const examine = Effect.fnUntraced(function* ({ queries, ...limits }: Asked, settings: Settings) {
  if (queries === "shown") {
    yield* whereShown(settings, "this console hides what is stored, and so the statements of others")
  }
  return Stream.callback<Found, never, Subjects>((found) =>
    Checks.examine(
      (check, findings) =>
        Queue.offer(found, {
          place: Checks.names.indexOf(check),
          findings: findings.map((finding) => viewOf(check, finding))
        }),
      { beside: true }
    ).pipe(
      Effect.provideService(Limits, limitsOf(limits)),
      Effect.provideService(ShowQueries, queries === "shown"),
      Effect.provideService(ShowErrors, settings.showPayloads),
      Effect.andThen(Queue.end(found))
    )
  )
})

/** All of it at once, in the order of the checks. */
const collected = (stream: Stream.Stream<Found, never, Subjects>) =>
  Effect.map(Stream.runCollect(stream), (found) =>
    found.toSorted((a, b) => a.place - b.place).flatMap(({ findings }) => findings)
  )

export const layer = HttpApiBuilder.group(
  Api,
  "doctor",
  Effect.fnUntraced(function* (handlers) {
    const settings = yield* Settings
    const subjects = yield* Effect.context<Subjects>()
    const { now } = yield* ProofRun
    return handlers.handleAll({
      doctor: ({ query }) => Effect.provideContext(Effect.flatMap(examine(query, settings), collected), subjects),
      checks: ({ query }) => Effect.map(examine(query, settings), Stream.provideContext(subjects)),
      proof: () => now
    })
  })
)
