/**
 * Files that the command writes. They are its user's alone: nobody else can read a new one, and no symbolic link that somebody
 * has planted leads to a file that is not meant.
 */
import { Effect, type Scope } from "effect"
import { constants } from "node:fs"
import { type FileHandle, open, readdir, rename, rm, stat } from "node:fs/promises"
import { basename, dirname, join } from "node:path"
import { CommandFailed } from "../terminal/CommandErrors.ts"
import { closing, fileError, type FileError } from "./Lines.ts"

const { O_APPEND, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDWR } = constants

const ownMode = 0o600

const codeOf = (cause: unknown): unknown => (cause instanceof Error && "code" in cause ? cause.code : undefined)

// Windows has no O_NOFOLLOW and no O_NONBLOCK: there they are undefined.
const openKept = async (path: string): Promise<FileHandle> => {
  const flags = O_RDWR | O_APPEND | (O_NOFOLLOW ?? 0) | (O_NONBLOCK ?? 0)
  try {
    return await open(path, flags | O_CREAT | O_EXCL, ownMode)
  } catch (cause) {
    if (codeOf(cause) !== "EEXIST") throw cause
    return await open(path, flags)
  }
}

/** Opens a file to read and append, and makes it if it is not there. It has to be a file of its own, and of this user. */
export const openToAppend = (path: string): Effect.Effect<FileHandle, CommandFailed | FileError, Scope.Scope> =>
  Effect.gen(function* () {
    const file = yield* Effect.acquireRelease(
      Effect.tryPromise({
        try: () => openKept(path),
        catch: (cause) =>
          codeOf(cause) === "ELOOP"
            ? new CommandFailed({ message: `${path} is a symbolic link; name the file itself`, cause })
            : fileError(path, cause)
      }),
      closing
    )
    const stat = yield* Effect.tryPromise({ try: () => file.stat(), catch: (cause) => fileError(path, cause) })
    if (!stat.isFile()) {
      return yield* new CommandFailed({ message: `${path} is no file; leave out the name to write to stdout` })
    }
    const user = process.getuid?.()
    if (user !== undefined && user !== stat.uid) {
      return yield* new CommandFailed({ message: `${path} belongs to another user; name another file` })
    }
    return file
  })

/** A draft to which nobody has written for so long is of a process that was killed: the others write batch after batch. */
const idleMillis = 3_600_000

const draftEnd = /^\.[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}\.draft$/

/** Removes what killed processes have left of a file. The draft that was just made has the time of what keeps the directory. */
const removeIdleDrafts = async (path: string, made: FileHandle) => {
  const { mtimeMs: nowMillis } = await made.stat()
  const name = basename(path)
  for (const found of await readdir(dirname(path))) {
    if (!found.startsWith(name) || !draftEnd.test(found.slice(name.length))) continue
    const draft = join(dirname(path), found)
    if (nowMillis - (await stat(draft)).mtimeMs >= idleMillis) await rm(draft, { force: true })
  }
}

/**
 * A file that appears under its name once it is complete, and not at all otherwise. What a process that was killed has left of it,
 * the next one removes, an hour later at the earliest.
 */
export const openDraft = Effect.fnUntraced(function* (path: string) {
  const attempt = <A>(f: () => Promise<A>) => Effect.tryPromise({ try: f, catch: (cause) => fileError(path, cause) })
  const draft = `${path}.${crypto.randomUUID()}.draft`
  const file = yield* Effect.acquireRelease(
    attempt(() => open(draft, "wx", ownMode)),
    (file) =>
      Effect.andThen(
        closing(file),
        Effect.promise(() => rm(draft, { force: true }).catch(() => {}))
      )
  )
  // Where they cannot be removed, this file is written all the same.
  yield* Effect.promise(() => removeIdleDrafts(path, file).catch(() => {}))
  return {
    append: (text: string) => attempt(() => file.appendFile(text)),
    finish: attempt(async () => {
      await file.sync()
      await rename(draft, path)
    })
  }
})
