/** The files of `resources/postgres` run by hand, as a database administrator would, make what the migrations make. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Postgres from "effect-strata/postgres"
import { spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import { readdirSync, readFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { scratchDatabase } from "../support/database.ts"
import { assertWhole, execute, migrate, query, serve, shape } from "./harness.ts"

const directory = new URL("../../resources/postgres/", import.meta.url)

/** The files, with the variable that names their table and the name it has by default. */
const files = readdirSync(directory)
  // Partitions and the compact layout make another table of events: their own tests run these files.
  .filter((name) => /^\d+_.*\.sql$/.test(name) && !/_(partitions|layout)_/.test(name))
  .toSorted()
  .map((name) => {
    const path = fileURLToPath(new URL(name, directory))
    const [, variable = "", table = ""] = /^\\set (\w+) (\w+)$/m.exec(readFileSync(path, "utf8")) ?? []
    return { path, variable, table }
  })

const tables = new Map(files.map(({ table, variable }) => [variable, table]))

const hasPsql = spawnSync("psql", ["--version"]).status === 0

/** Other names for the tables, if any are given. */
type Names = Readonly<Record<string, string>>

/** `psql -v ON_ERROR_STOP=1 -c 'SET search_path ..' -v offsets=.. -f` of the file. */
const psql = (url: string, schema: string, path: string, names: Names) =>
  Effect.gen(function* () {
    const given = Object.entries(names).flatMap(([variable, name]) => ["-v", `${variable}=${name}`])
    const args = ["-X", "-v", "ON_ERROR_STOP=1", ...given, "-c", `SET search_path TO ${schema}`, "-f", path, url]
    const child = spawn("psql", args, { stdio: ["ignore", "ignore", "pipe"] })
    let errors = ""
    child.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()))
    const [code] = yield* Effect.promise(() => once(child, "close"))
    assert.strictEqual(code, 0, errors)
  })

/**
 * The part of psql's language that the files use: `\if :{?name}`, `\else`, `\endif`, `\set name value ..`, `\ir file`, `\gexec`,
 * and `:"name"` and `:'name'`, which psql leaves alone in comments and quotes.
 */
const interpret = (url: string, schema: string, path: string, names: Names) => {
  const variables = new Map(Object.entries(names))
  const branches: Array<boolean> = []
  const text: Array<string> = []
  const readLines = (path: string) => {
    for (const line of readFileSync(path, "utf8").split("\n")) {
      const [command, name = "", ...values] = line.startsWith("\\") ? line.slice(1).split(/\s+/) : []
      if (command === "if") branches.push(variables.has(/^:\{\?(\w+)\}$/.exec(name)?.[1] ?? assert.fail(line)))
      else if (command === "else") branches.push(!branches.pop())
      else if (command === "endif") branches.pop()
      else if (branches.includes(false)) continue
      else if (command === "set") {
        const value = values.map((value) => (value.startsWith(":") ? variables.get(value.slice(1)) : value)).join("")
        variables.set(name, value)
      } else if (command === "ir") readLines(join(dirname(path), name))
      else if (command === undefined || command === "gexec") text.push(line)
      else assert.fail(line)
    }
  }
  readLines(path)
  const statements = text
    .join("\n")
    .replaceAll(
      /--.*|:'(\w+)'|'[^']*'|(\$\w*\$)[^]*?\2|(?<!:):"(\w+)"/g,
      (found: string, text: string | undefined, _, name: string | undefined) => {
        const mark = text === undefined ? `"` : `'`
        const variable = text ?? name
        if (variable === undefined) return found
        return mark + (variables.get(variable) ?? assert.fail(variable)).replaceAll(mark, mark + mark) + mark
      }
    )
    .split(/^-- next$/m)
  // The statements run on one connection, as some of them are settings.
  const client = { maxConnections: 1, startupParameters: { search_path: schema } }
  return serve({ url, client, layer: Postgres.layerStorage }).pipe(
    Effect.flatMap(({ sql }) =>
      Effect.forEach(statements, (statement) => {
        const [query = "", made] = statement.split(/^\\gexec$/m)
        if (made === undefined) return sql.unsafe(query).unprepared
        return Effect.flatMap(sql.unsafe(query).values, (rows) =>
          Effect.forEach(rows.flat(), (text) => sql.unsafe(String(text)).unprepared)
        )
      })
    ),
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
        const extras = { notify: "rows", index: "containment" } as const
        yield* execute([`CREATE SCHEMA app`], url)
        yield* migrate(url, extras)
        // The parts, without the names that tables give to their indexes, constraints and functions.
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
        // The functions beside a table, with one name for all tables.
        const functions = (schema: string, table: string) =>
          Effect.map(
            query(
              `SELECT regexp_replace(
                 replace(pg_get_functiondef(oid), '"', ''), '(SETOF |SETOF ${schema}\\.|${schema}\\.)${table}', 'TABLE', 'g'
               ) FROM pg_proc
               WHERE pronamespace = '${schema}'::regnamespace AND starts_with(proname, '${table}_')`,
              url
            ),
            // One of them writes to the table of queues.
            (rows) =>
              rows
                .map(([definition]) =>
                  String(definition)
                    .replaceAll(/(public|app)\.(strata_|My )messages/g, "MESSAGES")
                    // The number of which keys of locks are made: see `0061_events_key.sql`.
                    .replace(/BEGIN RETURN \d+; END/, "NUMBER")
                )
                .toSorted()
          )
        for (const names of [{}, Object.fromEntries([...tables.keys()].map((key) => [key, `My ${key}`]))]) {
          for (let times = 0; times < 2; times++) {
            yield* Effect.forEach(files, ({ path }) => run(url, "app", path, names))
          }
          const options = { schema: "app", tables: names, ...extras }
          const shapes = Effect.forEach(tables, ([variable, table]) => shape(url, `app."${names[variable] ?? table}"`))
          for (const [variable, table] of tables) {
            const expected = yield* made(`public.${table}`)
            assert.deepStrictEqual(yield* made(`app."${names[variable] ?? table}"`), expected)
            const definitions = yield* functions("app", names[variable] ?? table)
            assert.strictEqual(
              definitions.length,
              { events: 3, messages: 1, offsets: 0, spool: 3, states: 2 }[variable]
            )
            assert.deepStrictEqual(definitions, yield* functions("public", table))
          }
          const stores = yield* serve({ url, options, layer: Postgres.layerStorage })
          yield* assertWhole(stores, url)
          // The migrations find nothing to change, and record that.
          const before = yield* shapes
          yield* migrate(url, options)
          assert.deepStrictEqual(yield* shapes, before)
        }
      })
  )
})
