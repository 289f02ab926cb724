/** What projections are doing: how far their shards are, and whether they run. */
import { Effect, Stream } from "effect"
import { check } from "../../internal/Arguments.ts"
import { named } from "../../internal/Named.ts"
import { ByName } from "../Definition.ts"
import { controlOf } from "../Records.ts"
import { processes as allProcesses, survey } from "../Survey.ts"

/** The names of all projections that have run on this database and were not removed. */
export const names = Stream.unwrap(
  Effect.map(survey({ mostReads: 0, withProcesses: false }), (all) =>
    Stream.fromIterable(all.map(({ projectionName }) => projectionName))
  )
).pipe(Stream.mapError(named("Projection", "names")))

const toTheEnd = { mostReads: Number.POSITIVE_INFINITY, mayWait: true }

/** The status of every projection that has run on this database and was not removed, in a few statements. */
export const statuses = Effect.mapError(survey(toTheEnd), named("Projection", "statuses"))

/**
 * The processes that run projections on this database, with what each runs, since when, and when it was last heard of.
 *
 * **Details**
 *
 * The clocks of the machines need not agree: a process that is silent by its clock, or ahead of this one, is listened to for
 * three of its heartbeats at most. A process that was killed is told apart from one with another clock that way.
 */
export const processes = Effect.mapError(allProcesses, named("Projection", "processes"))

/** The status of each shard, in the order of their numbers. */
export const status = Effect.fnUntraced(
  function* (name: string) {
    yield* check(ByName, "Projection", "status", { name })
    yield* controlOf(name)
    const [projection] = yield* survey({ name, ...toTheEnd })
    return projection?.shards ?? []
  },
  Effect.mapError(named("Projection", "status"))
)
