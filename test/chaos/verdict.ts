/** The verdict: the histories of the processes, compared with what the server has. */
import { Effect, Schema } from "effect"
import type { SqlError } from "effect/sql"
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { withConnection } from "../support/connection.ts"
import {
  Began,
  Ended,
  mishandled,
  misplaced,
  misread,
  Noted,
  overlaps,
  Placed,
  standing,
  Transition
} from "../support/histories.ts"
import { leaseMillis, messages, readers, SetBack, setBacks } from "./agreed.ts"

const Id = Schema.Struct({ id: Schema.String })
const Version = Schema.Struct({ version: Schema.String })
const Message = Schema.Struct({ id: Schema.String, state: Schema.Int })
const Offset = Schema.Struct({ shard: Schema.Int, value: Schema.String })

export const linesOf = <A>(directory: string, history: string, line: Schema.Codec<A, string>) => {
  const file = join(directory, `${history}.jsonl`)
  const lines = existsSync(file)
    ? readFileSync(file, "utf8")
        .split("\n")
        .filter((text) => text !== "")
    : []
  return Schema.decodeUnknownEffect(Schema.Array(line))(lines)
}

const Entry = Schema.fromJsonString(Schema.Union([Ended, Began]))
export const Line = Schema.fromJsonString(Noted)
const Lost = Schema.fromJsonString(SetBack)

/** One line of the verdict: what was looked at, and what is wrong with it. */
export interface Finding {
  readonly about: string
  readonly found: string
  readonly wrong: ReadonlyArray<string>
}

interface Run {
  readonly url: string
  readonly schema: string
  readonly directory: string
  readonly writers: ReadonlyArray<string>
  readonly projection: string
}

export const asker =
  (url: string) =>
  <A>(row: Schema.Codec<A, unknown>, statement: string) =>
    withConnection(url, (sql): Effect.Effect<ReadonlyArray<unknown>, SqlError.SqlError> => sql.unsafe(statement)).pipe(
      Effect.flatMap(Schema.decodeUnknownEffect(Schema.Array(row)))
    )

/** Whether something is still on its way. */
export const isBusy = Effect.fnUntraced(function* ({ directory, projection, schema, url }: Run) {
  const ask = asker(url)
  const heads = yield* Effect.forEach(readers, ({ where }) =>
    ask(Version, `SELECT coalesce(max(version), 0)::text AS version FROM ${schema}.events WHERE ${where}`)
  )
  const histories = yield* Effect.forEach(readers, ({ history }) => linesOf(directory, history, Line))
  const places = histories.map((history) => String(standing(history).at(-1)?.version ?? 0))
  const isBehind = heads.some(([head], index) => head?.version !== places[index])
  const waiting = yield* ask(
    Id,
    `SELECT id FROM ${schema}.${messages} WHERE state IN (0, 1, 2)
     UNION ALL
     SELECT projection_name FROM ${schema}.offsets_store
     WHERE projection_name = '${projection}' AND current_offset < (SELECT max(version) FROM ${schema}.events) LIMIT 1`
  )
  return isBehind || waiting.length > 0
})

/** Every finding, the good ones, too. */
export const findings = Effect.fnUntraced(function* ({ directory, projection, schema, url, writers }: Run) {
  const ask = asker(url)
  const history = (yield* Effect.forEach(writers, (name) => linesOf(directory, name, Entry))).flat()
  const events = yield* ask(Id, `SELECT id FROM ${schema}.events`)
  const enqueued = yield* ask(Message, `SELECT id, state FROM ${schema}.${messages}`)
  const handled = yield* ask(Id, `SELECT id FROM ${schema}.handled`)
  const transitions = yield* ask(Transition, `SELECT * FROM ${schema}.transitions ORDER BY place`)
  const sums = yield* ask(
    Id,
    `SELECT coalesce(sums.id, log.id) AS id FROM ${schema}.sums
     FULL JOIN (
       SELECT aggregate_id AS id, sum(data::text::bigint) AS sum, count(*) FROM ${schema}.events GROUP BY 1
     ) AS log USING (id)
     WHERE sums.sum IS DISTINCT FROM log.sum OR sums.count IS DISTINCT FROM log.count`
  )
  const offsets = yield* ask(
    Offset,
    `SELECT shard_number::int AS shard, current_offset::text AS value FROM ${schema}.offsets_store
     WHERE projection_name = '${projection}' ORDER BY 1`
  )
  const [head] = yield* ask(Version, `SELECT max(version)::text AS version FROM ${schema}.events`)

  const setBack = yield* linesOf(directory, setBacks, Lost)
  const gone = setBack.flatMap((lost) => lost.events)

  const ids = (rows: ReadonlyArray<{ readonly id: string }>) => rows.map(({ id }) => id)
  const written = misplaced(
    history,
    { events: ids(events), messages: ids(enqueued) },
    new Set([...ids(gone), ...setBack.flatMap((lost) => lost.messages)])
  )
  const ends = Object.entries(written.counts).map(([end, count]) => `${count} ${end}`)
  const read = yield* Effect.forEach(
    readers,
    Effect.fnUntraced(function* ({ history, keepsCursor, where }) {
      const stored = yield* ask(
        Placed,
        `SELECT version::text, id FROM ${schema}.events WHERE ${where} ORDER BY events.version`
      )
      const noted = yield* linesOf(directory, history, Line)
      const tolds = noted.filter((line) => "told" in line).length
      return {
        about: history,
        found: `${standing(noted).length} events seen, ${stored.length} stored; told ${tolds} times that the log was replaced`,
        wrong: misread(noted, stored, gone, { keepsCursor })
      }
    })
  )
  const behind = offsets.filter(({ value }) => value !== head?.version)
  const checks: ReadonlyArray<Finding> = [
    { about: "writes", found: `${ends.join(", ")}; ${events.length} events stored`, wrong: written.wrong },
    { about: "log", found: `set back ${setBack.length} times, by ${gone.length} events`, wrong: [] },
    ...read,
    {
      about: "projection",
      found: `${offsets.length} shards at version ${head?.version}`,
      wrong: [
        ...ids(sums).map((id) => `the sum of ${id} is wrong`),
        ...behind.map(({ shard, value }) => `shard ${shard} is at ${value}`),
        ...(offsets.length === 0 ? ["it has never run"] : [])
      ]
    },
    {
      about: "messages",
      found: `${enqueued.length} enqueued, ${handled.length} handled`,
      wrong: mishandled(
        enqueued,
        ids(handled),
        setBack.flatMap((lost) => lost.handled)
      )
    },
    { about: "leases", found: `${transitions.length} changes`, wrong: overlaps(transitions, leaseMillis) }
  ]
  return checks
})

/** What the server has of a process, in one line. */
export const sessionsOf = (url: string, application: string): Effect.Effect<string> =>
  asker(url)(
    Id,
    `SELECT format('%s %s %s for %s s: %s', pid, state, concat_ws(' ', wait_event_type, wait_event),
       round(extract(epoch FROM clock_timestamp() - state_change), 1), left(regexp_replace(query, '\\s+', ' ', 'g'), 100)) AS id
     FROM pg_stat_activity WHERE application_name = '${application}' ORDER BY pid`
  ).pipe(
    Effect.timeout("10 seconds"),
    Effect.match({
      onFailure: (error) => `the server cannot be asked: ${String(error).split("\n")[0]}`,
      onSuccess: (sessions) =>
        sessions.length === 0
          ? "the server has no session of it"
          : `the server has ${sessions.map(({ id }) => id).join(" | ")}`
    })
  )

/** What is left connected, locked or prepared after all processes have ended, and the server has had a moment to notice. */
export const leftovers = Effect.fnUntraced(function* (url: string) {
  const look = asker(url)(
    Id,
    `WITH session AS (SELECT * FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend')
     SELECT concat_ws(' ', 'still connected:', application_name, state, query) AS id FROM session
     UNION ALL
     SELECT concat_ws(' ', 'still locked:', locktype, mode, relation::regclass, objid) FROM pg_locks
     WHERE pid IS NULL OR pid IN (SELECT pid FROM session)
     UNION ALL
     SELECT concat_ws(' ', 'still prepared:', gid) FROM pg_prepared_xacts`
  )
  let left = yield* look
  for (let looks = 0; left.length > 0 && looks < 25; looks++) left = yield* Effect.delay(look, "200 millis")
  return left.map(({ id }) => id)
})
