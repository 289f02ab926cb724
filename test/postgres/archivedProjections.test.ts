/** Read models of a log whose oldest parts are archived are exact, or stop at what cannot be read, and say which file it is. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Stream } from "effect"
import { Projection, StoreError } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { readdir, readFile, rename, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { jsonLines, strata } from "../cli/harness.ts"
import { postgresUrl } from "../support/database.ts"
import { layerHttp, serveFiles } from "../support/httpArchive.ts"
import { serveArchive } from "./archive.harness.ts"
import { serveEvents } from "./events.harness.ts"
import { failsWith } from "./harness.ts"

const added = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, n) => ({
    aggregateId: `a${(from + n) % 5}`,
    eventType: n % 4 === 0 ? "Rare" : "Added",
    data: from + n,
    tags: [`t${(from + n) % 3}`]
  }))

/** A log, and a read model of sums in two copies beside it. */
const scene = Effect.fnUntraced(function* (files?: Layer.Layer<Postgres.EventArchive.EventArchive>) {
  const stores = yield* serveArchive({}, files)
  const { context, schema } = stores
  const sql = Context.get(context, PgClient.PgClient)
  const model = sql.literal(`${schema}.model`)
  yield* sql`CREATE TABLE ${model} (name text, slot text, id text, sum bigint NOT NULL, count bigint NOT NULL, PRIMARY KEY (name, slot, id))`
  const clearOf = (name: string) => (slot: Projection.Slot) =>
    sql`DELETE FROM ${model} WHERE name = ${name} AND slot = ${slot}`
  const sums = (
    name: string,
    filter: { readonly eventTypes?: ReadonlyArray<string>; readonly tags?: ReadonlyArray<string> } = {}
  ) =>
    Projection.make({
      ...filter,
      name,
      shards: 3,
      batchSize: 7,
      heartbeat: "200 millis",
      handler: ({ aggregateId, data }, slot) =>
        sql`
          INSERT INTO ${model} AS model VALUES (${name}, ${slot}, ${aggregateId}, ${Number(data)}, 1)
          ON CONFLICT (name, slot, id) DO UPDATE SET sum = model.sum + excluded.sum, count = model.count + 1`,
      clear: clearOf(name)
    })
  /** The sums of a copy. */
  const found = (name: string, slot: Projection.Slot) =>
    Effect.map(
      sql<{ id: string; sum: bigint; count: bigint }>`
        SELECT id, sum, count FROM ${model} WHERE name = ${name} AND slot = ${slot} ORDER BY id`,
      (rows) => rows.map(({ count, id, sum }) => [id, Number(sum), Number(count)])
    )
  const here = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, context)
  return { ...stores, clearOf, sums, found, here }
})

/** The sums of these events. */
const sumsOf = (events: ReadonlyArray<{ readonly aggregateId: string; readonly data: unknown }>) => {
  const sums = new Map<string, readonly [number, number]>()
  for (const { aggregateId, data } of events) {
    const [sum, count] = sums.get(aggregateId) ?? [0, 0]
    sums.set(aggregateId, [sum + Number(data), count + 1])
  }
  return [...sums]
    .map(([id, [sum, count]]) => [id, sum, count])
    .toSorted(([one], [other]) => (String(one) < String(other) ? -1 : 1))
}

describe("a read model of a log that is archived", () => {
  const harms = {
    missing: (path: string) => rename(path, `${path}.away`),
    "changed in one byte": async (path: string) => {
      const bytes = await readFile(path)
      await writeFile(`${path}.away`, bytes)
      await writeFile(path, bytes.with(bytes.length >> 1, (bytes[bytes.length >> 1] ?? 0) ^ 1))
    },
    "cut off": async (path: string) => {
      const bytes = await readFile(path)
      await writeFile(`${path}.away`, bytes)
      await writeFile(path, bytes.subarray(0, bytes.length - 9))
    },
    empty: async (path: string) => {
      await rename(path, `${path}.away`)
      await writeFile(path, "")
    }
  }

  it.live.each(Object.entries(harms))(
    "whose second file is %s, stops before it, and is exact once it is mended",
    ([, harm]) =>
      Effect.gen(function* () {
        const { archive, directory, events, found, here, schema, sums } = yield* scene()
        yield* events.append(added(0, 300))
        yield* archive(150n)
        const names = (yield* Effect.promise(() => readdir(directory))).toSorted()
        const path = join(directory, names[1] ?? "")
        yield* Effect.promise(() => harm(path))
        const projection = sums("all")
        const ended = yield* Effect.flip(here(Projection.run(projection)))
        assert.instanceOf(ended, StoreError.StoreError)
        assert.match(ended.message, /versions 50 to 99 .* are archived in the file events-0+50-0+100-\w+\.jsonl\.gz/)
        assert.match(ended.message, /bring it back from a copy$/)
        // What was handled is a part of what comes before the file, and nothing of it, nor after it.
        const seen = yield* found("all", "blue")
        assert.isAtMost(
          seen.reduce((count, row) => count + Number(row[2]), 0),
          49
        )
        // The status says when the next event was appended, which is in the file if nothing before it is left.
        const status = yield* Effect.result(here(Projection.status("all")))
        if (status._tag === "Failure") assert.match(status.failure.message, /versions 50 to 99 .* cannot be read/)
        else for (const { offset } of status.success) assert.isAtMost(Number(offset), 49)
        const doctor = yield* strata(["doctor", "--json", "--prove", "--for", "10ms", "--schema", schema], {
          url: postgresUrl,
          env: { DB_ARCHIVE_DIR: directory }
        })
        const problems = jsonLines(doctor.stdout).filter(({ level }) => level === "problem")
        assert.isTrue(problems.some(({ says }) => String(says).includes("versions 50 to 99")))
        yield* Effect.promise(() => rename(`${path}.away`, path))
        const running = yield* Effect.forkChild(here(Projection.run(projection)))
        yield* here(Projection.awaitVersion("all", yield* events.latestVersion, "5 minutes"))
        yield* Fiber.interrupt(running)
        assert.deepStrictEqual(yield* found("all", "blue"), sumsOf(added(0, 300)))
      }).pipe(Effect.scoped)
  )

  it.live.each(["in a directory", "over HTTP, by an archive of the user's own"])(
    "%s, is exact, from the start and rebuilt, while parts are archived and restored",
    (where) =>
      Effect.gen(function* () {
        const files = where === "in a directory" ? undefined : layerHttp((yield* serveFiles).url)
        const { archive, clearOf, events, found, here, restore, sums } = yield* scene(files)
        yield* events.append(added(0, 300))
        yield* archive(200n)
        const projections = [
          { name: "all", filter: {} },
          { name: "rare", filter: { eventTypes: ["Rare"] } }
        ]
        for (const { filter, name } of projections) {
          yield* Effect.forkScoped(here(Projection.run(sums(name, filter))))
        }
        for (let from = 300; from < 600; from += 50) {
          yield* events.append(added(from, from + 50))
          yield* archive(BigInt(from))
          if (from === 400) yield* restore(150n)
        }
        const last = yield* events.latestVersion
        assert.deepStrictEqual(sumsOf(yield* events.load()), sumsOf(added(0, 600)))
        for (const { filter, name } of projections) {
          const wanted = sumsOf(yield* Stream.runCollect(events.read(filter)))
          const isExact = Effect.gen(function* () {
            yield* here(Projection.awaitVersion(name, last, "5 minutes"))
            assert.deepStrictEqual(yield* found(name, yield* here(Projection.slot(name))), wanted)
          })
          yield* isExact
          for (const mode of ["in place", "beside"] as const) {
            yield* here(Stream.runDrain(Projection.rebuild(sums(name, filter), { mode, clear: clearOf(name) })))
            yield* isExact
          }
        }
      }).pipe(Effect.scoped)
  )

  it.live("which cannot be reached for a while, waits for it, and is exact", () =>
    Effect.gen(function* () {
      const server = yield* serveFiles
      const within = yield* Layer.build(layerHttp(server.url))
      const files = Context.get(within, Postgres.EventArchive.EventArchive)
      let failures = 0
      const flaky = Layer.succeed(Postgres.EventArchive.EventArchive, {
        ...files,
        read: (name) =>
          Stream.suspend(() =>
            ++failures % 3 === 0
              ? files.read(name)
              : Stream.fail(
                  new Postgres.EventArchive.ArchiveError({ reason: "Failed", name, message: "it cannot be reached" })
                )
          )
      })
      const { archive, events, found, here, sums } = yield* scene(flaky)
      yield* events.append(added(0, 300))
      // Each try to verify may fail, and then nothing has changed.
      yield* Effect.retry(archive(150n), { while: ({ _tag }) => _tag === "ArchiveError" })
      const running = yield* Effect.forkChild(here(Projection.run(sums("all"))))
      yield* here(Projection.awaitVersion("all", yield* events.latestVersion, "5 minutes"))
      yield* Fiber.interrupt(running)
      assert.deepStrictEqual(yield* found("all", "blue"), sumsOf(added(0, 300)))
    }).pipe(Effect.scoped)
  )

  it.live("is not begun by a program without the archive", () =>
    Effect.gen(function* () {
      const { archive, events, schema, sums } = yield* scene()
      yield* events.append(added(0, 300))
      yield* archive(150n)
      const without = yield* serveEvents({ options: { schema } })
      yield* failsWith(
        Effect.provide(Projection.run(sums("all")), without.context),
        "Projection.run",
        "Unexpected",
        /this program has no archive/
      )
    }).pipe(Effect.scoped)
  )
})
