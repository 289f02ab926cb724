import { Effect, Schedule, type Scope } from "effect"
import { randomBytes } from "node:crypto"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { onRealClock } from "../internal/RealTime.ts"
import { PgliteError } from "./PgliteError.ts"

/** A directory that only this process uses. */
export interface DataDir {
  readonly path: string
  /** Notes that the database in the directory is complete. Until then, the next process to open it starts over. */
  readonly initialized: Effect.Effect<void, PgliteError>
}

const lockName = /^strata\.(\d+)\.([0-9a-z-]+)\.[0-9a-f]+\.(.+)\.lock$/
const marker = "strata.initializing"

/** How often, and at which intervals, a process tries again to lock a directory that another one has locked. */
const lockRetries = Schedule.spaced("40 millis").pipe(Schedule.jittered, Schedule.upTo({ times: 4 }))

/**
 * Makes the directory if it does not exist, and keeps all other processes out of it until the scope closes.
 *
 * **Details**
 *
 * Each process first creates a lock file of its own, whose name says which process it is, and only then looks for the files
 * of others. So two processes can never both miss each other, a file is never half written, and the file of a dead process
 * can be removed at any time without touching that of a living one. Two processes that start at once may both give up; they
 * try again.
 *
 * A process is alive if a process with its id runs that started at the same time. Only Linux tells the start time, so that
 * a reused process id looks alive elsewhere. Nothing can be known of a process on another host, which shares the volume: its
 * lock counts until somebody deletes the file.
 */
export const open = (dataDir: string): Effect.Effect<DataDir, PgliteError, Scope.Scope> =>
  Effect.gen(function* () {
    const path = Path.resolve(dataDir)
    const attempt = <A>(f: () => A) => Effect.try({ try: f, catch: (cause) => asPgliteError(path, cause) })
    yield* attempt(() => {
      if (dataDir.trim() === "") throw unusable(dataDir, "has an empty name")
      makeDirectory(path, 0o700)
      keepOthersOut(path)
    })
    yield* Effect.acquireRelease(
      attempt(() => lock(path)).pipe(
        Effect.retry({
          schedule: lockRetries,
          while: (error) => error.reason === "InUse"
        }),
        onRealClock
      ),
      (file) => Effect.sync(() => remove(file))
    )
    yield* attempt(() => prepare(path))
    return { path, initialized: attempt(() => Fs.rmSync(Path.join(path, marker), { force: true })) }
  })

// With `recursive`, Node never returns where the system answers ENOENT although the parent exists, as in /proc.
const makeDirectory = (path: string, mode: number): void => {
  try {
    Fs.mkdirSync(path, { mode })
  } catch (cause) {
    if (codeOf(cause) === "EEXIST") return
    const parent = Path.dirname(path)
    if (codeOf(cause) !== "ENOENT" || Fs.existsSync(parent)) throw cause
    makeDirectory(parent, 0o777)
    makeDirectory(path, mode)
  }
}

/**
 * Closes a directory that others may enter, as `initdb` does. The files in it do not say themselves who may read and write
 * them: PGlite makes them for everybody. On Windows they have the rights of the directory.
 */
const keepOthersOut = (path: string): void => {
  if (process.platform === "win32" || (Fs.statSync(path).mode & 0o077) === 0) return
  try {
    Fs.chmodSync(path, 0o700)
  } catch (cause) {
    throw unusable(
      path,
      "is open to others, and only its owner can close it: use a directory of this user's own",
      cause
    )
  }
}

const lock = (path: string): string => {
  const host = encodeURIComponent(Os.hostname())
  const own = `strata.${process.pid}.${startedAt(process.pid)}.${randomBytes(8).toString("hex")}.${host}.lock`
  const file = Path.join(path, own)
  Fs.closeSync(Fs.openSync(file, "wx", 0o600))
  try {
    for (const name of Fs.readdirSync(path)) {
      const [, pid, start, owner] = lockName.exec(name) ?? []
      if (name === own || pid === undefined || start === undefined || owner === undefined) continue
      if (owner === host && !isAlive(Number(pid), start)) {
        Fs.rmSync(Path.join(path, name), { force: true })
        continue
      }
      const who = owner === host ? `process ${pid}` : `process ${pid} on ${owner}`
      throw new PgliteError({
        reason: "InUse",
        dataDir: path,
        message:
          `${path} is open in ${who}: only one layer of one process can use an embedded database at a time. ` +
          `If that process no longer exists, delete ${Path.join(path, name)}`
      })
    }
  } catch (cause) {
    remove(file)
    throw cause
  }
  return file
}

const remove = (file: string): void => {
  try {
    Fs.rmSync(file, { force: true })
  } catch {
    // The directory has become unwritable. The next process finds that the owner of the file is dead.
  }
}

/** When the process started, as a text that tells a reused process id apart; "0" where the system does not tell. */
const startedAt = (pid: number): string => {
  try {
    // The name of the program stands in parentheses and may contain anything. The fields follow the last parenthesis.
    const stat = Fs.readFileSync(`/proc/${pid}/stat`, "latin1")
    const boot = Fs.readFileSync("/proc/sys/kernel/random/boot_id", "latin1").slice(0, 8)
    return `${stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]}-${boot}`
  } catch {
    return "0"
  }
}

const isAlive = (pid: number, start: string): boolean => {
  try {
    process.kill(pid, 0)
  } catch (cause) {
    if (codeOf(cause) !== "EPERM") return false
  }
  const now = startedAt(pid)
  return start === "0" || now === "0" || now === start
}

/** Makes sure that the directory has a database or is empty, and removes a database whose making was cut short. */
const prepare = (path: string): void => {
  const names = Fs.readdirSync(path).filter((name) => !lockName.test(name))
  if (names.includes(marker)) {
    for (const name of names) {
      if (name !== marker) Fs.rmSync(Path.join(path, name), { recursive: true, force: true })
    }
  } else if (names.length === 0) {
    Fs.writeFileSync(Path.join(path, marker), "")
  } else if (!names.includes("PG_VERSION")) {
    throw unusable(path, "is not empty, and what it holds is no Postgres database")
  } else {
    Fs.accessSync(Path.join(path, "PG_VERSION"), Fs.constants.R_OK | Fs.constants.W_OK)
  }
}

/** The error for a directory that cannot be used. `problem` goes on with the sentence that its path begins. */
export const unusable = (path: string, problem: string, cause?: unknown): PgliteError =>
  new PgliteError({
    reason: "Unusable",
    dataDir: path,
    message: `${path === "" ? "dataDir" : path} ${problem}`,
    ...(cause === undefined ? undefined : { cause })
  })

const asPgliteError = (path: string, cause: unknown): PgliteError => {
  if (cause instanceof PgliteError) return cause
  const code = codeOf(cause)
  if (code === "EEXIST" || code === "ENOTDIR") return unusable(path, "is not a directory", cause)
  if (code === "EACCES" || code === "EPERM" || code === "EROFS") {
    return unusable(path, "cannot be read and written by this process", cause)
  }
  return unusable(path, `cannot be used: ${cause instanceof Error ? cause.message : String(cause)}`, cause)
}

const codeOf = (cause: unknown): unknown =>
  typeof cause === "object" && cause !== null && "code" in cause ? cause.code : undefined
