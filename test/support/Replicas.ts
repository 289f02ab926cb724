/** Copies of a server, or of its events, that Postgres keeps up to date. */
import { Effect, Schema } from "effect"
import { execFile } from "node:child_process"
import { appendFile, chown, mkdir, readdir, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { promisify } from "node:util"
import { execute, withConnection } from "./connection.ts"
import { attempt } from "./PostgresBinaries.ts"
import * as PostgresServer from "./PostgresServer.ts"

const run = promisify(execFile)

/** The files of a server that are of no use to its copy: its log, which the copy gets as it follows, and its process. */
const left = new Set(["pg_wal", "postmaster.pid", "postmaster.opts"])

/** Copies what is there. What a running server removes meanwhile is in its log. */
const copy = async (from: string, to: string) => {
  const names = (await readdir(from)).filter((name) => !left.has(name))
  await run("cp", ["-a", ...names.map((name) => join(from, name)), to]).catch((error: unknown) => {
    const lines = String(error).trimEnd().split("\n").slice(1)
    if (lines.length === 0 || lines.some((line) => !line.endsWith("No such file or directory"))) throw error
  })
}

const Label = Schema.Array(Schema.Struct({ label: Schema.String }))

/** Makes a data directory into that of a standby of `primary`, which runs meanwhile. */
const backUp = (primary: PostgresServer.PostgresServer): PostgresServer.Fill =>
  Effect.fnUntraced(
    function* (dataDir, user) {
      const { password, username } = new URL(primary.url)
      const source = `host=127.0.0.1 port=${primary.port} user=${username} password=${password}`
      // The standby gets what was written since the copy began from the primary's log, so that stays there.
      yield* execute(primary.url, ["ALTER SYSTEM SET wal_keep_size = '1GB'", "SELECT FROM pg_reload_conf()"])
      const label = yield* withConnection(primary.url, (sql) =>
        Effect.gen(function* () {
          yield* sql`SELECT FROM pg_backup_start('standby', true)`
          yield* attempt("Copying the server", () => copy(primary.dataDir, dataDir))
          const rows = yield* sql`SELECT labelfile AS label FROM pg_backup_stop(false)`
          return (yield* Schema.decodeUnknownEffect(Label)(rows)).map((row) => row.label).join()
        })
      )
      yield* attempt("Making the copy a standby", async () => {
        const path = (name: string) => join(dataDir, name)
        await writeFile(path("backup_label"), label)
        await writeFile(path("standby.signal"), "")
        // In a file and not on the command line, so that it can be changed: without it, the standby stops following.
        await appendFile(path("postgresql.auto.conf"), `primary_conninfo = '${source}'\n`)
        await mkdir(path("pg_wal"), { mode: 0o700 })
        for (const name of ["backup_label", "standby.signal", "pg_wal"]) {
          if (user) await chown(path(name), user.uid, user.gid)
        }
      })
    },
    Effect.mapError(
      (cause) => new PostgresServer.PostgresServerError({ operation: "copy", message: String(cause), log: "", cause })
    )
  )

/** A hot standby of the server, which runs on while it is copied. `settings` are those of the standby. */
export const standbyOf = (primary: PostgresServer.PostgresServer, settings: Readonly<Record<string, string>> = {}) =>
  PostgresServer.make({ settings, from: { password: new URL(primary.url).password, fill: backUp(primary) } })

/** Copies the events of one database into those of another one on the same server, by logical replication. */
export const replicate = Effect.fnUntraced(function* (from: string, to: string) {
  const name = new URL(from).pathname.slice(1)
  const { password, port, username } = new URL(from)
  const source = `host=127.0.0.1 port=${port} user=${username} password=${password} dbname=${name}`
  yield* execute(from, [
    "CREATE PUBLICATION log FOR TABLE public.events",
    // The slot is made by itself: on one server, the command that makes it with the subscription would wait for itself.
    "SELECT FROM pg_create_logical_replication_slot('log', 'pgoutput')"
  ])
  yield* execute(to, [
    `CREATE SUBSCRIPTION log CONNECTION '${source}' PUBLICATION log WITH (create_slot = false, slot_name = 'log')`
  ])
})

/** Makes the copy a log of its own. */
export const detach = Effect.fnUntraced(function* (from: string, to: string) {
  yield* execute(to, [
    "ALTER SUBSCRIPTION log DISABLE",
    "ALTER SUBSCRIPTION log SET (slot_name = NONE)",
    "DROP SUBSCRIPTION log"
  ])
  yield* execute(from, ["SELECT FROM pg_drop_replication_slot('log')"])
})
