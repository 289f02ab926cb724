/**
 * What is archived, restored or dropped between two looks of one reader: nothing is passed, given twice, or waited for without
 * an end.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Option, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import { readdir, readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { gunzipSync, gzipSync } from "node:zlib"
import * as ArchivedEnd from "../../src/postgres/events/ArchivedEnd.ts"
import type { ReadBackward } from "../../src/postgres/events/BackwardReading.ts"
import { lineOf } from "../../src/postgres/events/EventLines.ts"
import * as Exporting from "../../src/postgres/events/Exporting.ts"
import * as Importing from "../../src/postgres/events/Importing.ts"
import * as Reading from "../../src/postgres/events/Reading.ts"
import { temporaryDirectory } from "../cli/harness.ts"
import { serveArchive, shapes } from "./archive.harness.ts"
import { event, follow } from "./events.harness.ts"
import { execute, failsWith } from "./harness.ts"

const { EventArchive, PostgresDatabase } = Postgres

/** Files before whose reading something is done, once. */
const hookedFiles = Effect.gen(function* () {
  const within = EventArchive.makeDirectory(yield* temporaryDirectory)
  let first: Effect.Effect<unknown, unknown> = Effect.void
  const before = Effect.suspend(() => {
    const now = first
    first = Effect.void
    return Effect.ignore(now)
  })
  return {
    beforeReading: (effect: Effect.Effect<unknown, unknown>) => void (first = effect),
    files: Layer.succeed(EventArchive.EventArchive, {
      ...within,
      read: (name) => Stream.unwrap(Effect.as(before, within.read(name)))
    })
  }
})

describe("a reader from the last event on", () => {
  it.live("passes nothing where parts move between a page and the look for the part below it", () =>
    Effect.gen(function* () {
      const { archive, events, layer, restore } = yield* serveArchive()
      yield* events.append(shapes(220))
      const all: ReadonlyArray<unknown> = yield* events.load()
      const { backward, readBackward } = yield* Effect.provide(Reading.make, layer)
      const moves: ReadonlyArray<
        readonly [begin: Effect.Effect<unknown, unknown>, move: Effect.Effect<unknown, unknown>]
      > = [
        [archive(200n), restore(150n)],
        [archive(200n), restore(100n)],
        [archive(200n), restore()],
        [archive(100n), archive(200n)],
        [archive(100n), Effect.andThen(restore(), archive(50n))]
      ]
      for (const [begin, move] of moves) {
        for (let page = 1; page <= 6; page++) {
          yield* begin
          let pages = 0
          const readRows: ReadBackward = (filter, range) =>
            Effect.tap(readBackward(filter, range), () =>
              Effect.suspend(() => (++pages === page ? Effect.orDie(move) : Effect.void))
            )
          const found = yield* Stream.runCollect(backward({ direction: "backward", batchSize: 30 }, readRows))
          assert.deepStrictEqual(found, all.toReversed())
          yield* restore()
        }
      }
    }).pipe(Effect.scoped)
  )
})

describe("a reader of files", () => {
  it.live("goes on with the table where a part is restored before its file is read", () =>
    Effect.gen(function* () {
      const { beforeReading, files } = yield* hookedFiles
      const stores = yield* serveArchive({}, files)
      const { archive, events, layer, restore } = stores
      yield* events.append(shapes(220))
      const [old] = yield* events.load()
      const exported = Effect.provide(Effect.flatMap(Exporting.settledPages(0n), Stream.runCollect), layer)
      const reads: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
        events.load(),
        events.load(60n),
        Stream.runCollect(events.read({ tags: ["every fifth"], batchSize: 3 })),
        Stream.runCollect(events.read({ direction: "backward", batchSize: 30 })),
        events.loadByAggregate("aggregate 3"),
        events.get(old?.id ?? ""),
        Effect.map(events.readForDecision([{ tags: ["tag 1"] }]), ({ events }) => events),
        Effect.map(exported, (pages) => pages.flat().map(lineOf))
      ]
      for (const read of reads) {
        const before = yield* read
        for (const from of [150n, 100n, 0n]) {
          yield* archive(200n)
          beforeReading(restore(from))
          assert.deepStrictEqual(yield* read, before)
          yield* restore()
        }
      }
    }).pipe(Effect.scoped)
  )

  it.live("gives a part of more events than it keeps at a time, from the last one on", () =>
    Effect.gen(function* () {
      const { archive, events, table } = yield* serveArchive({ options: { partitions: { size: 25_000n } } })
      const count = 25_100
      yield* execute([
        `INSERT INTO ${table} (id, aggregate_id, event_type, data) SELECT 'event ' || n, 'a', 'T', '{}'
         FROM generate_series(1, ${count}) AS n`
      ])
      assert.lengthOf((yield* archive(25_000n)).parts, 1)
      const found = yield* Stream.runCollect(events.read({ direction: "backward" }))
      assert.deepStrictEqual(
        found.map(({ version }) => Number(version)),
        Array.from({ length: count }, (_, n) => count - n)
      )
    }).pipe(Effect.scoped)
  )

  it.live(
    "begins anew where the statements of a page, of which a row is too long for one, lie before and after a move",
    () =>
      Effect.gen(function* () {
        const { layer } = yield* serveArchive()
        const { split } = ArchivedEnd.make(yield* Effect.provide(PostgresDatabase.PostgresDatabase, layer))
        const row = (version: bigint | null, archivedEnd: bigint) => ({ version, archivedEnd })
        const rows = [row(50n, 50n), row(51n, 50n)]
        assert.deepStrictEqual(yield* split(rows), { rows, end: 50n })
        assert.deepStrictEqual(yield* split([row(null, 50n)]), { rows: [], end: 50n })
        assert.strictEqual(yield* Effect.flip(split([row(50n, 50n), row(51n, 100n)])), ArchivedEnd.moved)
      }).pipe(Effect.scoped)
  )

  it.live(
    "gives no event of a page that has changed since the file was read, though the rest of the file comes later",
    () =>
      Effect.gen(function* () {
        const { archive, directory, events, table } = yield* serveArchive({ options: { partitions: { size: 5000n } } })
        yield* execute([
          `INSERT INTO ${table} (id, aggregate_id, event_type, data)
         SELECT 'event ' || n, 'a', 'T', to_jsonb(string_agg(md5(n || ' ' || part), '')) FROM generate_series(1, 5100) AS n,
           generate_series(1, 16) AS part GROUP BY n ORDER BY n`
        ])
        yield* archive(5000n)
        assert.lengthOf(yield* events.load(), 5100)
        const [name = ""] = yield* Effect.promise(() => readdir(directory))
        const path = join(directory, name)
        const text = gunzipSync(yield* Effect.promise(() => readFile(path))).toString()
        yield* Effect.promise(() => writeFile(path, gzipSync(text.replace('"event 7"', '"event x"'))))
        const says = /has changed since it was read before; bring it back from a copy$/
        yield* failsWith(Stream.runCollect(events.read({ limit: 1 })), "EventStore.read", "Unexpected", says)
        yield* failsWith(events.get("event 7"), "EventStore.get", "Unexpected", says)
      }).pipe(Effect.scoped)
  )
})

describe("an append of what is archived already", () => {
  it.live("gives what is stored where its part is restored before its file is read", () =>
    Effect.gen(function* () {
      const { beforeReading, files } = yield* hookedFiles
      const { archive, events, restore } = yield* serveArchive({}, files)
      const own = event("old", "own")
      const stored = yield* events.append(own)
      yield* events.append(shapes(120))
      const again = events.append(own, { onDuplicate: "ignore" })
      const mixed = Effect.map(events.append([own, event("new")], { onDuplicate: "ignore" }), (all) => all.slice(0, 1))
      for (const append of [again, mixed]) {
        yield* archive(100n)
        beforeReading(restore())
        assert.deepStrictEqual(yield* append, stored)
      }
      yield* archive(100n)
      beforeReading(restore())
      const other = yield* Effect.flip(events.append({ ...own, data: "another" }, { onDuplicate: "ignore" }))
      assert.strictEqual(other._tag, "DuplicateEvent")
    }).pipe(Effect.scoped)
  )
})

/** An event without tags as an import has it. */
const entryOf = (given: ReturnType<typeof event>) => {
  const json = JSON.stringify({ data: given.data, metadata: null })
  return { ...given, id: given.id ?? "", where: "here", from: undefined, createdAt: null, tags: [], json }
}

describe("a look for what an import would leave out", () => {
  it.live("finds what is archived while it reads the file of another part", () =>
    Effect.gen(function* () {
      const { beforeReading, files } = yield* hookedFiles
      const { archive, events, layer } = yield* serveArchive({}, files)
      const all = Array.from({ length: 120 }, (_, n) => event("a", `event ${n + 1}`))
      yield* events.append(all)
      yield* archive(50n)
      const { look } = yield* Effect.provide(Importing.make, layer)
      beforeReading(archive(100n))
      const found = yield* look(all.map(entryOf))
      assert.deepStrictEqual(
        all.map(({ id = "" }) => found.get(id)?.version),
        all.map((_, n) => BigInt(n + 1))
      )
    }).pipe(Effect.scoped)
  )
})

describe("partitions that somebody has dropped", () => {
  /** Partitions of 50 versions of which the archived ones begin at 0 and at 100, or only there, and those between are dropped. */
  const places = [
    ["below, of which nothing is archived", false, 0],
    ["between archived parts", true, 50]
  ] as const

  it.live.each(places)("%s are passed by every read, and their ids stay taken", ([, isFirstKept, first]) =>
    Effect.gen(function* () {
      const stores = yield* serveArchive()
      const { archive, events, layer, restore, table } = stores
      yield* events.append(
        Array.from({ length: 220 }, (_, n) => ({ ...event(`a${n % 7}`, `event ${n + 1}`), tags: [`t${n % 2}`] }))
      )
      const all = yield* events.load()
      const whole = yield* follow(stores, { after: "start" })
      yield* whole.until(220n)
      const last = all.find(({ version }) => version === BigInt(first + 40))
      if (isFirstKept) yield* archive(50n)
      const droppedTables = (isFirstKept ? [50] : [0, 50]).map((begin) => `DROP TABLE ${table}_${begin}`)
      yield* execute(droppedTables)
      assert.isAbove((yield* archive(200n)).parts.length, 1)
      const kept = all.filter(({ version }) => version >= 100n || (isFirstKept && version < 50n))
      const importing = yield* Effect.provide(Importing.make, layer)
      const check = Effect.gen(function* () {
        assert.deepStrictEqual(yield* events.load(), kept)
        assert.deepStrictEqual(yield* Stream.runCollect(events.read({ batchSize: 7 })), kept)
        for (const after of [10n, 49n, 60n, 99n]) {
          assert.deepStrictEqual(
            yield* events.load(after),
            kept.filter(({ version }) => version > after)
          )
        }
        assert.deepStrictEqual(
          yield* Stream.runCollect(events.read({ direction: "backward", batchSize: 30 })),
          kept.toReversed()
        )
        assert.deepStrictEqual(
          yield* Stream.runCollect(events.read({ direction: "backward", tags: ["t1"] })),
          kept.filter(({ version }) => version % 2n === 0n).toReversed()
        )
        assert.deepStrictEqual(
          yield* events.loadByAggregate("a3"),
          kept.filter(({ aggregateId }) => aggregateId === "a3")
        )
        const decided = yield* events.readForDecision([{ eventTypes: ["Happened"] }])
        assert.deepStrictEqual(decided.events, kept)
        const lines = yield* Effect.provide(Effect.flatMap(Exporting.settledPages(0n), Stream.runCollect), layer)
        assert.deepStrictEqual(
          lines.flat().map(({ version }) => version),
          kept.map(({ version }) => version)
        )
        const reader = yield* follow(stores, { after: "start" })
        yield* reader.until(220n)
        assert.deepStrictEqual(
          reader.seen,
          kept.map(({ version }) => version)
        )
        for (const { id, version } of all) {
          const found = yield* Effect.option(events.get(id))
          assert.strictEqual(
            Option.isSome(found),
            kept.some((event) => event.version === version)
          )
        }
        const gone = event("new", `event ${first + 10}`)
        for (const onDuplicate of ["fail", "ignore"] as const) {
          const taken = yield* Effect.flip(events.append(gone, { onDuplicate }))
          assert.strictEqual(taken._tag, "DuplicateEvent")
        }
        const entry = entryOf(gone)
        yield* Effect.flip(importing.write([entry]))
        assert.strictEqual((yield* importing.look([entry])).size, 0)
      })
      yield* check
      // A reader whose last event was dropped goes on behind it.
      if (last !== undefined) {
        assert.deepStrictEqual(
          yield* events.load({ version: last.version, id: last.id }),
          kept.filter(({ version }) => version > last.version)
        )
      }
      yield* restore(150n)
      yield* check
      yield* restore()
      yield* check
      assert.strictEqual(whole.seen.length, 220)
    }).pipe(Effect.scoped)
  )
})
