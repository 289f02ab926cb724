/** `strata status`: one screen of all that is going on. */
import { Clock, DateTime, Effect, Schema } from "effect"
import { Command } from "effect/cli"
import { decodeRows } from "../../postgres/database/DecodeRows.ts"
import { qualify } from "../../postgres/database/Identifier.ts"
import { PostgresDatabase } from "../../postgres/database/PostgresDatabase.ts"
import * as LockHolders from "../../postgres/events/LockHolders.ts"
import { Settings } from "../arguments/GlobalFlags.ts"
import * as Database from "../Database.ts"
import * as Output from "../terminal/Output.ts"
import { watched, watchFlags } from "../terminal/Watch.ts"

/** So many shards fit on a screen: those that are the furthest behind. */
const shards = 20

const Log = Schema.Struct({
  server: Schema.String,
  latestVersion: Schema.BigInt,
  latestAt: Schema.NullOr(Schema.DateTimeUtcFromDate),
  connections: Schema.Int
})

const Rest = Schema.Struct({
  states: Schema.BigInt,
  incoming: Schema.BigInt,
  active: Schema.BigInt,
  deferred: Schema.BigInt,
  hold: Schema.BigInt,
  bounce: Schema.BigInt
})

const Shard = Schema.Struct({
  projectionName: Schema.String,
  shardNumber: Schema.Int,
  value: Schema.BigInt,
  behind: Schema.BigInt
})

const look = Effect.gen(function* () {
  const { names, query, schema, sql, tables } = yield* PostgresDatabase
  const holders = yield* LockHolders.make
  const decodeLog = decodeRows(Log, names.events, [])
  const decodeRest = decodeRows(Rest, names.spool, [])
  const decodeShards = decodeRows(Shard, names.offsets, ["projectionName", "shardNumber"])

  return Effect.gen(function* () {
    const [log] = yield* Effect.flatMap(
      query(sql`
        SELECT format('PostgreSQL %s, database %s, role %s', split_part(current_setting('server_version'), ' ', 1),
            current_database(), current_user) AS server,
          (SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database()) AS connections,
          coalesce(max(version), 0) AS "latestVersion",
          (SELECT created_at FROM ${tables.events} ORDER BY version DESC LIMIT 1) AS "latestAt"
        FROM ${tables.events}`),
      decodeLog
    )
    const offsets = yield* Effect.flatMap(
      query(sql`
        SELECT projection_name AS "projectionName", shard_number::float8 AS "shardNumber", current_offset AS value,
          ${log?.latestVersion ?? 0n}::bigint - current_offset AS behind
        FROM ${tables.offsets} ORDER BY behind DESC, projection_name, shard_number LIMIT ${shards}`),
      decodeShards
    )
    // Archived messages are left out, and states estimated: there can be any number of them.
    const [rest] = yield* Effect.flatMap(
      query(sql`
        SELECT (
            SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = ${qualify(schema, names.states)}::regclass
          ) AS states,
          (SELECT count(*) FROM ${tables.spool} WHERE state = 0) AS incoming,
          (SELECT count(*) FROM ${tables.spool} WHERE state = 1) AS active,
          (SELECT count(*) FROM ${tables.spool} WHERE state = 2) AS deferred,
          (SELECT count(*) FROM ${tables.spool} WHERE state = 3) AS hold,
          (SELECT count(*) FROM ${tables.spool} WHERE state = 4) AS bounce`),
      decodeRest
    )
    const { holders: now } = yield* holders.look(query)
    const tail = now.size === 0 ? undefined : yield* holders.describe(query, now)
    const { states = 0n, ...messages } = rest ?? {}
    return { ...log, offsets, messages, states, tail, at: yield* Clock.currentTimeMillis }
  })
})

type Seen = Effect.Success<Effect.Success<typeof look>>

/** Events a second since the look before. */
const rateOf = (before: Seen | undefined, { at, latestVersion = 0n }: Seen): number | undefined =>
  before === undefined || at <= before.at
    ? undefined
    : Math.round((Number(latestVersion - (before.latestVersion ?? 0n)) / (at - before.at)) * 1000)

const columns: Output.Listing<typeof Shard.Type>["columns"] = [
  { title: "PROJECTION", show: ({ projectionName }) => projectionName },
  { title: "SHARD", show: ({ shardNumber }) => String(shardNumber), right: true },
  { title: "OFFSET", show: ({ value }) => String(value), right: true },
  { title: "BEHIND", show: ({ behind }) => behind.toLocaleString("en-US"), right: true }
]

const show = Effect.fnUntraced(function* (seen: Seen, before: Seen | undefined) {
  const { connections, latestAt, latestVersion = 0n, messages, offsets, server, states, tail } = seen
  const rate = rateOf(before, seen)
  const at = latestAt === null || latestAt === undefined ? null : DateTime.formatIso(latestAt)
  if (yield* Settings.json) {
    return yield* Output.json({
      server,
      connections,
      latestVersion,
      latestAt: at,
      eventsPerSecond: rate,
      tail: tail ?? null,
      states,
      messages,
      offsets
    })
  }
  yield* Output.record({
    server: `${server}, ${Output.count(connections ?? 0, "connection")}`,
    events:
      (at === null ? "none" : `up to version ${latestVersion}, the last of ${at}`) +
      (rate === undefined ? "" : `, ${rate.toLocaleString("en-US")} a second`),
    tail: tail === undefined ? "nobody is appending" : `being appended to by ${tail}`,
    states: `about ${states.toLocaleString("en-US")}`,
    messages: Object.entries(messages)
      .map(([state, count]) => `${count.toLocaleString("en-US")} ${state}`)
      .join(", ")
  })
  if (offsets.length > 0) yield* Output.table(columns, offsets)
})

export const status = Command.make("status", watchFlags, (input) =>
  Effect.gen(function* () {
    const looking = yield* look
    let before: Seen | undefined
    const next = Effect.gen(function* () {
      const seen = yield* looking
      yield* show(seen, before)
      before = seen
    })
    yield* watched(input, next)
  }).pipe(Effect.provide(Database.layerTables()))
).pipe(
  Command.withDescription("Shows the log, who appends to it, how far projections are behind, states and messages"),
  Command.withExamples([
    { command: "strata status", description: "Now" },
    { command: "strata status --watch --interval 5s", description: "Every five seconds" }
  ])
)
