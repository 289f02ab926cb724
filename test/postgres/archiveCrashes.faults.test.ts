/** What is archived survives whatever stops the process, the server or the disk, and no event is lost or there twice. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import { execFile } from "node:child_process"
import { randomInt } from "node:crypto"
import { mkdir, readdir, readFile, utimes } from "node:fs/promises"
import { join } from "node:path"
import { promisify } from "node:util"
import { gunzipSync } from "node:zlib"
import { jsonLines, start, strata, succeeds, temporaryDirectory } from "../cli/harness.ts"
import { postgresUrl } from "../support/database.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { archiving, serveArchive, shapes } from "./archive.harness.ts"
import { event, serveEvents, versionsIn } from "./events.harness.ts"
import { execute, query } from "./harness.ts"

const { EventArchive } = Postgres
const run = promisify(execFile)

const files = (directory: string) => Effect.promise(async () => (await readdir(directory)).toSorted())

/** The versions of the lines of a file. */
const versionsOf = (directory: string, name: string) =>
  Effect.promise(async () =>
    [
      ...gunzipSync(await readFile(join(directory, name)))
        .toString()
        .matchAll(/^{"version":"(\d+)"/gm)
    ].map(([, version = ""]) => BigInt(version))
  )

/** A log with one partition of so many events, and another one. */
const large = Effect.fnUntraced(function* (count: number) {
  const stores = yield* serveArchive({ options: { partitions: { size: BigInt(count) } } })
  yield* execute([
    `INSERT INTO ${stores.table} (id, aggregate_id, event_type, data)
     SELECT n, 'a' || n % 100, 'A', jsonb_build_object('text', repeat(md5(n::text), 10)) FROM generate_series(1, ${count}) AS n`
  ])
  yield* stores.events.append(Array.from({ length: 10 }, () => event("a1")))
  return stores
})

describe("a process that is killed", () => {
  it.live(
    "while it writes a file leaves a draft, which is told of once nobody writes it, and the next one removes it",
    () =>
      Effect.gen(function* () {
        const { directory, schema, table } = yield* large(60_000)
        const options = { url: postgresUrl, env: { DB_ARCHIVE_DIR: directory } }
        const args = ["archive", "--before", "60000", "--schema", schema]
        const killed = yield* start(args, { ...options, input: "" })
        yield* Effect.repeat(files(directory), { until: (names) => names.length > 0 })
        killed.child.kill("SIGKILL")
        yield* killed.ended
        const [draft = "", ...others] = yield* files(directory)
        assert.match(draft, /^\.events-.*\.draft$/)
        assert.deepStrictEqual(others, [])
        assert.deepStrictEqual(yield* query(`SELECT count(*)::int FROM ${table}_archives`), [[0]])
        const found = Effect.map(strata(["doctor", "--json", "--schema", schema], options), ({ stdout }) =>
          jsonLines(stdout).flatMap(({ check, level, says }) => (check === "archive" ? [`${level}: ${says}`] : []))
        )
        // It may be one that is written.
        assert.deepStrictEqual(yield* found, [])
        assert.strictEqual((yield* strata(["archives", "--schema", schema], options)).stderr, "")
        const hourAgo = Date.now() / 1000 - 3600
        yield* Effect.promise(() => utimes(join(directory, draft), hourAgo, hourAgo))
        const [warning, ...more] = yield* found
        assert.match(
          warning ?? "",
          /^warning: 1 file of the archive was left unfinished by a process that was killed: \.events/
        )
        assert.deepStrictEqual(more, [])
        assert.match(
          (yield* strata(["archives", "--schema", schema], options)).stderr,
          /1 file .* left unfinished .*\.draft/
        )
        yield* succeeds(args, options)
        const [file = "", ...rest] = yield* files(directory)
        assert.match(file, /^events-.*\.gz$/)
        assert.deepStrictEqual(rest, [])
        assert.lengthOf(yield* versionsOf(directory, file), 59_999)
        assert.match((yield* found)[0] ?? "", /^ok: /)
      }).pipe(Effect.scoped)
  )
})

describe("a disk that is full", () => {
  it.live("leaves the log as it was, and no file, and archiving goes on once there is room", () =>
    Effect.gen(function* () {
      const stores = yield* large(20_000)
      const { events, table } = stores
      const small = join(yield* temporaryDirectory, "small")
      yield* Effect.acquireRelease(
        Effect.promise(async () => {
          await mkdir(small)
          await run("mount", ["-t", "tmpfs", "-o", "size=256k", "tmpfs", small])
        }),
        () => Effect.promise(() => run("umount", [small]))
      )
      const onSmall = archiving(stores, EventArchive.layerDirectory(small))
      const before = yield* Stream.runCollect(events.read({ limit: 100 }))
      const error = yield* Effect.flip(onSmall.archive(20_000n))
      assert.strictEqual(error._tag, "ArchiveError")
      assert.match(error.message, /ENOSPC/)
      assert.deepStrictEqual(yield* files(small), [])
      assert.deepStrictEqual(yield* query(`SELECT count(*)::int FROM ${table}_archives`), [[0]])
      assert.deepStrictEqual(yield* Stream.runCollect(events.read({ limit: 100 })), before)
      yield* Effect.promise(() => run("mount", ["-o", "remount,size=64m", small]))
      const { parts } = yield* onSmall.archive(20_000n)
      assert.lengthOf(parts, 1)
    }).pipe(Effect.scoped)
  )
})

describe("a server that is killed", () => {
  it.live(
    "at any moment of archiving and restoring has each event in the table or in a file, and readers find all",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        const { archive, directory, events, restore, table } = yield* serveArchive({
          url: server.url,
          options: { schema: "public" }
        })
        yield* events.append(shapes(520))
        const all = yield* events.load()
        for (let round = 0; round < 12; round++) {
          const moving = yield* Effect.forkChild(
            Effect.exit(round % 3 === 2 ? Effect.asVoid(restore(100n)) : Effect.asVoid(archive(500n))),
            { startImmediately: true }
          )
          yield* Effect.sleep(randomInt(10, 250))
          yield* round % 2 === 0 ? server.kill : server.stop("immediate")
          yield* server.start
          yield* Fiber.join(moving)
          const archived = yield* query(`SELECT name FROM ${table}_archives ORDER BY first_version`, server.url)
          const filed: Array<bigint> = []
          for (const [name] of archived) filed.push(...(yield* versionsOf(directory, String(name))))
          assert.deepStrictEqual(
            [...filed, ...(yield* versionsIn(table, "true", server.url))],
            all.map(({ version }) => version)
          )
          assert.deepStrictEqual(yield* Effect.retry(events.load(), { times: 100 }), all)
        }
        yield* archive(500n)
        yield* restore()
        assert.deepStrictEqual(yield* events.load(), all)
      }).pipe(Effect.scoped)
  )

  it.live(
    "and recovered to a time before the archive has its events in the table, and archives them again beside the other log's",
    () =>
      Effect.gen(function* () {
        const primary = yield* PostgresServer.make()
        const stores = yield* serveArchive({ url: primary.url, options: { schema: "public" } })
        const { archive, directory, events } = stores
        yield* events.append(shapes(170))
        const before = yield* events.load()
        const backup = yield* temporaryDirectory
        yield* primary.stop("fast")
        yield* Effect.promise(() => run("cp", ["-a", `${primary.dataDir}/.`, backup]))
        yield* primary.start
        const [first, second, third] = (yield* Effect.retry(archive(150n), { times: 100 })).parts
        assert.isDefined(third)
        const copy = yield* PostgresServer.make({
          from: {
            password: new URL(primary.url).password,
            fill: (dataDir) => Effect.promise(() => run("cp", ["-a", `${backup}/.`, dataDir]))
          }
        })
        const recovered = yield* serveEvents({ url: copy.url, options: { schema: "public" } })
        assert.deepStrictEqual(yield* recovered.events.load(), before)
        yield* execute(["DELETE FROM events WHERE version = 60"], copy.url)
        const other = archiving(recovered, EventArchive.layerDirectory(directory))
        const [again, changed] = (yield* other.archive(100n)).parts
        assert.strictEqual(again?.name, first?.name)
        assert.notStrictEqual(changed?.name, second?.name)
        assert.lengthOf(yield* files(directory), 4)
        assert.deepStrictEqual(yield* events.load(), before)
      }).pipe(Effect.scoped)
  )
})

describe("a part", () => {
  it.live("is restored once by two at the same time, and archived again under another name where it has changed", () =>
    Effect.gen(function* () {
      const stores = yield* serveArchive()
      const { archive, directory, events, table } = stores
      const { Archive } = Postgres
      const restore = Effect.provide(Archive.restore(), stores.layer)
      yield* events.append(shapes(220))
      const all = yield* events.load()
      const before = (yield* archive(200n)).parts
      const both = yield* Effect.all([restore, restore], { concurrency: "unbounded" })
      assert.lengthOf(both.flat(), 4)
      assert.lengthOf(new Set(both.flat().map(({ name }) => name)), 4)
      assert.deepStrictEqual(yield* restore, [])
      assert.deepStrictEqual(yield* events.load(), all)
      yield* execute([`DELETE FROM ${table} WHERE version = 60`])
      const after = (yield* archive(200n)).parts
      assert.deepStrictEqual(
        after.map(({ name }, index) => name === before[index]?.name),
        [true, false, true, true]
      )
      assert.lengthOf(yield* files(directory), 5)
      const left = all.filter(({ version }) => version !== 60n)
      assert.deepStrictEqual(yield* events.load(), left)
      assert.isTrue(Exit.isFailure(yield* Effect.exit(events.get(all[59]?.id ?? ""))))
      yield* restore
      assert.deepStrictEqual(yield* events.load(), left)
    }).pipe(Effect.scoped)
  )
})
