/** A real pgbouncer before the tests' server, where the machine has one. */
import { Effect } from "effect"
import { spawn, spawnSync } from "node:child_process"
import { chown, mkdtemp, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { freePort } from "./ports.ts"
import { attempt, environment, install, PostgresServerError } from "./PostgresBinaries.ts"

// Debian has it where only root's PATH leads.
const [found] = ["pgbouncer", "/usr/sbin/pgbouncer"].flatMap((program) => {
  const { status, stdout } = spawnSync(program, ["--version"], { encoding: "utf8" })
  const [, major = "0", minor = "0"] = /(\d+)\.(\d+)/.exec(stdout ?? "") ?? []
  return status === 0 ? [{ program, follows: Number(major) > 1 || Number(minor) >= 21 }] : []
})

/** Why there is no pooler for the tests, if there is none. */
export const noPgbouncer = found === undefined ? "pgbouncer is not on this machine" : undefined

/** Which connection of the server a client gets: one for as long as it is connected, or for each transaction another. */
export type Mode = "session" | "transaction"

/** A value of its configuration, in which a quote is doubled. */
const quoted = (value: string) => `'${value.replaceAll("'", "''")}'`

/** The DSN of a pooler that leads to the database of this DSN, as the same user, until the scope closes. */
export const make = Effect.fnUntraced(function* (mode: Mode, server: string) {
  if (found === undefined) return yield* Effect.die(new Error(noPgbouncer))
  const { follows, program } = found
  const { hostname, password, pathname, port, username } = new URL(server)
  // It refuses to run as root, as Postgres does.
  const { temporaryRoot, user } = yield* install
  const directory = yield* Effect.acquireRelease(
    attempt("Making a temporary directory", () => mkdtemp(join(temporaryRoot, "strata-pgbouncer-"))),
    (path) => Effect.promise(() => rm(path, { recursive: true, force: true }))
  )
  const listenPort = yield* freePort
  const file = join(directory, "pgbouncer.ini")
  const target = {
    host: hostname,
    port: port || "5432",
    dbname: decodeURIComponent(pathname.slice(1)),
    user: decodeURIComponent(username),
    password: decodeURIComponent(password)
  }
  yield* attempt("Writing pgbouncer.ini", async () => {
    const lines = [
      "[databases]",
      `* = ${Object.entries(target)
        .map(([name, value]) => `${name}=${quoted(value)}`)
        .join(" ")}`,
      "[pgbouncer]",
      "listen_addr = 127.0.0.1",
      `listen_port = ${listenPort}`,
      "unix_socket_dir =",
      "auth_type = any",
      `pool_mode = ${mode}`,
      "default_pool_size = 60",
      // Later versions follow statements that were prepared from connection to connection, unless they are told not to.
      ...(follows ? ["max_prepared_statements = 0"] : [])
    ]
    await writeFile(file, `${lines.join("\n")}\n`, { mode: 0o600 })
    if (user) await Promise.all([directory, file].map((path) => chown(path, user.uid, user.gid)))
  })
  yield* Effect.acquireRelease(
    Effect.callback<{ readonly stop: Effect.Effect<void> }, PostgresServerError>((resume) => {
      const child = spawn(program, [file], {
        ...user,
        cwd: directory,
        env: environment(),
        stdio: ["ignore", "ignore", "pipe"]
      })
      let log = ""
      let closed = false
      const fail = (reason: string) =>
        resume(new PostgresServerError({ operation: "pgbouncer", message: `pgbouncer ${reason}\n${log}`, log }))
      child.once("error", (error) => fail(error.message))
      child.once("close", (code, signal) => {
        closed = true
        fail(`ended with ${signal ?? code}`)
      })
      const stop = Effect.callback<void>((done) => {
        if (closed) return done(Effect.void)
        child.once("close", () => done(Effect.void))
        child.kill("SIGKILL")
      })
      createInterface(child.stderr).on("line", (line) => {
        log += `${line}\n`
        if (line.includes("process up")) resume(Effect.succeed({ stop }))
      })
    }),
    ({ stop }) => stop
  )
  const url = new URL(server)
  url.host = `127.0.0.1:${listenPort}`
  return url.href
})
