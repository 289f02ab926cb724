/** An import treats events that are archived as it treats those of the table: it leaves them out, and compares them. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { readdir, readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { gunzipSync } from "node:zlib"
import { serveArchive, shapes } from "../postgres/archive.harness.ts"
import { execute, query } from "../postgres/harness.ts"
import { postgresUrl } from "../support/database.ts"
import { fails, jsonLines, succeeds, temporaryDirectory } from "./harness.ts"

const served = Effect.fnUntraced(function* (layout?: "compact") {
  const stores = yield* serveArchive({ options: layout === undefined ? {} : { layout } })
  const { directory, schema } = stores
  const files = yield* temporaryDirectory
  const options = { url: postgresUrl, env: { DB_SCHEMA: schema, DB_ARCHIVE_DIR: directory } }
  const path = (name: string) => join(files, name)
  return {
    ...stores,
    path,
    options,
    without: { url: postgresUrl, env: { DB_SCHEMA: schema } },
    result: (...args: ReadonlyArray<string>) =>
      Effect.map(succeeds(["events", "import", ...args, "--json"], options), (text) => jsonLines(text)[0])
  }
})

const rowsOf = (table: string) => query(`SELECT event::text FROM ${table} AS event ORDER BY version`)

describe.each(["default", "compact"] as const)("an import into an archived log with the %s layout", (name) => {
  it.live("leaves out what is archived, tells its versions, and adds the rest", () =>
    Effect.gen(function* () {
      const { archive, events, options, path, restore, result, table } = yield* served(
        name === "compact" ? name : undefined
      )
      yield* events.append(shapes(170))
      const all = path("all.jsonl")
      yield* succeeds(["events", "export", all], options)
      yield* archive(100n)
      const before = yield* rowsOf(table)
      assert.deepInclude(yield* result(all), { events: 170, added: 0, already: 170 })
      const versions = jsonLines(yield* Effect.promise(() => readFile(`${all}.versions.jsonl`, "utf8")))
      assert.lengthOf(versions, 170)
      assert.isTrue(versions.every(({ from, to }) => from === to))
      assert.match(
        yield* succeeds(["events", "import", all, "--verify"], options),
        /170 events of .* are in the log, unchanged and in the same order/
      )
      // The last ones of the table are gone, and come back with new versions.
      yield* execute([`DELETE FROM ${table} WHERE version > 160`])
      assert.deepInclude(yield* result(all), { events: 170, added: 10, already: 160 })
      assert.deepStrictEqual((yield* rowsOf(table)).slice(0, 61), before.slice(0, 61))
      yield* restore()
      assert.deepInclude(yield* result(all), { events: 170, added: 0, already: 170 })
    }).pipe(Effect.scoped)
  )

  it.live("takes the file of a part, and refuses an event that differs from the archived one", () =>
    Effect.gen(function* () {
      const { archive, directory, events, options, path, result, table } = yield* served(
        name === "compact" ? name : undefined
      )
      yield* events.append(shapes(120))
      yield* execute([
        `UPDATE ${table} SET data = NULL WHERE version = 3`,
        `UPDATE ${table} SET metadata = NULL WHERE version IN (3, 4)`
      ])
      yield* archive(50n)
      const [file = ""] = yield* Effect.promise(() => readdir(directory))
      const text = gunzipSync(yield* Effect.promise(() => readFile(join(directory, file)))).toString()
      const part = path("part.jsonl")
      yield* Effect.promise(() => writeFile(part, text))
      assert.deepInclude(yield* result(part), { events: 49, added: 0, already: 49 })
      const changed = path("changed.jsonl")
      for (const change of [
        (line: string) => line.replace('{"n": 6,', '{"n": 66,'),
        (line: string) => line.replace('"aggregate 6"', '"aggregate 7"'),
        (line: string) => line.replace('"Rare"', '"Common"')
      ]) {
        const lines = text.split("\n").slice(0, 49)
        const line = lines[6] ?? ""
        assert.notStrictEqual(change(line), line)
        yield* Effect.promise(() => writeFile(changed, `${lines.with(6, change(line)).join("\n")}\n`))
        yield* fails(
          ["events", "import", changed, "--unchecked"],
          1,
          /line 7 of .*: another event with the id ".*" is in the log\n$/,
          options
        )
        yield* fails(
          ["events", "import", changed, "--unchecked", "--verify"],
          1,
          /has another aggregate, type, data or metadata in the log\n/,
          options
        )
      }
      assert.lengthOf(yield* rowsOf(table), 71)
    }).pipe(Effect.scoped)
  )
})

describe("an import into an archived log", () => {
  it.live("without the archive, or without the file, imports nothing, and says which file it needs", () =>
    Effect.gen(function* () {
      const { archive, directory, events, options, path, table, without } = yield* served()
      yield* events.append(shapes(120))
      const all = path("all.jsonl")
      yield* succeeds(["events", "export", all], options)
      yield* archive(50n)
      yield* execute([`DELETE FROM ${table} WHERE version > 100`])
      yield* fails(
        ["events", "import", all],
        1,
        /versions 0 to 49 .* are archived in the file events-.*, and this program has no archive/,
        without
      )
      const [file = ""] = yield* Effect.promise(() => readdir(directory))
      yield* Effect.promise(() => writeFile(join(directory, file), "no file"))
      yield* fails(
        ["events", "import", all],
        1,
        /versions 0 to 49 .* in the file events-.*bring it back from a copy/,
        options
      )
      assert.lengthOf(yield* rowsOf(table), 51)
      // What has no event in that part needs no file.
      const rest = path("rest.jsonl")
      const lines = (yield* Effect.promise(() => readFile(all, "utf8"))).split("\n").slice(49, 120)
      yield* Effect.promise(() => writeFile(rest, `${lines.join("\n")}\n`))
      yield* succeeds(["events", "import", rest, "--unchecked"], without)
      assert.lengthOf(yield* rowsOf(table), 71)
    }).pipe(Effect.scoped)
  )

  it.live("goes on where its events are archived, and restored, meanwhile", () =>
    Effect.gen(function* () {
      const { archive, events, options, path, restore, table } = yield* served()
      yield* events.append(shapes(2500))
      const all = path("all.jsonl")
      yield* succeeds(["events", "export", all], options)
      let isDone = false
      const moving = yield* Effect.forkScoped(
        Effect.whileLoop({
          while: () => !isDone,
          body: () => Effect.andThen(archive(2000n), restore(500n)),
          step: () => {}
        })
      )
      for (let round = 0; round < 5; round++) {
        assert.match(
          yield* succeeds(["events", "import", all], options),
          /^0 events imported from .*, 2,500 were there already/
        )
      }
      isDone = true
      yield* Fiber.join(moving)
      yield* restore()
      assert.lengthOf(yield* rowsOf(table), 2500)
    }).pipe(Effect.scoped)
  )
})
