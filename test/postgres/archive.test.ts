/** Parts of a log go to files, and come back as they were: nothing is detached before its file is verified. */
import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, Fiber, Latch, Layer, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import { createHash } from "node:crypto"
import { readdir, readFile, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { gunzipSync, gzipSync } from "node:zlib"
import { fails, jsonLines, start, strata, succeeds, temporaryDirectory } from "../cli/harness.ts"
import { postgresUrl } from "../support/database.ts"
import {
  event,
  plainInsert,
  serveEvents,
  type ServedEvents,
  session,
  untilBlocked,
  versionsIn
} from "./events.harness.ts"
import { execute, freshRole, query } from "./harness.ts"

const { Archive, EventArchive, PostgresDatabase } = Postgres

const size = 50n
const options = { partitions: { size } }

/** What archives and restores parts of these stores' log, by this archive. */
const movers = Effect.fnUntraced(function* (
  { context, schema }: ServedEvents,
  archive: Layer.Layer<Postgres.EventArchive.EventArchive>
) {
  const database = Layer.provide(PostgresDatabase.layer({ schema }), Layer.succeedContext(context))
  const services = yield* Layer.build(Layer.merge(database, archive))
  return {
    archive: (before: Postgres.Archive.Before, tell?: Postgres.Archive.Tell) =>
      Effect.provideContext(Archive.archive({ before, ...(tell === undefined ? {} : { tell }) }), services),
    restore: (settings?: Postgres.Archive.RestoreOptions) => Effect.provideContext(Archive.restore(settings), services),
    parts: Effect.provideContext(Archive.parts, services)
  }
})

/** A log with partitions, and a directory for its parts, for sessions with such parameters. */
const servedWith = Effect.fnUntraced(function* (startupParameters: Record<string, string>) {
  const stores = yield* serveEvents({ options, client: { startupParameters } })
  const directory = yield* temporaryDirectory
  return {
    ...stores,
    ...(yield* movers(stores, EventArchive.layerDirectory(directory))),
    stores,
    directory,
    rows: rowsOf(stores.table),
    files: Effect.promise(async () => (await readdir(directory)).toSorted())
  }
})

const served = servedWith({})

/** Every column of every event, as texts, with the partition that it is in. */
const rowsOf = (table: string) =>
  query(`SELECT tableoid::regclass::text, event::text FROM ${table} AS event ORDER BY version`)

/** The versions of the lines of files. */
const versionsOf = (directory: string, names: ReadonlyArray<string>) =>
  Effect.promise(async () => {
    const files = await Promise.all(names.map((name) => readFile(join(directory, name))))
    return files.flatMap((file) =>
      [
        ...gunzipSync(file)
          .toString()
          .matchAll(/^{"version":"(\d+)"/gm)
      ].map(([, version = ""]) => BigInt(version))
    )
  })

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

describe("what is archived", () => {
  it.live("is not what is newer than a time, is not settled, or has the newest event, and the answer says so", () =>
    Effect.gen(function* () {
      const { archive, events, table } = yield* served
      yield* execute([
        `INSERT INTO ${table} (id, aggregate_id, event_type, data, created_at)
         SELECT n, 'a', 'Happened', '{}', '2020-01-01T00:00:00Z'::timestamptz + n * interval '1 day' FROM generate_series(1, 99) AS n`
      ])
      const time = (text: string) => DateTime.makeUnsafe(text)
      const says = (before: Postgres.Archive.Before) =>
        Effect.map(archive(before), ({ left, parts }) => `${parts.length}: ${left}`)
      assert.match(yield* says(time("2020-02-19T00:00:00Z")), /^0: .* version 0 up to 49, has an event of 2020-02-19/)
      assert.match(
        yield* says(time("2020-02-19T00:00:01Z")),
        /^1: .* version 50 up to 99, is not settled.* version 99$/
      )
      // The event that others may still commit.
      const other = yield* session()
      yield* other("BEGIN")
      yield* other(plainInsert(table, "late"))
      yield* events.append(event("a"))
      assert.match(yield* says(1000n), /^0: .* version 50 up to 99, is not settled/)
      yield* other("COMMIT")
      assert.match(yield* says(1000n), /^1: .* version 100 up to 149, is not settled/)
      yield* events.append(Array.from({ length: 60 }, () => event("a")))
      assert.match(yield* says(149n), /^0: .* version 100 up to 149, is not below version 149$/)
      assert.match(yield* says(150n), /^1: /)
    }).pipe(Effect.scoped)
  )

  it.live("is refused of a plain log, in a transaction, and of a table with columns that no file would have", () =>
    Effect.gen(function* () {
      const plain = yield* serveEvents()
      const directory = EventArchive.layerDirectory(yield* temporaryDirectory)
      const refusal = <A, E>(effect: Effect.Effect<A, E>) => Effect.map(Effect.flip(effect), String)
      assert.match(
        yield* refusal((yield* movers(plain, directory)).archive(1n)),
        /ArchiveRefused: only a log with partitions/
      )
      const { archive, parts, restore, table, withTransaction } = yield* served
      for (const move of [Effect.asVoid(archive(1n)), Effect.asVoid(restore())]) {
        assert.match(yield* refusal(withTransaction(move)), /ArchiveRefused: .* not in one of the caller/)
      }
      yield* execute([`ALTER TABLE ${table} ADD region TEXT`])
      assert.match(yield* refusal(archive(1n)), /ArchiveRefused: .* has a column .*, region: drop it/)
      assert.deepStrictEqual(yield* parts, [])
    }).pipe(Effect.scoped)
  )

  it.live("is refused to a role that does not own the log", () =>
    Effect.gen(function* () {
      const { directory, schema, table } = yield* served
      const { role, url } = yield* freshRole()
      yield* execute([
        `GRANT USAGE ON SCHEMA ${schema} TO ${role}`,
        `GRANT SELECT ON ALL TABLES IN SCHEMA ${schema} TO ${role}`,
        `GRANT USAGE ON SEQUENCE ${table}_version_seq TO ${role}`
      ])
      const args = ["archive", "--before", "1", "--dir", directory, "--schema", schema]
      yield* fails(args, 1, /archived and restored by its owner/, { url })
    }).pipe(Effect.scoped)
  )

  it.live("is seen by a role that has what strata grants prints, where the log has partitions", () =>
    Effect.gen(function* () {
      const { role } = yield* freshRole()
      const grants = (schema: string) => succeeds(["grants", role, "--schema", schema], { url: postgresUrl })
      const { schema } = yield* served
      for (const table of ["archives", "archived"]) {
        assert.match(yield* grants(schema), new RegExp(`^GRANT SELECT ON .*events_${table} TO `, "m"))
      }
      assert.notMatch(yield* grants((yield* serveEvents()).schema), /events_archive/)
    }).pipe(Effect.scoped)
  )
})

describe("no part is detached", () => {
  /** Appends two partitions and more, and gives an archive whose file is another one when it is read. */
  const changing = Effect.fnUntraced(function* (change: (file: Uint8Array) => ReadonlyArray<Uint8Array>) {
    const found = yield* served
    yield* found.events.append(shapes(120))
    const within = EventArchive.makeDirectory(found.directory)
    const layer = Layer.succeed(EventArchive.EventArchive, {
      ...within,
      read: (name) =>
        Stream.flatMap(Stream.fromEffect(whole(within.read(name))), (file) => Stream.fromArray(change(file)))
    })
    return { ...found, ...(yield* movers(found.stores, layer)) }
  })

  const whole = (bytes: Stream.Stream<Uint8Array, Postgres.EventArchive.ArchiveError>) =>
    Effect.map(Stream.runCollect(bytes), (chunks) => Buffer.concat(chunks))

  const lines = (file: Uint8Array) => gunzipSync(file).toString().split("\n")

  const changes = {
    "that ends too early": (file: Uint8Array) => [file.subarray(0, file.length - 20)],
    "that is empty": () => [],
    "with a bit that has flipped": (file: Uint8Array) => [file.map((byte, at) => (at === 200 ? byte ^ 1 : byte))],
    "with an event that is missing": (file: Uint8Array) => [gzipSync(lines(file).toSpliced(7, 1).join("\n"))],
    "without its checksum": (file: Uint8Array) => [gzipSync(lines(file).toSpliced(-2, 1).join("\n"))],
    "of other events with their checksum": (file: Uint8Array) => {
      const events = lines(file)
        .slice(0, -2)
        .map((line) => `${line.replace("aggregate 1", "aggregate 2")}\n`)
      const sha256 = createHash("sha256").update(events.join("")).digest("hex")
      return [gzipSync(`${events.join("")}${JSON.stringify({ events: events.length, sha256 })}\n`)]
    }
  }

  it.live.each(Object.entries(changes))("whose file comes back as one %s", ([, change]) =>
    Effect.gen(function* () {
      const { archive, parts, rows } = yield* changing(change)
      const before = yield* rows
      const error = yield* Effect.flip(archive(1000n))
      assert.strictEqual(error._tag, "ArchiveError")
      assert.match(error.message, /^the archive file events-0+-0+50-\w{16}\.jsonl\.gz .*; bring it back from a copy$/)
      assert.deepStrictEqual(yield* parts, [])
      assert.deepStrictEqual(yield* rows, before)
    }).pipe(Effect.scoped)
  )

  it.live("with an event that its line cannot say", () =>
    Effect.gen(function* () {
      const { archive, events, parts, rows, table } = yield* served
      yield* execute([
        `INSERT INTO ${table} (id, aggregate_id, event_type, data, created_at) VALUES ('old', 'a', 'Old', '{}', '0044-03-15 BC')`
      ])
      yield* events.append(shapes(120))
      const before = yield* rows
      assert.match(String(yield* Effect.flip(archive(1000n))), /ArchiveRefused: version 1 cannot be archived/)
      assert.deepStrictEqual(yield* parts, [])
      assert.deepStrictEqual(yield* rows, before)
    }).pipe(Effect.scoped)
  )

  it.live("whose archive fails, and a part that is archived stays so if it cannot be read", () =>
    Effect.gen(function* () {
      const { archive, directory, events, files, parts, restore, rows, stores } = yield* served
      yield* events.append(shapes(120))
      const before = yield* rows
      const nowhere = yield* movers(stores, EventArchive.layerDirectory(join(directory, "none")))
      const failed = yield* Effect.flip(nowhere.archive(50n))
      assert.strictEqual(failed._tag, "ArchiveError")
      assert.deepStrictEqual(yield* rows, before)
      const [part] = (yield* archive(50n)).parts
      const path = join(directory, part?.name ?? "")
      const file = yield* Effect.promise(() => readFile(path))
      yield* Effect.promise(() => writeFile(path, file.subarray(0, 300)))
      const damaged = yield* Effect.flip(restore())
      assert.strictEqual(damaged._tag === "ArchiveError" ? damaged.reason : damaged, "Damaged")
      yield* Effect.promise(() => rm(path))
      const missing = yield* Effect.flip(restore())
      assert.strictEqual(missing._tag === "ArchiveError" ? missing.reason : missing, "Missing")
      assert.lengthOf(yield* parts, 1)
      assert.deepStrictEqual(yield* rows, before.slice(49))
      assert.deepStrictEqual(yield* files, [])
      yield* Effect.promise(() => writeFile(path, file))
      yield* restore()
      assert.deepStrictEqual(yield* rows, before)
    }).pipe(Effect.scoped)
  )
})

describe("beside others", () => {
  it.live("appends go on while parts are archived and restored, and each event is in the table or in a file", () =>
    Effect.gen(function* () {
      const { archive, directory, events, parts, restore, table } = yield* served
      let isDone = false
      let count = 0
      const writer = (number: number) =>
        Effect.whileLoop({
          while: () => !isDone,
          body: () => events.append([event(`writer ${number}`), event("all")]),
          step: () => void (count += 2)
        })
      const writers = yield* Effect.forkScoped(
        Effect.all([1, 2, 3].map(writer), { concurrency: "unbounded", discard: true }),
        { startImmediately: true }
      )
      const mover = Effect.gen(function* () {
        while ((yield* parts).length < 6) yield* archive(10_000n)
        yield* restore({ from: 150n })
        while ((yield* parts).length < 9) yield* archive(10_000n)
      })
      yield* Effect.ensuring(
        mover,
        Effect.sync(() => void (isDone = true))
      )
      yield* Fiber.join(writers)
      const archived = yield* parts
      const live = yield* versionsIn(table)
      const filed = yield* versionsOf(
        directory,
        archived.map(({ name }) => name)
      )
      assert.strictEqual(filed.length + live.length, count)
      assert.deepStrictEqual(
        [...filed, ...live],
        [...new Set([...filed, ...live])].toSorted((a, b) => (a < b ? -1 : 1))
      )
      yield* restore()
      assert.lengthOf(yield* versionsIn(table), count)
    }).pipe(Effect.scoped)
  )

  const levels = ["read committed", "repeatable read", "serializable"]

  it.live.each(levels)("two that archive take turns, and archive each part once, in %s sessions", (level) =>
    Effect.gen(function* () {
      const { archive, events, parts, rows } = yield* servedWith({ default_transaction_isolation: level })
      yield* events.append(shapes(520))
      const both = yield* Effect.all([archive(1000n), archive(1000n)], { concurrency: "unbounded" })
      const done = both.flatMap(({ parts }) => parts.map(({ firstVersion }) => firstVersion))
      assert.lengthOf(done, 10)
      assert.lengthOf(new Set(done), 10)
      assert.lengthOf(yield* parts, 10)
      assert.lengthOf(yield* rows, 21)
    }).pipe(Effect.scoped)
  )

  it.live("what others do to events of a part is waited for, and nobody does anything to them later", () =>
    Effect.gen(function* () {
      const { applicationName, archive, directory, events, table } = yield* served
      yield* events.append(shapes(120))
      const other = yield* session()
      yield* other("BEGIN")
      yield* other(`DELETE FROM ${table} WHERE version = 7`)
      const archiving = yield* Effect.forkChild(archive(50n), { startImmediately: true })
      yield* untilBlocked(1, applicationName)
      yield* other("COMMIT")
      const { parts } = yield* Fiber.join(archiving)
      assert.strictEqual(parts[0]?.events, 48)
      assert.notInclude(yield* versionsOf(directory, [parts[0]?.name ?? ""]), 7n)
    }).pipe(Effect.scoped)
  )

  it.live.each(["archive", "restore"] as const)(
    "who reads the log keeps %s from being committed, and appends go on until the reader has ended",
    (what) =>
      Effect.gen(function* () {
        const stores = yield* served
        const { events, logged, parts, rows, table, watched } = stores
        yield* events.append(shapes(120))
        if (what === "restore") yield* stores.archive(50n)
        const before = yield* rows
        const reader = yield* session()
        yield* reader("BEGIN")
        yield* reader(`SELECT FROM ${table} LIMIT 1`)
        const moving = yield* Effect.forkChild(
          watched(what === "archive" ? Effect.asVoid(stores.archive(50n)) : Effect.asVoid(stores.restore())),
          {
            startImmediately: true
          }
        )
        const waits = Effect.repeat(Effect.delay(Effect.void, 10), {
          until: () => logged.some((text) => /lock of .* for a moment is held by another session/.test(text))
        })
        const ended = Effect.flatMap(Fiber.join(moving), () => Effect.die("it has not waited"))
        yield* Effect.raceFirst(waits, ended)
        // It tries again and again: each of these gets through.
        for (let n = 0; n < 5; n++) yield* events.append(event("a"))
        assert.lengthOf(yield* parts, what === "archive" ? 0 : 1)
        assert.lengthOf(yield* rows, before.length + 5)
        yield* reader("COMMIT")
        yield* Fiber.join(moving)
        assert.lengthOf(yield* parts, what === "archive" ? 1 : 0)
        assert.lengthOf(yield* rows, 125 - (what === "archive" ? 49 : 0))
      }).pipe(Effect.scoped)
  )
})

describe("a process that is killed", () => {
  it.live(
    "while it writes, while it verifies, or before the commit leaves the log as it was, and the next one goes on",
    () =>
      Effect.gen(function* () {
        const { archive, directory, events, files, parts, restore, rows, schema, table } = yield* served
        yield* events.append(shapes(120))
        const before = yield* rows
        for (const doing of ["writing", "verifying"] as const) {
          const reached = yield* Latch.make()
          const stopped = yield* Effect.forkChild(
            archive(100n, (progress) =>
              progress.doing === doing ? Effect.andThen(reached.open, Effect.never) : Effect.void
            )
          )
          yield* reached.await
          yield* Fiber.interrupt(stopped)
          assert.deepStrictEqual(yield* rows, before)
          assert.deepStrictEqual(yield* parts, [])
          assert.lengthOf(yield* files, doing === "writing" ? 0 : 1)
        }
        // Somebody reads the log, so the process has done all but the last statements.
        const reader = yield* session()
        yield* reader("BEGIN")
        yield* reader(`SELECT FROM ${table} LIMIT 1`)
        const options = { url: postgresUrl, env: { DB_ARCHIVE_DIR: directory } }
        const args = ["archive", "--before", "100", "--schema", schema]
        const killed = yield* start(args, { ...options, input: "" })
        yield* killed.says(/for a moment is held by another session/)
        killed.child.kill("SIGKILL")
        yield* killed.ended
        yield* reader("COMMIT")
        assert.deepStrictEqual(yield* rows, before)
        assert.deepStrictEqual(yield* parts, [])
        const [file] = yield* files
        assert.match(
          yield* succeeds(args, options),
          /^2 parts with 99 events archived; no more, as the next part, from version 100/
        )
        assert.deepStrictEqual(
          (yield* parts).map(({ name }) => name),
          yield* files
        )
        assert.strictEqual((yield* files)[0], file)
        assert.match(
          yield* succeeds(["archives", "--schema", schema], options),
          /^ *FROM .*\n +0 +49 +49 .*\n +50 +99 +50 /
        )
        assert.match(
          yield* succeeds(["restore", "--from", "60", "--schema", schema], options),
          /^1 part with 50 events restored/
        )
        assert.deepStrictEqual(yield* rows, before.slice(49))
        yield* restore()
        assert.deepStrictEqual(yield* rows, before)
      }).pipe(Effect.scoped)
  )
})

describe("strata doctor and strata status", () => {
  it.live("say what is archived, which file is missing or damaged, and that no archive is given", () =>
    Effect.gen(function* () {
      const { archive, directory, events, schema, table } = yield* served
      yield* events.append(shapes(120))
      const found = (...args: ReadonlyArray<string>) =>
        Effect.map(
          strata(["doctor", "--json", "--schema", schema, ...args], {
            url: postgresUrl,
            env: { DB_ARCHIVE_DIR: directory }
          }),
          ({ stdout }) =>
            jsonLines(stdout).flatMap(({ check, level, says }) =>
              String(check).startsWith("archive") ? [`${check}: ${level}: ${says}`] : []
            )
        )
      const status = Effect.map(
        strata(["status", "--schema", schema], { url: postgresUrl }),
        ({ stdout }) => /^archive +(.*)$/m.exec(stdout)?.[1]
      )
      assert.deepStrictEqual(yield* found(), [])
      assert.isUndefined(yield* status)
      const [first, second] = (yield* archive(100n)).parts
      assert.deepStrictEqual(yield* found("--prove", "--for", "10ms"), [
        "archive: ok: all below version 100: 99 events in 2 files, which are there",
        "archive proof: ok: 2 files with the checksums that were written down"
      ])
      assert.strictEqual(yield* status, "all below version 100: 99 events in 2 files")
      const path = join(directory, second?.name ?? "")
      const file = yield* Effect.promise(() => readFile(path))
      yield* Effect.promise(() => writeFile(path, file.subarray(0, 300)))
      yield* Effect.promise(() => rm(join(directory, first?.name ?? "")))
      const [missing, ofFirst, ofSecond] = yield* found("--prove", "--for", "10ms")
      assert.match(missing ?? "", /^archive: problem: 49 events of the versions 0 to 49 cannot be read: ENOENT/)
      assert.match(ofFirst ?? "", /^archive proof: problem: 49 events .*ENOENT/)
      assert.match(ofSecond ?? "", /^archive proof: problem: 50 events .* versions 50 to 99 .* cannot be uncompressed/)
      const { stdout } = yield* strata(["doctor", "--schema", schema], { url: postgresUrl })
      assert.match(stdout, /^problem +archive +2 parts of the log are archived, and no archive is given here/m)
      // Somebody brings events back by hand.
      yield* Effect.promise(() => writeFile(path, file))
      yield* execute([
        `CREATE TABLE ${table}_twice (LIKE ${table} INCLUDING ALL)`,
        `INSERT INTO ${table}_twice (version, id, aggregate_id, event_type) VALUES (60, 'twice', 'a', 'A')`,
        `ALTER TABLE ${table} ATTACH PARTITION ${table}_twice FOR VALUES FROM (50) TO (100)`
      ])
      assert.match((yield* found())[0] ?? "", /^archive: problem: version 60 is in the table, and everything below/)
    }).pipe(Effect.scoped)
  )
})
