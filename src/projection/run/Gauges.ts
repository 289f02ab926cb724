/** Feeds the gauges of all projections by looking at them, for as long as this process runs one. */
import { Duration, Effect } from "effect"
import { Gauges, whileRunning } from "../../internal/Gauges.ts"
import * as Telemetry from "../../internal/Telemetry.ts"
import { Transactor } from "../../Transactor.ts"
import { survey } from "../Survey.ts"
import { lag } from "./Metrics.ts"

const lagVersions = Telemetry.gauge("strata_projection_lag_versions")
const parked = Telemetry.gauge("strata_projection_parked")
const skipped = Telemetry.gauge("strata_projection_skipped")
const failed = Telemetry.gauge("strata_projection_failed")

/** For how many places in the log a look finds out how old the next event is. */
const mostReads = 8

const look = (gauges: Gauges) =>
  Effect.gen(function* () {
    for (const { projectionName: projection, shards } of yield* survey({ mostReads, withProcesses: false })) {
      for (const { behind, lag: versions, shardNumber, ...shard } of shards) {
        const attributes = { projection, shard: String(shardNumber) }
        yield* gauges.set(lag, attributes, Duration.toSeconds(behind))
        yield* gauges.set(lagVersions, attributes, Number(versions))
        yield* gauges.set(parked, attributes, shard.parked)
        yield* gauges.set(skipped, attributes, shard.skipped)
        yield* gauges.set(failed, attributes, shard.state === "failed" ? 1 : 0)
      }
    }
    yield* gauges.finish
  })

/** Looks at all projections now and then, until the scope is closed. */
export const feed = Effect.flatMap(Transactor, (transactor) =>
  whileRunning(transactor, "projections", look(new Gauges()))
)
