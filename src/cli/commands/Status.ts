/** `strata status`: one screen of the log, its writers, projections, states and messages. */
import { Clock, DateTime, Effect, Schema } from "effect"
import { Command } from "effect/cli"
import { Limits, ofProjections, ofQueues, saysOf } from "../../doctor/HealthChecks.ts"
import { withoutWaiting } from "../../doctor/LockedTables.ts"
import type { Problem } from "../../Health.ts"
import { decodeRows } from "../../postgres/database/DecodeRows.ts"
import { qualify } from "../../postgres/database/Identifier.ts"
import { PostgresDatabase } from "../../postgres/database/PostgresDatabase.ts"
import * as ArchiveTable from "../../postgres/events/ArchiveTable.ts"
import * as LockHolders from "../../postgres/events/LockHolders.ts"
import { idPrefix, processes as allProcesses } from "../../Projection.ts"
import { noMessages, type QueueOverview, type State } from "../../SpoolMessage.ts"
import { SpoolStore } from "../../SpoolStore.ts"
import { Settings } from "../arguments/GlobalFlags.ts"
import * as Parameters from "../arguments/Parameters.ts"
import * as Database from "../connection/Database.ts"
import { limitsOf, projectionFlags, queueFlags } from "../limits/Limits.ts"
import { CommandFailed } from "../terminal/CommandErrors.ts"
import * as Output from "../terminal/Output.ts"
import * as Progress from "../terminal/Progress.ts"
import { watched, watchFlags } from "../terminal/Watch.ts"
import { processColumns, processJson } from "./Processes.ts"

/** How many shards fit on a screen. Those that are the furthest behind are shown. */
const maxShards = 20

const Log = Schema.Struct({
  server: Schema.String,
  standby: Schema.Boolean,
  latestVersion: Schema.BigInt,
  latestAt: Schema.NullOr(Schema.DateTimeUtcFromDate),
  connections: Schema.Int
})

const lookAtLog = Effect.gen(function* () {
  const { names, query, sql, tables } = yield* PostgresDatabase
  const rows = yield* query(sql`
    SELECT pg_catalog.format('PostgreSQL %s, database %s, role %s', split_part(current_setting('server_version'), ' ', 1),
        current_database(), current_user) AS server,
      pg_is_in_recovery() AS standby,
      (SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database()) AS connections,
      coalesce(max(version), 0) AS "latestVersion",
      (SELECT created_at FROM ${tables.events} ORDER BY version DESC LIMIT 1) AS "latestAt"
    FROM ${tables.events}`)
  const [log] = yield* decodeRows(Log, names.events, [])(rows)
  return log
})

const Shard = Schema.Struct({
  projectionName: Schema.String,
  shardNumber: Schema.Int,
  value: Schema.BigInt,
  behind: Schema.BigInt
})

const lookAtOffsets = Effect.fnUntraced(function* (latestVersion: bigint) {
  const { names, query, sql, tables } = yield* PostgresDatabase
  const rows = yield* query(sql`
    SELECT projection_name AS "projectionName", shard_number::float8 AS "shardNumber", current_offset AS value,
      ${latestVersion}::bigint - current_offset AS behind
    FROM ${tables.offsets} ORDER BY behind DESC, projection_name, shard_number LIMIT ${maxShards}`)
  return yield* decodeRows(Shard, names.offsets, ["projectionName", "shardNumber"])(rows)
})

/** Up to this many states are counted. */
const fewStates = 10_000

const StateCounts = Schema.Struct({
  /** The states of applications among the few, and how many states there are among the few. */
  states: Schema.BigInt,
  found: Schema.Int,
  estimated: Schema.BigInt
})

/**
 * Many states are estimated: counting them takes longer the more there are. What projections keep about themselves is no state
 * of the application.
 */
const countStates = Effect.gen(function* () {
  const { names, query, schema, sql, tables } = yield* PostgresDatabase
  const rows = yield* query(sql`
    SELECT few.states, few.found,
      (
        SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = ${qualify(schema, names.states)}::regclass::oid
      ) AS estimated
    FROM (
      SELECT count(*) FILTER (WHERE NOT starts_with(persistence_id::text, ${idPrefix}::text)) AS states, count(*)::int AS found
      FROM (SELECT persistence_id FROM ${tables.states} LIMIT ${fewStates + 1}) AS few
    ) AS few`)
  const [counts] = yield* decodeRows(StateCounts, names.states, [])(rows)
  return counts
})

/** The states in which messages are counted. Archived ones are done. */
const messageStates = ["incoming", "active", "deferred", "hold", "bounce"] as const

/** What waits in all queues together. */
interface Messages {
  readonly counts: QueueOverview["counts"]
  readonly estimated: ReadonlyArray<State>
}

const togetherOf = (queues: ReadonlyArray<QueueOverview>): Messages => {
  const counts = { ...noMessages }
  for (const queue of queues) for (const state of messageStates) counts[state] += queue.counts[state]
  return { counts, estimated: messageStates.filter((state) => queues.some((one) => one.estimated.includes(state))) }
}

/** Counts all messages. */
const countAllMessages = Effect.map(
  SpoolStore.use(({ countByState }) => countByState()),
  (counts): Messages => ({ counts, estimated: [] })
)

/** How many states one statement counts. */
const statesPerStatement = 100_000

const Page = Schema.Struct({ states: Schema.BigInt, looked: Schema.Int, last: Schema.NullOr(Schema.String) })

/** Counts all states of applications. */
const countAllStates = Effect.fnUntraced(function* (estimated: bigint) {
  const { names, query, sql, tables } = yield* PostgresDatabase
  return yield* Progress.during({ verb: "looked at", things: "states", total: Number(estimated) }, ({ advance }) =>
    Effect.gen(function* () {
      let states = 0n
      let after = ""
      while (true) {
        const rows = yield* query(sql`
          SELECT count(*) FILTER (WHERE NOT starts_with(persistence_id::text, ${idPrefix}::text)) AS states,
            count(*)::float8 AS looked, max(persistence_id::text) AS last
          FROM (
            SELECT persistence_id FROM ${tables.states} WHERE persistence_id::text > ${after}::text
            ORDER BY persistence_id::text LIMIT ${statesPerStatement}
          ) AS page`)
        const [page] = yield* decodeRows(Page, names.states, [])(rows)
        if (page === undefined || page.last === null) return states
        states += page.states
        after = page.last
        yield* advance(page.looked)
      }
    })
  )
})

const describeHolders = Effect.gen(function* () {
  const { query } = yield* PostgresDatabase
  const { describe, list } = yield* LockHolders.make
  const { holders } = yield* list(query)
  return holders.size === 0 ? undefined : yield* describe(query, holders)
})

/** What of the log is in files. */
const lookAtArchive = Effect.gen(function* () {
  const parts = yield* Effect.flatMap(PostgresDatabase, ArchiveTable.listVisible)
  const last = parts.at(-1)
  return last === undefined
    ? undefined
    : { below: last.endVersion, files: parts.length, events: parts.reduce((sum, { events }) => sum + events, 0) }
})

const look = Effect.fnUntraced(function* (isExact: boolean) {
  const log = yield* lookAtLog
  const archived = yield* lookAtArchive
  const offsets = yield* lookAtOffsets(log?.latestVersion ?? 0n)
  const { estimated = 0n, found = 0, states: few = 0n } = (yield* countStates) ?? {}
  const areMany = found > fewStates && !isExact
  // The statistics may be older than the states.
  const many = estimated > found ? estimated : BigInt(found)
  const states = found <= fewStates ? few : isExact ? yield* countAllStates(many) : many
  const projections = yield* ofProjections()
  const queues = yield* ofQueues()
  const estimate = togetherOf(queues.all)
  const messages = isExact && estimate.estimated.length > 0 ? yield* countAllMessages : estimate
  const holders = log?.standby === true ? undefined : yield* describeHolders
  const processes = yield* allProcesses
  const problems = [...projections.problems, ...queues.problems]
  return {
    ...log,
    archived,
    offsets,
    processes,
    messages,
    states,
    areMany,
    holders,
    problems,
    atMillis: yield* Clock.currentTimeMillis
  }
})

type Seen = Effect.Success<ReturnType<typeof look>>

/** How many events a second have been appended since the look before. */
const eventsPerSecond = (before: Seen | undefined, { atMillis, latestVersion = 0n }: Seen): number | undefined =>
  before === undefined || atMillis <= before.atMillis
    ? undefined
    : Math.round((Number(latestVersion - (before.latestVersion ?? 0n)) / (atMillis - before.atMillis)) * 1000)

const shardColumns: Output.Listing<typeof Shard.Type>["columns"] = [
  { title: "PROJECTION", show: ({ projectionName }) => projectionName },
  { title: "SHARD", show: ({ shardNumber }) => String(shardNumber), right: true },
  { title: "OFFSET", show: ({ value }) => String(value), right: true },
  { title: "BEHIND", show: ({ behind }) => behind.toLocaleString("en-US"), right: true }
]

const problemColumns: Output.Listing<Problem>["columns"] = [
  { title: "PROBLEM", show: saysOf },
  { title: "REMEDY", show: ({ remedy }) => remedy }
]

const show = Effect.fnUntraced(function* (seen: Seen, before: Seen | undefined) {
  const {
    archived,
    areMany,
    connections,
    holders,
    latestAt,
    latestVersion = 0n,
    messages,
    offsets,
    problems,
    processes,
    server,
    standby = false,
    states
  } = seen
  const rate = eventsPerSecond(before, seen)
  const at = latestAt === null || latestAt === undefined ? null : DateTime.formatIso(latestAt)
  if (yield* Settings.json) {
    return yield* Output.json({
      server,
      standby,
      connections,
      latestVersion,
      latestAt: at,
      eventsPerSecond: rate,
      archived: archived ?? null,
      tail: holders ?? null,
      states,
      areStatesEstimated: areMany,
      messages: Object.fromEntries(messageStates.map((state) => [state, BigInt(messages.counts[state])])),
      estimatedMessages: messages.estimated,
      offsets,
      processes: processes.map(processJson),
      problems: problems.map(({ _tag, message, remedy }) => ({ problem: _tag, message, remedy }))
    })
  }
  yield* Output.record({
    server: `${server}, ${Output.count(connections ?? 0, "connection")}`,
    events:
      (at === null ? "none" : `up to version ${latestVersion}, the last of ${at}`) +
      (rate === undefined ? "" : `, ${rate.toLocaleString("en-US")} a second`),
    ...(archived === undefined
      ? {}
      : {
          archive: `all below version ${archived.below}: ${Output.count(archived.events, "event")} in ${Output.count(archived.files, "file")}`
        }),
    tail: standby
      ? "replayed by a standby: only its primary knows who is appending"
      : holders === undefined
        ? "nobody is appending"
        : `being appended to by ${holders}`,
    states: areMany ? Output.about(states) : states.toLocaleString("en-US"),
    messages: messageStates
      .map((state) => {
        const count = messages.counts[state]
        return `${messages.estimated.includes(state) ? Output.about(count) : count.toLocaleString("en-US")} ${state}`
      })
      .join(", ")
  })
  if (offsets.length > 0) yield* Output.table(shardColumns, offsets)
  if (processes.length > 0) yield* Output.table(processColumns, processes)
  if (problems.length > 0) yield* Output.table(problemColumns, problems)
})

const flags = {
  ...watchFlags,
  ...projectionFlags,
  ...queueFlags,
  exact: Parameters.toggle("exact", "Count all states and messages, where many are estimated otherwise")
}

export const status = Command.make("status", flags).pipe(
  Command.withDescription(
    "Shows the log, who appends to it, how far projections are behind, which processes run them, states and messages. Fails if something is beyond its limit"
  ),
  Command.withExamples([
    { command: "strata status", description: "Now" },
    { command: "strata status --max-behind 1m", description: "Fails if a projection is a minute behind" },
    { command: "strata status --watch --interval 5s", description: "Every five seconds" }
  ]),
  Command.withHandler((flags) => {
    let before: Seen | undefined
    return watched(
      flags,
      Effect.gen(function* () {
        const seen = yield* withoutWaiting(look(flags.exact))
        yield* show(seen, before)
        before = seen
        if (!flags.watch && seen.problems.length > 0) {
          return yield* new CommandFailed({ message: `${Output.count(seen.problems.length, "problem")} found` })
        }
      })
    ).pipe(Effect.provideService(Limits, limitsOf(flags)))
  }),
  Command.provide(Database.layer)
)
