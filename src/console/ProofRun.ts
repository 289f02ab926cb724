/** The proof of the doctor, started in the console: one at a time in this process, and how far it is. */
import type { PgClient } from "@effect/sql-pg"
import { Clock, Context, type Duration, Effect, Layer } from "effect"
import { prove } from "../doctor/Proof.ts"
import type { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import type { Proof } from "./api/DoctorApi.ts"
import { BadRequest } from "./api/Fields.ts"

type Proof = typeof Proof.Type

const none: Proof = { state: "none", millis: 0, elapsedMillis: 0, delivered: 0, finding: null, failure: null }

export class ProofRun extends Context.Service<
  ProofRun,
  {
    /** Starts one in the background, if none runs. */
    readonly start: (time: Duration.Duration, millis: number) => Effect.Effect<void, BadRequest>
    readonly now: Effect.Effect<Proof>
  }
>()("effect-strata/console/ProofRun") {
  static readonly layer = Layer.effect(
    ProofRun,
    Effect.gen(function* () {
      const scope = yield* Effect.scope
      const subjects = yield* Effect.context<PgClient.PgClient | PostgresDatabase>()
      let proof = none
      let startedAt = 0

      const run = (time: Duration.Duration) =>
        prove(time, (delivered) => {
          proof = { ...proof, delivered }
        }).pipe(
          Effect.provideContext(subjects),
          Effect.match({
            onSuccess: ({ level, remedy, says }) => {
              proof = { ...proof, state: "done", finding: { check: "proof", level, says, remedy: remedy ?? null } }
            },
            onFailure: ({ message }) => {
              proof = { ...proof, state: "failed", failure: message }
            }
          })
        )

      return ProofRun.of({
        start: Effect.fnUntraced(function* (time, millis) {
          if (proof.state === "running") return yield* new BadRequest({ message: "a proof is running already" })
          startedAt = yield* Clock.currentTimeMillis
          proof = { ...none, state: "running", millis }
          yield* Effect.forkIn(run(time), scope)
        }),
        now: Effect.map(Clock.currentTimeMillis, (now) =>
          proof.state === "running" ? { ...proof, elapsedMillis: now - startedAt } : proof
        )
      })
    })
  )
}
