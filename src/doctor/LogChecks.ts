/** The table of events: whether readers can rely on its versions, and what else happens when a row is inserted. */
import { Context, Effect, Schema } from "effect"
import type { Fragment } from "effect/sql/Statement"
import { EventStore } from "../EventStore.ts"
import { about } from "../internal/Words.ts"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import * as EventTable from "../postgres/events/EventTable.ts"
import * as LogParts from "../postgres/events/LogParts.ts"
import { type Findings, ok, orOk, problem, relations, rows, texts, warning } from "./Check.ts"

/** Does logical replication write to the log? */
export const replication: Findings = Effect.gen(function* () {
  const { sql } = yield* PostgresDatabase
  const { events } = yield* relations
  const found = yield* texts(
    sql`SELECT srsubid::text AS text FROM pg_subscription_rel WHERE srrelid = ${events}::regclass::oid`
  )
  return orOk(
    found.map(() =>
      problem(
        `${events} is filled by logical replication, which copies events in the order of their commits`,
        "read the log where it is written"
      )
    ),
    "no logical replication writes to the log"
  )
})

const Position = Schema.Struct({
  behind: Schema.Boolean,
  name: Schema.String,
  /** The last version that the sequence has drawn. */
  drawn: Schema.BigInt,
  highest: Schema.BigInt,
  /** How many events have higher versions than the sequence has drawn, as far as they were counted. */
  beyond: Schema.BigInt
})

/** A sequence that draws versions has no more holes than this for each event, and some more. */
const mostHolesPerEvent = 1000n
const someHoles = 1_000_000n

/** Does the sequence of the versions stand before the last event: by a backup that was restored by halves, or by a forger? */
const sequenceBehind = Effect.fnUntraced(function* (sequence: string | null) {
  const { sql, tables } = yield* PostgresDatabase
  const { events } = yield* relations
  // A role that may not use the sequence does not see its position, either: before Postgres 18 the server refuses to answer. On
  // an identity column it need not.
  const positions = yield* rows(
    Position,
    sql`
      SELECT pg_catalog.has_sequence_privilege(${sequence}, 'USAGE, SELECT') AND drawn < highest AS behind,
        ${sequence}::text AS name, drawn, highest, (
          SELECT count(*) FROM (SELECT FROM ${tables.events} WHERE version > drawn LIMIT 100000) AS beyond
        ) AS beyond
      FROM (
        SELECT coalesce(max(version), 0) AS highest, coalesce(CASE
            WHEN pg_catalog.has_sequence_privilege(${sequence}, 'USAGE, SELECT') THEN pg_sequence_last_value(${sequence}::regclass)
          END, 0) AS drawn
        FROM ${tables.events}
      ) AS log`
  )
  return positions.flatMap(({ behind, beyond, drawn, highest, name }) => {
    if (!behind) return []
    // To set the sequence to such a version would leave too few versions, or none, for the events to come.
    return highest - drawn > beyond * mostHolesPerEvent + someHoles
      ? [
          problem(
            `the last version is ${highest}, the sequence ${name} has drawn ${drawn}: somebody has chosen a version, and readers ` +
              "that have seen it get no event any more",
            `as the owner: UPDATE ${events} SET version = DEFAULT WHERE version > ${drawn}; then set back what ` +
              "has read it (strata offsets set, strata projections reset), restart subscribers, and see strata grants"
          )
        ]
      : [
          problem(
            `the sequence ${name} is behind the last event: the next append fails, or is never seen by readers`,
            `run: SELECT setval('${name}', ${highest})`
          )
        ]
  })
})

/** Does each event get a version that no reader can have passed already? */
export const sequence: Findings = Effect.gen(function* () {
  // `EventTable.check` refuses a copy as well, which is what `replication` reports.
  if ((yield* replication).some(({ level }) => level === "problem")) return []
  const checked = yield* Effect.result(EventTable.check)
  if (checked._tag === "Failure") {
    const [says = "", remedy = "see the guide to guarantees"] = checked.failure.message.split("; ")
    return [problem(says, remedy)]
  }
  const { generated, name } = checked.success
  const behind = yield* sequenceBehind(name)
  if (behind.length > 0) return behind
  return generated
    ? ok("one version at a time, always generated")
    : [
        warning(
          `versions are a default that clients can override (BIGSERIAL, sequence ${name})`,
          "see that no client calls nextval itself before it inserts: readers can lose such an event"
        )
      ]
})

/** Runs what looks at all of so many events, and shows how far it is. */
export type Thorough = <A, E>(
  total: number | undefined,
  run: (advance: (count: number) => Effect.Effect<void>) => Effect.Effect<A, E, PostgresDatabase>
) => Effect.Effect<A, E, PostgresDatabase>

/** Given if checks are to look at all events, where they look at a part of a large log otherwise. */
export const Thoroughly = Context.Reference<Thorough | undefined>("effect-strata/doctor/Thoroughly", {
  defaultValue: () => undefined
})

const Ids = Schema.Struct({ ...LogParts.Found, longest: Schema.Int })

/** The channel of an aggregate has a name that begins with `stream_`, and 63 bytes at most. */
const longestNotified = 56

/** How many bytes the longest id of an aggregate has, as far as they were looked at, and where that was if it was a part. */
const longestId = Effect.gen(function* () {
  const { sql, tables } = yield* PostgresDatabase
  const thoroughly = yield* Thoroughly
  const extent = yield* LogParts.extent
  const lookAt = (events: Fragment) =>
    rows(
      Ids,
      sql`
        SELECT ${sql.literal(LogParts.found)}, max(octet_length(aggregate_id)) AS longest FROM ${events}
        HAVING count(*) > 0`
    )
  const longestIn = (found: ReadonlyArray<typeof Ids.Type>) => Math.max(0, ...found.map(({ longest }) => longest))
  if (extent.blocks <= LogParts.manyBlocks) return { bytes: longestIn(yield* lookAt(tables.events)), where: "" }
  if (thoroughly !== undefined) {
    const upTo = yield* EventStore.use(({ latestVersion }) => latestVersion)
    const all = thoroughly(extent.rows ?? undefined, (advance) =>
      LogParts.eachPart({ columns: "aggregate_id", upTo }, lookAt, advance)
    )
    return { bytes: longestIn(yield* all), where: "" }
  }
  const { events } = yield* LogParts.sample(extent, LogParts.manyBlocks)
  const found = yield* lookAt(events)
  const looked = found.reduce((sum, part) => sum + part.looked, 0)
  return {
    bytes: longestIn(found),
    where: `, among ${looked.toLocaleString("en-US")} of ${about(extent.rows ?? 0)} events: --exact looks at all`
  }
})

const Trigger = Schema.Struct({ name: Schema.String, notifies: Schema.Boolean, namesAggregates: Schema.Boolean })

/** Which triggers run for each event, and what does that cost? */
export const triggers: Findings = Effect.gen(function* () {
  const { names, sql } = yield* PostgresDatabase
  const { events } = yield* relations
  const found = yield* rows(
    Trigger,
    sql`
      SELECT tgname::text AS name, prosrc ~ 'pg_notify' AS notifies,
        prosrc ~ 'pg_notify.*(stream_name|aggregate_id)' AS "namesAggregates"
      FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
      WHERE tgrelid = ${events}::regclass::oid AND NOT tgisinternal AND tgenabled <> 'D'
        AND proname::text <> ALL (${["draw", "gather", "guard"].map((ending) => `${names.events}_${ending}`)}::text[])`
  )
  const longest = found.some(({ namesAggregates }) => namesAggregates) ? yield* longestId : { bytes: 0, where: "" }
  return orOk(
    found.map(({ name, namesAggregates, notifies }) => {
      if (namesAggregates && longest.bytes > longestNotified) {
        return problem(
          `the trigger ${name} notifies a channel per aggregate, and there are aggregate ids of more than 56 bytes`,
          "appends to those fail: shorten the ids, or drop the trigger once no Go service listens"
        )
      }
      const cost = notifies ? " and notifies, which makes commits wait for each other" : ""
      const ids = namesAggregates && longest.where !== "" ? `; no aggregate id is too long for it${longest.where}` : ""
      return warning(`the trigger ${name} runs for each event${cost}${ids}`, "drop it once nobody needs it")
    }),
    "no foreign triggers"
  )
})
