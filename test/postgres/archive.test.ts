/** Parts of a log go to files, and come back as they were: nothing is detached before its file is verified. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as Postgres from "effect-strata/postgres"
import { readdir, readFile } from "node:fs/promises"
import { join } from "node:path"
import { gunzipSync } from "node:zlib"
import { temporaryDirectory } from "../cli/harness.ts"
import { serveEvents } from "./events.harness.ts"
import { execute, query } from "./harness.ts"

const { Archive, EventArchive, PostgresDatabase } = Postgres

const size = 50n
const options = { partitions: { size } }

/** A log with partitions, and a directory for its parts. */
const served = Effect.gen(function* () {
  const stores = yield* serveEvents({ options })
  const directory = yield* temporaryDirectory
  const database = Layer.provide(
    PostgresDatabase.layer({ schema: stores.schema }),
    Layer.effectContext(Effect.succeed(stores.context))
  )
  const layer = Layer.merge(database, EventArchive.layerDirectory(directory))
  return {
    ...stores,
    directory,
    layer,
    archive: (before: Postgres.Archive.Before) => Effect.provide(Archive.archive({ before }), layer),
    restore: (settings?: Postgres.Archive.RestoreOptions) => Effect.provide(Archive.restore(settings), layer),
    parts: Effect.provide(Archive.parts, layer),
    rows: rowsOf(stores.table),
    files: Effect.promise(() => readdir(directory))
  }
})

/** Every column of every event, as texts, with the partition that it is in. */
const rowsOf = (table: string) =>
  query(`SELECT tableoid::regclass::text, event::text FROM ${table} AS event ORDER BY version`)

/** Events with texts that a terminal would not show, of which some have tags. */
const shapes = (count: number) =>
  Array.from({ length: count }, (_, n) => ({
    aggregateId: `aggregate ${n % 7}`,
    eventType: "Happened",
    data: { n, text: '\u202e "\\ \n é' },
    tags: n % 5 === 0 ? [`tag ${n % 2}`] : []
  }))

describe("archive", () => {
  it.live("writes the oldest partitions to files, and restore brings them back, byte for byte", () =>
    Effect.gen(function* () {
      const { archive, directory, events, files, parts, restore, rows, table } = yield* served
      yield* events.append(shapes(60))
      yield* execute([
        `INSERT INTO ${table} (id, aggregate_id, event_type, data, metadata, created_at)
         SELECT 'plain ' || n, 'plain', 'Plain', '{"exact": 1.00, "large": 12345678901234567890123}', '{"by": "plain"}',
           '2020-01-01T00:00:00.123456Z'::timestamptz + n * interval '1 hour'
         FROM generate_series(1, 60) AS n`
      ])
      yield* events.append(shapes(80))
      const before = yield* rows
      assert.lengthOf(before, 200)
      const { left, parts: archived } = yield* archive(160n)
      assert.deepStrictEqual(
        archived.map(({ endVersion, events, firstVersion, lastVersion }) => [
          firstVersion,
          endVersion,
          events,
          lastVersion
        ]),
        [
          [0n, 50n, 49, 49n],
          [50n, 100n, 50, 99n],
          [100n, 150n, 50, 149n]
        ]
      )
      assert.match(left, /from version 150 up to 199, is not below version 160/)
      assert.deepStrictEqual(yield* parts, archived)
      assert.deepStrictEqual(yield* rows, before.slice(149))
      assert.deepStrictEqual(
        yield* files,
        archived.map(({ name }) => name)
      )
      for (const { bytes, events, name, sha256 } of archived) {
        const file = yield* Effect.promise(() => readFile(join(directory, name)))
        assert.strictEqual(file.length, bytes)
        const lines = gunzipSync(file).toString().trimEnd().split("\n")
        assert.lengthOf(lines, events + 1)
        assert.deepStrictEqual(JSON.parse(lines.at(-1) ?? ""), { events, sha256 })
      }
      const known = yield* query(
        `SELECT aggregate_id, first_version::int, version::int FROM ${table}_archived ORDER BY 1`
      )
      assert.deepStrictEqual(
        known,
        yield* Effect.sync(() => [
          ...Array.from({ length: 7 }, (_, n) => {
            const of = Array.from({ length: 149 }, (_, at) => at + 1).filter(
              (version) => (version <= 60 ? (version - 1) % 7 : version > 120 ? (version - 121) % 7 : -1) === n
            )
            return [`aggregate ${n}`, of[0], of.at(-1)]
          }),
          ["plain", 61, 120]
        ])
      )
      const restored = yield* restore()
      assert.deepStrictEqual(
        restored.map(({ firstVersion }) => firstVersion),
        [100n, 50n, 0n]
      )
      assert.deepStrictEqual(yield* rows, before)
      assert.deepStrictEqual(yield* parts, [])
      assert.deepStrictEqual(yield* query(`SELECT count(*)::int FROM ${table}_archived`), [[0]])
      // What is there again is archived again, to the same files.
      assert.deepStrictEqual(
        (yield* archive(160n)).parts.map(({ name }) => name),
        archived.map(({ name }) => name)
      )
      assert.lengthOf(yield* files, 3)
      yield* restore({ remove: true })
      assert.deepStrictEqual(yield* files, [])
      assert.deepStrictEqual(yield* rows, before)
    }).pipe(Effect.scoped)
  )
})
