/** Copies of a server, or of its events, that Postgres keeps up to date. */
import { Effect } from "effect"
import { execFile } from "node:child_process"
import { rm } from "node:fs/promises"
import { join } from "node:path"
import { promisify } from "node:util"
import { execute, urlWith } from "../postgres/harness.ts"
import * as PostgresServer from "./PostgresServer.ts"

const run = promisify(execFile)

/** A hot standby of the server, which was stopped to be copied, and runs again. */
export const standbyOf = Effect.fnUntraced(function* (primary: PostgresServer.PostgresServer) {
  const { password, username } = new URL(primary.url)
  const source = `host=127.0.0.1 port=${primary.port} user=${username} password=${password}`
  const standby = yield* PostgresServer.make({ settings: { primary_conninfo: source } })
  yield* Effect.all([standby.stop("fast"), primary.stop("fast")])
  yield* Effect.promise(async () => {
    await rm(standby.dataDir, { recursive: true })
    await run("cp", ["-a", primary.dataDir, standby.dataDir])
    // Any content will do, but not any owner.
    await run("cp", ["-a", join(standby.dataDir, "PG_VERSION"), join(standby.dataDir, "standby.signal")])
  })
  yield* primary.start
  yield* standby.start
  return {
    ...standby,
    url: urlWith((url) => {
      url.password = password
    }, standby.url)
  }
})

/** Copies the events of one database into those of another one on the same server, by logical replication. */
export const replicate = Effect.fnUntraced(function* (from: string, to: string) {
  const name = new URL(from).pathname.slice(1)
  const { password, port, username } = new URL(from)
  const source = `host=127.0.0.1 port=${port} user=${username} password=${password} dbname=${name}`
  yield* execute(
    [
      "CREATE PUBLICATION log FOR TABLE public.events",
      // The slot is made by itself: on one server, the command that makes it with the subscription would wait for itself.
      "SELECT FROM pg_create_logical_replication_slot('log', 'pgoutput')"
    ],
    from
  )
  yield* execute(
    [`CREATE SUBSCRIPTION log CONNECTION '${source}' PUBLICATION log WITH (create_slot = false, slot_name = 'log')`],
    to
  )
})

/** Makes the copy a log of its own. */
export const detach = Effect.fnUntraced(function* (from: string, to: string) {
  yield* execute(
    ["ALTER SUBSCRIPTION log DISABLE", "ALTER SUBSCRIPTION log SET (slot_name = NONE)", "DROP SUBSCRIPTION log"],
    to
  )
  yield* execute(["SELECT FROM pg_drop_replication_slot('log')"], from)
})
