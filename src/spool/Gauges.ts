/** Feeds the gauges of all queues by looking at them, for as long as this process works on one. */
import { Duration, Effect, Metric, Option } from "effect"
import { Gauges, whileRunning } from "../internal/Gauges.ts"
import { SpoolStore } from "../SpoolStore.ts"
import { Transactor } from "../Transactor.ts"

export const depth = Metric.gauge("strata_spool_depth", { description: "Messages by queue and state" })
export const oldest = Metric.gauge("strata_spool_oldest_ready_seconds", {
  description: "For how long the oldest message that could be handled has waited"
})
const leases = Metric.gauge("strata_spool_leases", { description: "Messages that workers have claimed" })

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
