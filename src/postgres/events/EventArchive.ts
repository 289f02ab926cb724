/**
 * Where the files of archived events are: a directory, or whatever else can write, read and remove a file under a name.
 *
 * ```ts
 * import { Layer } from "effect"
 * import * as Postgres from "effect-strata/postgres"
 *
 * export const Archive = Postgres.EventArchive.layerDirectory("/srv/strata/archive")
 * export const Stores = Layer.provideMerge(Postgres.layerStorageConfig(), Archive)
 * ```
 */
import { Clock, Context, Effect, Layer, Schema, Stream } from "effect"
import { type FileHandle, open, readdir, rename, rm, stat } from "node:fs/promises"
import { basename, join } from "node:path"

/**
 * A file of archived events cannot be written, read or removed.
 *
 * **Details**
 *
 * - `"Missing"`: there is no file of this name.
 * - `"Damaged"`: the file is not the one that was archived.
 * - `"Failed"`: what keeps the files has failed: it is full, cannot be reached, or refuses.
 *
 * **Remedy**
 *
 * Give the program the archive that `strata archive` has written to, and bring the file back from a copy of it if it is missing
 * or damaged.
 */
export class ArchiveError extends Schema.TaggedError<ArchiveError>("effect-strata/postgres/ArchiveError")(
  "ArchiveError",
  {
    reason: Schema.Literals(["Missing", "Damaged", "Failed"]),
    /** The name of the file. */
    name: Schema.String,
    message: Schema.String,
    cause: Schema.optionalKey(Schema.Defect())
  }
) {}

/**
 * The log cannot be archived, or restored, as it was asked. Nothing has changed.
 *
 * **Remedy**
 *
 * Do what the message says.
 */
export class ArchiveRefused extends Schema.TaggedError<ArchiveRefused>("effect-strata/postgres/ArchiveRefused")(
  "ArchiveRefused",
  { message: Schema.String }
) {}

/** Keeps the files of archived events: see the module's documentation. */
export class EventArchive extends Context.Service<
  EventArchive,
  {
    /**
     * Writes a file: all of it, or nothing under this name. It replaces the file of this name. Once `write` has succeeded, the file
     * survives a crash of the machine.
     */
    readonly write: <E>(name: string, bytes: Stream.Stream<Uint8Array, E>) => Effect.Effect<void, ArchiveError | E>

    /** The bytes of a file. Fails with the reason `"Missing"` if there is none of this name. */
    readonly read: (name: string) => Stream.Stream<Uint8Array, ArchiveError>

    /** Removes a file. It succeeds if there is none of this name. */
    readonly remove: (name: string) => Effect.Effect<void, ArchiveError>

    /**
     * What writers have left behind that were killed, and nobody writes any more: `strata archives` and `strata doctor` tell of
     * it. An archive that knows of no such files leaves this function out.
     */
    readonly leftovers?: Effect.Effect<ReadonlyArray<string>, ArchiveError>
  }
>()("effect-strata/postgres/EventArchive") {}

const readBytes = 256 * 1024

/** A draft to which nobody has written for so long is of a writer that was killed. A writer writes page after page. */
const idleMillis = 60_000

const draftName = /^\..+\.[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}\.draft$/

/** Those of the directory's group may read what its owner has written, as the application may run as another user. */
const fileMode = 0o640

const failed = (name: string, path: string, cause: unknown) => {
  const message = cause instanceof Error ? cause.message : String(cause)
  return new ArchiveError({
    reason: cause instanceof Error && "code" in cause && cause.code === "ENOENT" ? "Missing" : "Failed",
    name,
    message: message.includes(path) ? message : `${path}: ${message}`,
    cause
  })
}

const closing = (file: FileHandle) => Effect.promise(() => file.close().catch(() => {}))

/** Makes sure that a file that has got its name keeps it. Windows cannot do that of a directory, and does it by itself. */
const syncDirectory = async (path: string) => {
  if (process.platform === "win32") return
  const directory = await open(path)
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}

/** The drafts in a directory to which nobody has written lately, as seen from a time. */
const idleDrafts = async (path: string, nowMillis: number): Promise<ReadonlyArray<string>> => {
  const names = (await readdir(path)).filter((name) => draftName.test(name))
  const isIdle = await Promise.all(
    names.map((name) =>
      stat(join(path, name)).then(
        ({ mtimeMs }) => nowMillis - mtimeMs >= idleMillis,
        // Its writer has finished it.
        () => false
      )
    )
  )
  return names.filter((_, index) => isIdle[index])
}

/** The file that was just made has the time of whatever keeps the directory. */
const removeIdleDrafts = async (path: string, made: FileHandle) => {
  const { mtimeMs } = await made.stat()
  for (const name of await idleDrafts(path, mtimeMs)) await rm(join(path, name), { force: true })
}

/** An archive in a directory, which has to be there. */
export const makeDirectory = (path: string): EventArchive["Service"] => {
  /** The path of a file in the directory. */
  const within = <A, E, R>(
    name: string,
    use: (file: string) => Effect.Effect<A, E, R>
  ): Effect.Effect<A, E | ArchiveError, R> =>
    name === "" || name !== basename(name) || name.startsWith(".")
      ? Effect.fail(
          new ArchiveError({ reason: "Failed", name, message: `"${name}" is no name of a file in a directory` })
        )
      : use(join(path, name))

  return EventArchive.of({
    write: (name, bytes) =>
      within(name, (file) =>
        Effect.gen(function* () {
          const draft = join(path, `.${name}.${crypto.randomUUID()}.draft`)
          const attempt = <A>(f: () => Promise<A>) =>
            Effect.tryPromise({ try: f, catch: (cause) => failed(name, file, cause) })
          const handle = yield* Effect.acquireRelease(
            attempt(() => open(draft, "wx", fileMode)),
            (handle) =>
              Effect.andThen(
                closing(handle),
                Effect.promise(() => rm(draft, { force: true }).catch(() => {}))
              )
          )
          // Where they cannot be removed, this file is written all the same.
          yield* Effect.promise(() => removeIdleDrafts(path, handle).catch(() => {}))
          yield* Stream.runForEach(bytes, (chunk) => attempt(() => handle.appendFile(chunk)))
          yield* attempt(async () => {
            await handle.sync()
            await rename(draft, file)
            await syncDirectory(path)
          })
        }).pipe(Effect.scoped)
      ),

    read: (name) =>
      Stream.unwrap(
        within(name, (file) =>
          Effect.map(
            Effect.acquireRelease(
              Effect.tryPromise({ try: () => open(file), catch: (cause) => failed(name, file, cause) }),
              closing
            ),
            (handle) =>
              Stream.fromAsyncIterable(
                handle.createReadStream({ autoClose: false, highWaterMark: readBytes }),
                (cause) => failed(name, file, cause)
              )
          )
        )
      ),

    remove: (name) =>
      within(name, (file) =>
        Effect.tryPromise({
          try: async () => {
            await rm(file, { force: true })
            await syncDirectory(path)
          },
          catch: (cause) => failed(name, file, cause)
        })
      ),

    leftovers: Effect.flatMap(Clock.currentTimeMillis, (nowMillis) =>
      Effect.tryPromise({
        try: async () => (await idleDrafts(path, nowMillis)).toSorted(),
        catch: (cause) => failed("", path, cause)
      })
    )
  })
}

/**
 * Keeps the files in a directory, which has to be there: a disk of its own, or one that all processes share. A file appears under
 * its name once it is complete and on the disk. What a writer that was killed has left of a file, the next one removes, a minute
 * later at the earliest.
 */
export const layerDirectory = (path: string): Layer.Layer<EventArchive> =>
  Layer.succeed(EventArchive, makeDirectory(path))
