/** Under which conditions a run takes place. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Schema } from "effect"
import { spawnSync } from "node:child_process"
import { readFile } from "node:fs/promises"
import { findPackageJSON } from "node:module"
import { arch, cpus, platform, totalmem } from "node:os"
import type { Settings } from "./report.ts"

/** The settings of the server on which the speed of commits, reads and many connections depends. */
const names = [
  "server_version",
  "shared_buffers",
  "effective_cache_size",
  "work_mem",
  "max_connections",
  "fsync",
  "synchronous_commit",
  "full_page_writes",
  "wal_level",
  "wal_buffers",
  "wal_compression",
  "wal_sync_method",
  "max_wal_size",
  "checkpoint_timeout",
  "commit_delay",
  "synchronous_standby_names",
  "autovacuum",
  "jit",
  "data_checksums"
]

const Rows = Schema.Array(Schema.Struct({ name: Schema.String, value: Schema.String }))
const Manifest = Schema.fromJsonString(Schema.Struct({ version: Schema.String }))

const version = (name: string) =>
  Effect.promise(() => readFile(findPackageJSON(name, import.meta.url) ?? "", "utf8")).pipe(
    Effect.flatMap(Schema.decodeEffect(Manifest)),
    Effect.map((manifest) => manifest.version)
  )

/** Reads every condition but the library. `server` says where the server comes from. */
export const read = Effect.fnUntraced(function* (server: string, quick: boolean) {
  const sql = yield* PgClient.PgClient
  const rows = yield* Effect.flatMap(
    sql`SELECT name, current_setting(name) AS value FROM pg_settings WHERE name = ANY(${names})`,
    Schema.decodeUnknownEffect(Rows)
  )
  const values = new Map(rows.map(({ name, value }) => [name, value]))
  const processors = cpus()
  const settings: Settings = {
    mode: quick ? "quick" : "full",
    machine: `${processors.length} x ${processors[0]?.model.trim() ?? "unknown"}, ${Math.round(totalmem() / 2 ** 30)} GiB`,
    system: `${platform()} ${arch()}`,
    node: process.versions.node,
    effect: yield* version("effect"),
    driver: `@effect/sql-pg ${yield* version("@effect/sql-pg")}`,
    pglite: yield* version("@electric-sql/pglite"),
    server,
    ...Object.fromEntries(names.map((name) => [name, values.get(name) ?? "not there"]))
  }
  return settings
})

/** The library, and its commit where there is one. */
export const library = Effect.map(version("effect-strata"), (version) => {
  const git = (...args: ReadonlyArray<string>) => spawnSync("git", args, { cwd: import.meta.dirname, encoding: "utf8" })
  const commit = git("rev-parse", "--short", "HEAD")
  if (commit.status !== 0) return version
  const changed = git("status", "--porcelain", "--", "../../src").stdout.trim() === "" ? "" : ", with changes"
  return `${version} at ${commit.stdout.trim()}${changed}`
})
