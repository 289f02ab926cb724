/** What the library costs before it does anything: the start of a program, and the size of what it imports. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Redacted } from "effect"
import { Built } from "./built.ts"
import type { Amount } from "./harness.ts"

/** Runs one of the child programs, and takes the numbers that it prints. */
const numbers = Effect.fnUntraced(function* (file: string, args: ReadonlyArray<string>) {
  const run = yield* Built
  const { config } = yield* PgClient.PgClient
  const output = yield* run(file, args, {
    DATABASE_URL: config.url === undefined ? "" : Redacted.value(config.url),
    DB_SCHEMA: config.startupParameters?.["search_path"] ?? "public"
  })
  const found = output.split(" ").map(Number)
  if (!found.every((number) => number > 0)) return yield* Effect.fail(new Error(`${file} has printed: ${output}`))
  return found
})

const starts = (name: string, other: string, otherName: string, conditions: string): Amount => ({
  name: `start/${name}`,
  unit: "ms",
  otherName,
  conditions: `from before the first import to the first answer, ${conditions}`,
  amount: Effect.gen(function* () {
    const [strata = Number.NaN] = yield* numbers("starting.ts", [name])
    const [bare = Number.NaN] = yield* numbers("starting.ts", [other])
    return { strata, other: bare }
  })
})

const size = (name: string, specifier: string): Amount => ({
  name: `size/${name}`,
  unit: "kB",
  otherName: "same with all packages that it imports",
  conditions: `modules of this package that importing ${specifier} loads, not minified`,
  constant: true,
  amount: Effect.map(numbers("loading.ts", [specifier]), ([ours = Number.NaN, all = Number.NaN]) => ({
    strata: ours / 1000,
    other: all / 1000
  }))
})

export const figures: ReadonlyArray<Amount> = [
  starts("memory", "effect", "import of effect alone", "an empty database"),
  starts("postgres", "driver", "bare driver", "migrations have been run"),
  starts("pglite", "pglite itself", "same of PGlite itself", "a new database, with its migrations"),
  size("index", "effect-strata"),
  ...["memory", "postgres", "pglite", "cluster", "protobuf", "testing"].map((name) =>
    size(name, `effect-strata/${name}`)
  )
]
