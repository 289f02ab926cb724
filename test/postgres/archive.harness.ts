/** What the tests of archived events share: a directory for the files, and partitions that become files by plain SQL. */
import { Effect } from "effect"
import * as Postgres from "effect-strata/postgres"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { writeFile } from "node:fs/promises"
import { Checksum, lineOf } from "../../src/postgres/events/Exporting.ts"
import { execute, query } from "./harness.ts"

/** A directory that is removed with the scope. */
export const archiveDirectory = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "strata-archive-"))),
  (path) => Effect.promise(() => rm(path, { recursive: true, force: true }))
)

export const layerIn = (path: string) => Postgres.EventArchive.layerDirectory(path)

const text = (value: unknown) => (value === null ? "NULL" : `'${String(value).replaceAll("'", "''")}'`)

/** The oldest partition of a table, and its versions. */
const oldest = (table: string) =>
  Effect.map(
    query(`
      SELECT inhrelid::regclass::text, bounds[1]::text, bounds[2]::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
      CROSS JOIN LATERAL regexp_match(pg_get_expr(relpartbound, inhrelid), 'FROM \\(''?(\\d+)''?\\) TO \\(''?(\\d+)''?\\)') AS bounds
      WHERE inhparent = '${table}'::regclass ORDER BY bounds[1]::bigint LIMIT 1`),
    ([row]) => ({ partition: String(row?.[0]), first: String(row?.[1]), end: String(row?.[2]) })
  )

const orNull = (value: unknown) => (value === null ? null : String(value))

/** Archives the oldest partition, and gives the name of its file. */
export const archiveOldest = Effect.fnUntraced(function* (table: string, path: string) {
  const { end, first, partition } = yield* oldest(table)
  const rows = yield* query(`
    SELECT version::text, id, aggregate_id, event_type, data::text, metadata::text,
      to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
      (SELECT to_json(array_agg(tag ORDER BY tag))::text FROM ${table}_tags AS tagged WHERE tagged.version = event.version AND tag <> '')
    FROM ${partition} AS event ORDER BY version`)
  const checksum = new Checksum()
  const lines = rows.map(([version, id, aggregateId, eventType, data, metadata, createdAtText, tags]) =>
    lineOf({
      version: BigInt(String(version)),
      id: String(id),
      aggregateId: String(aggregateId),
      eventType: String(eventType),
      data: orNull(data),
      metadata: orNull(metadata),
      createdAtText: orNull(createdAtText),
      tags: tags === null ? null : JSON.parse(String(tags))
    })
  )
  checksum.add(lines.join(""), lines.length)
  const name = `events-${first.padStart(20, "0")}-${end.padStart(20, "0")}.jsonl.gz`
  const bytes = gzipSync(`${lines.join("")}${checksum.line}`)
  yield* Effect.promise(() => writeFile(join(path, name), bytes))
  const last = rows.at(-1)
  yield* execute([
    `BEGIN`,
    `LOCK TABLE ${table} IN ACCESS EXCLUSIVE MODE`,
    `INSERT INTO ${table}_archives (first_version, end_version, name, events, bytes, sha256, last_version, last_id,
       first_created_at, last_created_at)
     SELECT ${first}, ${end}, ${text(name)}, ${rows.length}, ${bytes.length}, ${text(checksum.sha256)},
       ${last?.[0] ?? "NULL"}, ${text(last?.[1] ?? null)}, min(created_at), max(created_at) FROM ${partition}`,
    `INSERT INTO ${table}_archived AS archived (aggregate_id, first_version, version)
     SELECT aggregate_id, min(version), max(version) FROM ${partition} GROUP BY 1
     ON CONFLICT (aggregate_id) DO UPDATE SET version = EXCLUDED.version`,
    `ALTER TABLE ${table} DETACH PARTITION ${partition}`,
    `ALTER TABLE ${partition} RENAME TO ${partition.replace(/^.*\./, "").replaceAll('"', "")}_gone`,
    `COMMIT`
  ])
  return name
})

/** Brings the newest archived part back. */
export const restoreNewest = Effect.fnUntraced(function* (table: string) {
  const [row] = yield* query(
    `SELECT first_version::text, end_version::text FROM ${table}_archives ORDER BY first_version DESC LIMIT 1`
  )
  const [first, end] = [String(row?.[0]), String(row?.[1])]
  const name = `${table.replace(/^.*\./, "")}_${first}`
  yield* execute([
    `BEGIN`,
    `LOCK TABLE ${table} IN ACCESS EXCLUSIVE MODE`,
    `ALTER TABLE ${table}_${first}_gone RENAME TO ${name}`,
    `ALTER TABLE ${table} ATTACH PARTITION ${table}_${first} FOR VALUES FROM (${first}) TO (${end})`,
    `DELETE FROM ${table}_archives WHERE first_version = ${first}`,
    `COMMIT`
  ])
})
