/**
 * Which log this is, and on which server: what has changed since the doctor looked last. It keeps what it has seen in the table
 * `events_log` (`0015_events_log.sql`), if this role may write to it.
 */
import { Effect, Schema } from "effect"
import { qualify } from "../postgres/database/Identifier.ts"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import { type Finding, type Findings, ok, problem, rows, texts, warning } from "./Check.ts"

const Seen = Schema.Struct({
  id: Schema.String,
  mayRecord: Schema.Boolean,
  /** What the doctor has seen last. */
  system: Schema.NullOr(Schema.String),
  timeline: Schema.NullOr(Schema.Int),
  version: Schema.NullOr(Schema.BigInt),
  eventId: Schema.NullOr(Schema.String),
  seenAt: Schema.NullOr(Schema.String),
  /** What is there now. */
  systemNow: Schema.String,
  timelineNow: Schema.NullOr(Schema.Int),
  versionNow: Schema.NullOr(Schema.BigInt),
  eventIdNow: Schema.NullOr(Schema.String),
  /** The event that has the version now that the doctor has seen last. */
  foundId: Schema.NullOr(Schema.String)
})
type Seen = typeof Seen.Type

const look =
  "look at `Postgres fails over` in the runbooks: readers and projections that have seen more get LogReplaced"

/** What has changed, from the outside to the inside: the cluster, its timeline, the log. */
const changesOf = (seen: Seen): ReadonlyArray<Finding> => {
  const { eventId, foundId, seenAt, system, systemNow, timeline, timelineNow, version, versionNow } = seen
  if (system === null) return []
  const since = `at ${seenAt}`
  const findings: Array<Finding> = []
  if (system !== systemNow) {
    findings.push(
      warning(`the log is on the system ${systemNow}, and was on ${system} ${since}: it was restored or copied`, look)
    )
  } else if (timeline !== timelineNow && timelineNow !== null) {
    const says = `the timeline of the server is ${timelineNow}, and was ${timeline} ${since}: a standby was promoted, or a backup recovered`
    findings.push(warning(says, look))
  }
  if (version !== null && foundId !== eventId) {
    const end = versionNow ?? 0n
    if (foundId !== null) {
      findings.push(problem(`version ${version} was the event "${eventId}" ${since}, and is "${foundId}" now`, look))
    } else if (end < version) {
      findings.push(problem(`the log ends at version ${end}, and had version ${version} ${since}`, look))
    }
  }
  return findings
}

/** Is this the log that the doctor has seen before, on the server on which it was? */
export const identity: Findings = Effect.gen(function* () {
  const { names, query, schema, sql, tables } = yield* PostgresDatabase
  const name = qualify(schema, `${names.events}_log`)
  const log = sql.literal(name)
  const readable = yield* texts(sql`
    SELECT 'yes' AS text FROM pg_class
    WHERE oid = pg_catalog.to_regclass(${name}::text)::oid AND pg_catalog.has_table_privilege(oid, 'SELECT')`)
  // A migration that is pending is another check's finding. The stores do not need this table.
  if (readable.length === 0) return ok("not looked at: this role may not read what names it")
  const [seen] = yield* rows(
    Seen,
    sql`
      SELECT log.id::text, pg_catalog.has_table_privilege(${name}::text, 'UPDATE') AND NOT pg_is_in_recovery() AS "mayRecord",
        log.system_identifier AS system, log.timeline, log.version, log.event_id AS "eventId",
        pg_catalog.to_char(pg_catalog.timezone('UTC', log.seen_at), 'YYYY-MM-DD HH24:MI') AS "seenAt",
        (SELECT system_identifier::text FROM pg_control_system()) AS "systemNow",
        CASE WHEN NOT pg_is_in_recovery()
          THEN ('x' || pg_catalog.substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END AS "timelineNow",
        last.version AS "versionNow", last.id AS "eventIdNow",
        (SELECT id FROM ${tables.events} WHERE version = log.version) AS "foundId"
      FROM ${log} AS log
      LEFT JOIN (SELECT version, id FROM ${tables.events} ORDER BY version DESC LIMIT 1) AS last ON true`
  )
  if (seen === undefined) return [problem(`${name} has no row, which names the log`, "run: strata migrate")]
  if (seen.mayRecord) {
    yield* query(sql`
      UPDATE ${log} SET system_identifier = ${seen.systemNow}, timeline = ${seen.timelineNow}, version = ${seen.versionNow},
        event_id = ${seen.eventIdNow}, seen_at = now()`)
  }
  const changes = changesOf(seen)
  const where = `system ${seen.systemNow}, timeline ${seen.timelineNow ?? "of its primary"}`
  return changes.length > 0 ? changes : ok(`${seen.id}, on ${where}`)
})
