/** Projections, as the API has them. */
import { Effect, Stream } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import type { DurableStateStore } from "../DurableStateStore.ts"
import type { EventStore } from "../EventStore.ts"
import type { OffsetStore } from "../OffsetStore.ts"
import * as Projection from "../Projection.ts"
import { controlOf } from "../projection/Records.ts"
import { Api } from "./api/Api.ts"
import { answered } from "./Failures.ts"
import { failureOf, parkedOf, processOf, projectionOf, shardOf } from "./ProjectionView.ts"
import { Settings } from "./Settings.ts"

/** How many of the events that were skipped are shown. */
const shownSkipped = 100

const detailOf = Effect.fnUntraced(function* (name: string, settings: Settings) {
  const { value: control } = yield* controlOf(name)
  const shards = yield* Projection.status(name)
  const processes = (yield* Projection.processes).map((process) => processOf(name, process))
  const parked = yield* Stream.runCollect(Projection.parked(name))
  const skipped = yield* Stream.runCollect(Stream.take(Projection.skipped(name), shownSkipped))
  return {
    name,
    head: shards[0]?.head ?? 0n,
    paused: control.paused,
    slot: control.slot,
    rebuildAsked: control.rebuildAsked ?? false,
    rebuildFailure: control.rebuildFailure ?? null,
    shards: shards.map((shard) => shardOf(settings, shard)),
    processes: processes.filter(({ shards }) => shards.length > 0),
    parked: parked.map((one) => parkedOf(settings, one)),
    skipped: skipped.map((one) => failureOf(settings, one)),
    skippedTotal: shards.reduce((sum, shard) => sum + shard.skipped, 0)
  }
})

export const layer = HttpApiBuilder.group(
  Api,
  "projections",
  Effect.fnUntraced(function* (handlers) {
    const settings = yield* Settings
    const stores = yield* Effect.context<DurableStateStore | EventStore | OffsetStore>()
    return handlers.handleAll({
      projections: () =>
        answered(
          Effect.provideContext(
            Effect.map(Projection.statuses, (all) => all.map(projectionOf)),
            stores
          )
        ),
      projection: ({ query: { name } }) => answered(Effect.provideContext(detailOf(name, settings), stores))
    })
  })
)
