/** Projections, as the API has them. */
import { DateTime, Effect, Option, Stream } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import type { DurableStateStore } from "../DurableStateStore.ts"
import type { EventStore } from "../EventStore.ts"
import { type Offset, OffsetStore } from "../OffsetStore.ts"
import * as Projection from "../Projection.ts"
import { controlOf } from "../projection/Records.ts"
import { Api } from "./api/Api.ts"
import { answered } from "./Failures.ts"
import { anyProcessOf, failureOf, parkedOf, processOf, projectionOf, shardOf } from "./ProjectionView.ts"
import { Settings, stored } from "./Settings.ts"

/** How many of the events that were skipped are shown. */
const shownSkipped = 100

const detailOf = Effect.fnUntraced(function* (name: string, settings: Settings) {
  const { value: control } = yield* controlOf(name)
  const shards = yield* Projection.status(name)
  const processes = new Map(shards.flatMap(({ process }) => Option.toArray(process)).map((one) => [one.id, one]))
  const parked = yield* Stream.runCollect(Projection.parked(name))
  const skipped = yield* Stream.runCollect(Stream.take(Projection.skipped(name), shownSkipped))
  return {
    name,
    head: shards[0]?.head ?? 0n,
    paused: control.paused,
    slot: control.slot,
    rebuildAsked: control.rebuildAsked ?? false,
    rebuildFailure:
      control.rebuildFailure === undefined ? null : (stored(settings, control.rebuildFailure) ?? "its error is hidden"),
    shards: shards.map((shard) => shardOf(settings, shard)),
    processes: [...processes.values()].map((process) => processOf(name, process)),
    parked: parked.map((one) => parkedOf(settings, one)),
    skipped: skipped.map((one) => failureOf(settings, one)),
    skippedTotal: shards.reduce((sum, shard) => sum + shard.skipped, 0)
  }
})

const offsetOf = ({ projectionName, shardNumber, timestamp, value }: Offset) => ({
  projectionName,
  shardNumber,
  value,
  // Other programs may have put something else there.
  writtenAt: Option.getOrNull(DateTime.make(Number(timestamp)))
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
      processes: () =>
        answered(
          Effect.provideContext(
            Effect.map(Projection.processes, (all) => all.map(anyProcessOf)),
            stores
          )
        ),
      offsets: ({ query: { projection } }) =>
        answered(
          Effect.map(
            Stream.runCollect(Stream.unwrap(OffsetStore.useSync(({ listOffsets }) => listOffsets(projection)))),
            (all) => all.map(offsetOf)
          ).pipe(Effect.provideContext(stores))
        ),
      projection: ({ query: { name } }) => answered(Effect.provideContext(detailOf(name, settings), stores))
    })
  })
)
