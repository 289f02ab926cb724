/** The library as it is published, built in a directory of its own: the figures of start-up and sizes measure this build. */
import { Context, Effect, Layer, Scope } from "effect"
import { cp, mkdir, mkdtemp, rm } from "node:fs/promises"
import { join } from "node:path"
import { outcome, root, run, tsc } from "../package/run.ts"

/** Runs a file of this folder beside the build, which it imports by the package's name. Returns what it has printed. */
export class Built extends Context.Service<
  Built,
  (file: string, args: ReadonlyArray<string>, env?: Readonly<Record<string, string>>) => Effect.Effect<string, Error>
>()("strata-bench/Built") {}

const children = ["starting.ts", "loading.ts"]

/**
 * The build is inside the repository to find its `node_modules`, and a package of the same name, so that its files import
 * each other by name.
 */
const build = Effect.acquireRelease(
  Effect.promise(async () => {
    await mkdir(join(root, ".strata"), { recursive: true })
    return mkdtemp(join(root, ".strata", "bench-"))
  }),
  (directory) => Effect.promise(() => rm(directory, { recursive: true, force: true }))
).pipe(
  Effect.tap((directory) =>
    Effect.promise(async () => {
      const copied = ["package.json", "resources", ...children.map((file) => join("test", "bench", file))]
      for (const entry of copied) await cp(join(root, entry), join(directory, entry), { recursive: true })
      // Types are no matter here, and checking them takes most of the time.
      const flags = ["--noCheck", "--declaration", "false", "--declarationMap", "false", "--sourceMap", "false"]
      await run(process.execPath, [tsc, "-p", "src", "--outDir", join(directory, "dist"), ...flags], { cwd: root })
    })
  )
)

/** Builds when something is first run. */
export const layer = Layer.effect(
  Built,
  Effect.gen(function* () {
    const directory = yield* Effect.cached(Effect.provideService(build, Scope.Scope, yield* Effect.scope))
    return (file, args, env = {}) =>
      Effect.gen(function* () {
        const cwd = yield* directory
        const path = join(cwd, "test", "bench", file)
        const { output, status } = yield* Effect.promise(() => outcome(process.execPath, [path, ...args], { cwd, env }))
        if (status !== 0)
          return yield* Effect.fail(new Error(`${file} ${args.join(" ")} ended with ${status}:\n${output}`))
        return output
      })
  })
)
