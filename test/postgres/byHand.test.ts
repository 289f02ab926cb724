/** The files of `resources/postgres` run by hand, as a database administrator would, make what the migrations make. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Postgres from "effect-strata/postgres"
import { spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { scratchDatabase } from "../support/database.ts"
import { assertWhole, execute, migrate, serve, shape } from "./harness.ts"

const file = fileURLToPath(new URL("../../resources/postgres/0001_offsets.sql", import.meta.url))

const hasPsql = spawnSync("psql", ["--version"]).status === 0

/** `psql -v ON_ERROR_STOP=1 -c 'SET search_path ..' -v offsets=.. -f` of the file. */
const psql = (url: string, schema: string, offsets: string | undefined) =>
  Effect.gen(function* () {
    const given = offsets === undefined ? [] : ["-v", `offsets=${offsets}`]
    const args = ["-X", "-v", "ON_ERROR_STOP=1", ...given, "-c", `SET search_path TO ${schema}`, "-f", file, url]
    const child = spawn("psql", args, { stdio: ["ignore", "ignore", "pipe"] })
    let errors = ""
    child.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()))
    const [code] = yield* Effect.promise(() => once(child, "close"))
    assert.strictEqual(code, 0, errors)
  })

/** The part of psql's language that the files use: `\if :{?name}`, `\else`, `\endif`, `\set name value`, `:"name"`. */
const interpret = (url: string, schema: string, offsets: string | undefined) => {
  const variables = new Map(offsets === undefined ? [] : [["offsets", offsets]])
  const branches: Array<boolean> = []
  const text: Array<string> = []
  for (const line of readFileSync(file, "utf8").split("\n")) {
    const [command, name = "", value = ""] = line.startsWith("\\") ? line.slice(1).split(/\s+/) : []
    if (command === "if") branches.push(variables.has(/^:\{\?(\w+)\}$/.exec(name)?.[1] ?? assert.fail(line)))
    else if (command === "else") branches.push(!branches.pop())
    else if (command === "endif") branches.pop()
    else if (branches.includes(false)) continue
    else if (command === "set") variables.set(name, value)
    else if (command === undefined) text.push(line.replaceAll(/^\s*--.*$/g, ""))
    else assert.fail(line)
  }
  const statements = text
    .join("\n")
    .replaceAll(
      /:"(\w+)"/g,
      (_, name: string) => `"${(variables.get(name) ?? assert.fail(name)).replaceAll(`"`, `""`)}"`
    )
    .split(/;\s*$/m)
    .filter((statement) => statement.trim() !== "")
  return serve({ url, client: { startupParameters: { search_path: schema } }, layer: Postgres.layerStorage }).pipe(
    Effect.flatMap(({ sql }) => Effect.forEach(statements, (statement) => sql.unsafe(statement).unprepared)),
    Effect.scoped
  )
}

describe("the files of resources/postgres, by hand", () => {
  const ways = [
    ["an interpreter of psql's language", interpret] as const,
    ...(hasPsql ? [["psql", psql] as const] : [])
  ]

  it.live.each(ways)(
    `with %s${hasPsql ? "" : " (psql itself is not on this machine)"}, twice, make what the migrations make`,
    ([, run]) =>
      Effect.gen(function* () {
        const url = yield* scratchDatabase()
        yield* execute([`CREATE SCHEMA app`], url)
        yield* migrate(url)
        // The parts, without the names that tables give to their indexes and constraints.
        const made = (table: string) =>
          Effect.map(shape(url, table), (parts) =>
            parts
              .map(([name, definition, notNull]) =>
                [String(definition).replace(/INDEX .* USING/, "INDEX USING"), notNull === "" ? "" : name, notNull].join(
                  " "
                )
              )
              .toSorted()
          )
        const expected = yield* made("public.offsets_store")
        for (const [offsets, table] of [
          [undefined, "app.offsets_store"],
          ["My offsets", `app."My offsets"`]
        ] as const) {
          for (let times = 0; times < 2; times++) yield* run(url, "app", offsets)
          assert.deepStrictEqual(yield* made(table), expected)
          const options = { schema: "app", tables: { offsets: offsets ?? "offsets_store" } }
          const stores = yield* serve({ url, options, layer: Postgres.layerStorage })
          yield* assertWhole(stores, url)
          // The migrations find nothing to change, and record that.
          const before = yield* shape(url, table)
          yield* migrate(url, options)
          assert.deepStrictEqual(yield* shape(url, table), before)
        }
      })
  )
})
