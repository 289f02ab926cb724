/** Feeds the gauges of all queues by looking at them, for as long as this process works on one. */
import { Duration, Effect, Option } from "effect"
import { Gauges, whileRunning } from "../internal/Gauges.ts"
import * as Telemetry from "../internal/Telemetry.ts"
import { SpoolStore } from "../SpoolStore.ts"
import { Transactor } from "../Transactor.ts"

export const depth = Telemetry.gauge("strata_spool_depth")
export const oldest = Telemetry.gauge("strata_spool_oldest_ready_seconds")
const leases = Telemetry.gauge("strata_spool_leases")

const look = (gauges: Gauges) =>
  Effect.gen(function* () {
    const spool = yield* SpoolStore
    for (const { counts, leased, oldestReady, queue = "" } of yield* spool.overview) {
      for (const [state, messages] of Object.entries(counts)) yield* gauges.set(depth, { queue, state }, messages)
      const age = Option.match(oldestReady, { onNone: () => 0, onSome: Duration.toSeconds })
      yield* gauges.set(oldest, { queue }, age)
      yield* gauges.set(leases, { queue }, leased)
    }
    yield* gauges.finish
  })

/** Looks at all queues now and then, until the scope is closed. */
export const feed = Effect.flatMap(Transactor, (transactor) => whileRunning(transactor, "queues", look(new Gauges())))
