/** What is still well: the limits, and what is beyond them. */
import { Duration, Option } from "effect"
import { about } from "../internal/Words.ts"
import type { ProjectionStatus, ShardStatus } from "../projection/Survey.ts"
import type { QueueOverview } from "../SpoolStore.ts"
import {
  AggregatesParked,
  EventsSkipped,
  inWords,
  MessagesBounced,
  MessagesWaiting,
  type Problem,
  ProjectionBehind,
  ProjectionFailing
} from "./Problem.ts"

/** What is still well, for `Health.check`. `strata status` and `strata doctor` have flags of the same names. */
export interface Limits {
  /** How old the next event of a projection may be: 5 minutes unless given. */
  readonly maxBehind?: Duration.Input
  /** How many versions a projection may be behind: any number unless given. */
  readonly maxLag?: number
  /** How many aggregates a projection may have parked: none unless given. */
  readonly maxParked?: number
  /** How many events a projection may have skipped: any number unless given, as it was told to skip them. */
  readonly maxSkipped?: number
  /** How many messages of a queue may have bounced: none unless given. */
  readonly maxBounced?: number
  /** For how long a message may wait that could be handled: 5 minutes unless given. */
  readonly maxWaiting?: Duration.Input
}

const durationOf = (input: Duration.Input) => Option.getOrElse(Duration.fromInput(input), () => Duration.infinity)

/** What a shard that is behind needs, by its state. */
const remedyOf = (name: string, { state }: ShardStatus): string => {
  switch (state) {
    case "idle":
      return "no process runs it: start one"
    case "paused":
      return `it is paused; run: strata projections resume ${name}`
    case "failed":
      return `mend what its handler fails with; see: strata projections status ${name}`
    case "running":
      return (
        "a process runs it: its handler hangs, or is slower than the appends; a `timeout` of the projection ends a handler " +
        `that hangs; see: strata projections status ${name}`
      )
  }
}

const behindOf = (
  projectionName: string,
  shards: ReadonlyArray<ShardStatus>,
  limits: Limits
): ReadonlyArray<Problem> => {
  const { maxBehind = "5 minutes", maxLag = Number.POSITIVE_INFINITY } = limits
  const most = durationOf(maxBehind)
  const late = shards.filter(({ behind, lag }) => Duration.isGreaterThan(behind, most) || Number(lag) > maxLag)
  const [first] = late.toSorted((a, b) => Duration.Order(b.behind, a.behind))
  if (first === undefined) return []
  const { behind, lag, shardNumber } = first
  const versions = lag === 1n ? "1 version" : `${lag.toLocaleString("en-US")} versions`
  const others = late.length === 1 ? "" : `, and ${late.length - 1} more of its shards are behind, too`
  return [
    new ProjectionBehind({
      message: `projection "${projectionName}" is ${inWords(behind)} and ${versions} behind, in shard ${shardNumber}${others}`,
      remedy: remedyOf(projectionName, first),
      projectionName,
      shardNumber,
      behind,
      lag
    })
  ]
}

const failingOf = (projectionName: string, shards: ReadonlyArray<ShardStatus>): ReadonlyArray<Problem> =>
  shards.flatMap(({ failure, shardNumber, state }) =>
    state !== "failed" || Option.isNone(failure)
      ? []
      : [
          new ProjectionFailing({
            message: `projection "${projectionName}" fails at version ${failure.value.version}, in shard ${shardNumber}`,
            remedy: "mend its handler, or what it needs; with `onFailure` it can skip the event, or park its aggregate",
            projectionName,
            shardNumber,
            version: failure.value.version,
            error: failure.value.error
          })
        ]
  )

/** What is wrong with a projection. */
export const ofProjection = (
  { projectionName, shards }: ProjectionStatus,
  limits: Limits = {}
): ReadonlyArray<Problem> => {
  const { maxParked = 0, maxSkipped = Number.POSITIVE_INFINITY } = limits
  const parked = shards.reduce((sum, shard) => sum + shard.parked, 0)
  const skipped = shards.reduce((sum, shard) => sum + shard.skipped, 0)
  const problems: Array<Problem> = [...failingOf(projectionName, shards), ...behindOf(projectionName, shards, limits)]
  if (parked > maxParked) {
    problems.push(
      new AggregatesParked({
        message: `projection "${projectionName}" has parked ${parked === 1 ? "1 aggregate" : `${parked} aggregates`}`,
        remedy: `see: strata projections parked ${projectionName}; once mended, run: strata projections retry ${projectionName}`,
        projectionName,
        parked
      })
    )
  }
  if (skipped > maxSkipped) {
    problems.push(
      new EventsSkipped({
        message: `projection "${projectionName}" has skipped ${skipped === 1 ? "1 event" : `${skipped} events`}`,
        remedy: "Projection.skipped has them, with their errors; once mended, reset or rebuild the projection",
        projectionName,
        skipped
      })
    )
  }
  return problems
}

/** What is wrong with a queue. */
export const ofQueue = (
  { counts, estimated, oldestReady, queue }: QueueOverview,
  limits: Limits = {}
): ReadonlyArray<Problem> => {
  const { maxBounced = 0, maxWaiting = "5 minutes" } = limits
  const most = durationOf(maxWaiting)
  const where = queue === undefined ? "in no queue" : `of queue "${queue}"`
  const flag = queue === undefined ? "" : ` --queue ${queue}`
  const { bounce: bounced } = counts
  const many = estimated.includes("bounce")
    ? `${about(bounced)} messages`
    : bounced === 1
      ? "1 message"
      : `${bounced} messages`
  const problems: Array<Problem> = []
  if (bounced > maxBounced) {
    problems.push(
      new MessagesBounced({
        message: `${many} ${where} could not be delivered`,
        remedy: `see: strata spool list bounce${flag}; once mended, run for each: strata spool requeue ID${flag}`,
        queue,
        bounced
      })
    )
  }
  if (Option.isSome(oldestReady) && Duration.isGreaterThan(oldestReady.value, most)) {
    problems.push(
      new MessagesWaiting({
        message: `a message ${where} has waited for ${inWords(oldestReady.value)}`,
        remedy: "start a worker, or more of them; a worker whose handlers hang needs a `timeout`",
        queue,
        oldestReady: oldestReady.value
      })
    )
  }
  return problems
}
