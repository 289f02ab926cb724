/** Copies a database by `pg_dump` and `psql`, where the machine has programs that are as new as the server. */
import { Effect } from "effect"
import { spawnSync } from "node:child_process"
import { readdirSync } from "node:fs"
import { serverVersion } from "./connection.ts"
import { attempt, run } from "./PostgresBinaries.ts"

const directoryOfDebian = "/usr/lib/postgresql"

const directories = () => {
  try {
    return readdirSync(directoryOfDebian).map((version) => `${directoryOfDebian}/${version}/bin/`)
  } catch {
    return []
  }
}

/** Where the programs of each version are. */
const found = ["", ...directories()].flatMap((directory) => {
  const { status, stdout } = spawnSync(`${directory}pg_dump`, ["--version"], { encoding: "utf8" })
  const [, major] = /(\d+)/.exec(stdout ?? "") ?? []
  return status === 0 && major !== undefined ? [{ directory, major: Number(major) }] : []
})

/** The directory of programs that dump the server of this DSN, or why there is none. */
export const programsFor = (url: string) =>
  Effect.map(serverVersion(url), (version) => {
    const fitting = found.find(({ major }) => major >= Number.parseInt(version))
    return fitting === undefined
      ? { missing: `no pg_dump on this machine is as new as the server, ${version}` }
      : { directory: fitting.directory }
  })

/** Copies the database of a DSN into an empty one, as `pg_dump` and `psql` do. */
export const copy = (directory: string, from: string, to: string) =>
  Effect.gen(function* () {
    const dump = yield* run(`${directory}pg_dump`, ["--dbname", from], { user: undefined, cwd: "/" })
    const psql = [`${directory}psql`, ["--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", to]] as const
    const { status, stderr } = yield* attempt("Restoring a dump", () =>
      Promise.resolve(spawnSync(psql[0], psql[1], { input: dump, encoding: "utf8" }))
    )
    if (status !== 0) return yield* Effect.die(new Error(stderr))
  })
