/**
 * Every metric and every span of Strata, and what their attributes say. The code makes its metrics of this list, and
 * `resources/reference/telemetry.md` is made of it.
 */
import { type Duration, Metric } from "effect"

/** What each attribute says, by its name. */
export type Attributes = Readonly<Record<string, string>>

export interface MetricReference {
  readonly kind: "counter" | "gauge" | "timer"
  readonly description: string
  readonly attributes: Attributes
}

export interface SpanReference {
  readonly description: string
  readonly attributes: Attributes
}

const operation = {
  store:
    "The service: `EventStore`, `OffsetStore`, `DurableStateStore` or `SpoolStore`; `Postgres` while its layer is built",
  operation: "The method: `append`",
  backend: "`postgres` or `memory`"
}

const projection = { projection: "The name of the projection" }

const shard = { ...projection, shard: "The number of the shard, from 0" }

/** What `Metric.timer` adds. */
const timed = { time_unit: "`milliseconds`" }

const queue = { queue: "The queue; empty for messages of RetrySpool, which are in none" }

/** In the order of the reference. */
export const metrics = {
  strata_operations: {
    kind: "counter",
    description: "Operations of the stores, by outcome",
    attributes: {
      ...operation,
      outcome:
        "`ok`, the tag of the error (of a `StoreError` that of its reason), `interrupted`, or `defect` for an error that no type names"
    }
  },
  strata_operation_duration: {
    kind: "timer",
    description: "How long operations of the stores take. Streams are counted, and not timed",
    attributes: { ...operation, ...timed }
  },
  strata_events_held_seconds: {
    kind: "gauge",
    description: "For how long an open transaction has held up the subscribers of this process; 0 where none does",
    attributes: {}
  },
  strata_projection_events: {
    kind: "counter",
    description: "Events that projections have handled",
    attributes: shard
  },
  strata_projection_failures: {
    kind: "counter",
    description: "Failures of projections' handlers",
    attributes: shard
  },
  strata_projection_contention: {
    kind: "counter",
    description: "Transactions of projections that lost against others and were tried again",
    attributes: projection
  },
  strata_projection_batch_duration: {
    kind: "timer",
    description: "How long batches of projections take, with their commit",
    attributes: { ...shard, ...timed }
  },
  strata_projection_lag_seconds: {
    kind: "gauge",
    description: "How old the event is that a shard of a projection has handled last, or that is next",
    attributes: shard
  },
  strata_projection_lag_versions: {
    kind: "gauge",
    description: "How many versions a shard of a projection has not passed",
    attributes: shard
  },
  strata_projection_parked: {
    kind: "gauge",
    description: "Aggregates of a shard that are parked",
    attributes: shard
  },
  strata_projection_skipped: {
    kind: "gauge",
    description: "Events that a shard has skipped",
    attributes: shard
  },
  strata_projection_failed: {
    kind: "gauge",
    description: "Whether the handler of a shard has failed with the event that is next: 1, or 0",
    attributes: shard
  },
  strata_spool_attempts: {
    kind: "counter",
    description: "Attempts to handle a message, by what came of it",
    attributes: { ...queue, outcome: "`delivered`, `failed` or `bounced`. An attempt that bounces is no `failed` one" }
  },
  strata_spool_claim_latency: {
    kind: "timer",
    description: "How long messages were ready before they were claimed, by the store's clock",
    attributes: { ...queue, ...timed }
  },
  strata_spool_leases_lost: {
    kind: "counter",
    description: "Claimed messages that were moved or recovered before their worker settled them",
    attributes: queue
  },
  strata_spool_depth: {
    kind: "gauge",
    description: "Messages by queue and state; of more than some thousands an estimate",
    attributes: {
      ...queue,
      state: "The state of the messages: `incoming`, `active`, `deferred`, `hold` or `bounce`"
    }
  },
  strata_spool_oldest_ready_seconds: {
    kind: "gauge",
    description: "For how long the oldest message that could be handled has waited",
    attributes: queue
  },
  strata_spool_leases: {
    kind: "gauge",
    description: "Messages that workers have claimed",
    attributes: queue
  },
  strata_work_running: {
    kind: "gauge",
    description: "Whether background work is running: 1, or 0",
    attributes: { work: "The name of the work, as `Supervisor.run` was told" }
  }
} as const satisfies Readonly<Record<string, MetricReference>>

/** `Store.operation` stands for each operation of each store. */
export const spans = {
  "Store.operation": {
    description: "An operation of a store, named after both: `EventStore.append`",
    attributes: operation
  },
  "Projection.batch": {
    description:
      "A batch of a projection with its transaction: a trace of its own, linked to the spans that have appended its events",
    attributes: { ...shard, events: "How many events the batch has" }
  },
  "Projection.handle": {
    description:
      "The handling of an event whose metadata names the span that has appended it: linked to that span. Other events have no span",
    attributes: {}
  },
  "Spool.handle": {
    description: "An attempt to handle a message: a child of the span that has enqueued it, if that was collected",
    attributes: { ...queue, attempt: "Which attempt it is, from 1" }
  }
} as const satisfies Readonly<Record<string, SpanReference>>

/** A span that has one name, and not that of an operation. */
export type SpanName = Exclude<keyof typeof spans, "Store.operation">

type NamesOf<Kind> = {
  readonly [Name in keyof typeof metrics]: (typeof metrics)[Name]["kind"] extends Kind ? Name : never
}[keyof typeof metrics]

export const counter = (name: NamesOf<"counter">, attributes?: Attributes): Metric.Counter<number> =>
  Metric.counter(name, { description: metrics[name].description, incremental: true, ...given(attributes) })

export const gauge = (name: NamesOf<"gauge">): Metric.Gauge<number> =>
  Metric.gauge(name, { description: metrics[name].description })

export const timer = (name: NamesOf<"timer">, attributes?: Attributes): Metric.Metric<Duration.Duration, unknown> =>
  Metric.timer(name, { description: metrics[name].description, ...given(attributes) })

const given = (attributes: Attributes | undefined) => (attributes === undefined ? {} : { attributes })
