/** A log whose oldest parts are archived keeps every promise of one that has all in the table. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer, Option, Redacted, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import { readdir, readFile, rename, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { gunzipSync, gzipSync } from "node:zlib"
import * as LastSeen from "../../src/events/LastSeen.ts"
import { lineOf } from "../../src/postgres/events/EventLines.ts"
import * as Exporting from "../../src/postgres/events/Exporting.ts"
import { versionOf } from "../../src/postgres/events/TailItems.ts"
import * as TailReader from "../../src/postgres/events/TailReader.ts"
import { temporaryDirectory } from "../cli/harness.ts"
import { postgresUrl } from "../support/database.ts"
import { afterwards, everything, serveArchive, shapes } from "./archive.harness.ts"
import { event, follow, plainInsert, serveEvents, session, versionsIn } from "./events.harness.ts"
import { execute, failsWith } from "./harness.ts"

const { EventArchive, PostgresDatabase } = Postgres

/** Stores that find the files, and others that do not. */
const served = Effect.gen(function* () {
  const stores = yield* serveArchive()
  return { ...stores, without: yield* serveEvents({ options: { schema: stores.schema } }) }
})

describe("archived events", () => {
  it.live("are read as they were, in order, by every kind of read", () =>
    Effect.gen(function* () {
      const stores = yield* served
      const { archive, events, layer, restore, table } = stores
      yield* events.append(shapes(60))
      yield* execute([
        `INSERT INTO ${table} (id, aggregate_id, event_type, data, metadata, created_at)
         SELECT 'plain ' || n, 'aggregate ' || n % 7, 'Plain', NULL, 'null', '1999-12-31T23:59:59.9990005Z'::timestamptz + n * interval '1 ms'
         FROM generate_series(1, 20) AS n`
      ])
      yield* events.append(shapes(80))
      const before = yield* everything(stores)
      const exported = Effect.map(
        Effect.provide(Effect.flatMap(Exporting.settledPages(3n), Stream.runCollect), layer),
        (pages) => pages.flat().map(lineOf)
      )
      const lines = yield* exported
      assert.lengthOf(lines, 157)
      assert.lengthOf((yield* archive(60n)).parts, 1)
      assert.deepStrictEqual(yield* everything(stores), before)
      assert.lengthOf((yield* archive(150n)).parts, 2)
      assert.deepStrictEqual(yield* everything(stores), before)
      assert.deepStrictEqual(yield* exported, lines)
      yield* restore(100n)
      assert.deepStrictEqual(yield* everything(stores), before)
      yield* restore()
      assert.deepStrictEqual(yield* everything(stores), before)
    }).pipe(Effect.scoped)
  )

  it.live("are given once where their part is archived, or restored, between two pages of a reader", () =>
    Effect.gen(function* () {
      const { archive, events, restore } = yield* served
      yield* events.append(shapes(220))
      const all: ReadonlyArray<unknown> = yield* events.load()
      const changes = new Map<bigint, Effect.Effect<unknown, unknown>>([
        [5n, archive(50n)],
        [60n, archive(150n)],
        [75n, restore(100n)],
        [90n, archive(150n)],
        [120n, restore()],
        [160n, archive(200n)],
        [180n, restore(100n)]
      ])
      for (const query of [{ batchSize: 10 }, { batchSize: 1 }, { batchSize: 3, tags: ["every fifth"] }]) {
        const seen: Array<unknown> = []
        yield* Stream.runForEach(events.read(query), (event) => {
          seen.push(event)
          return changes.get(event.version) ?? Effect.void
        })
        const isTagged = (n: number) => n % 5 === 0
        assert.deepStrictEqual(seen, "tags" in query ? all.filter((_, n) => isTagged(n)) : all)
        yield* restore()
      }
      const backward: Array<unknown> = []
      yield* Stream.runForEach(events.read({ direction: "backward", batchSize: 10 }), (event) => {
        backward.push(event)
        return changes.get(event.version) ?? Effect.void
      })
      assert.deepStrictEqual(backward, all.toReversed())
    }).pipe(Effect.scoped)
  )

  it.live.each([-1, 0, 1, 25])(
    "are given once where a reader knew the log to be settled %i versions after the start of their part",
    (more) =>
      Effect.gen(function* () {
        const { archive, events, table } = yield* served
        yield* events.append(shapes(100 + more))
        assert.lengthOf(yield* events.load(), 100 + more)
        const later = yield* events.append(shapes(100))
        yield* archive(150n)
        // A read gives what it knows to be settled, and waits for a transaction before it decides about the rest.
        const run = yield* session()
        yield* run("BEGIN")
        yield* run(plainInsert(table, "open"))
        assert.deepStrictEqual((yield* events.load()).slice(100 + more), later)
        const rare = yield* Stream.runCollect(events.read({ eventTypes: ["Rare"] }))
        assert.lengthOf(rare, Math.ceil((100 + more) / 3) + 34)
      }).pipe(Effect.scoped)
  )

  it.live("reach subscribers from the start, once each, while parts are archived and restored, and others append", () =>
    Effect.gen(function* () {
      const stores = yield* served
      const { archive, events, restore, table } = stores
      yield* events.append(shapes(300))
      yield* archive(200n)
      const readers = [
        yield* follow(stores, { after: "start" }),
        yield* follow(stores, { after: "start", batchSize: 7 }),
        yield* follow(stores, { after: 77n })
      ]
      for (let round = 0; round < 4; round++) {
        yield* events.append(shapes(60))
        yield* archive(BigInt(250 + 60 * round))
        if (round === 1) yield* restore(150n)
      }
      const late = yield* follow(stores, { after: "start" })
      yield* restore()
      const [last = 0n] = (yield* versionsIn(table)).slice(-1)
      yield* Effect.forEach([...readers, late], ({ until }) => until(last))
      const versions = yield* versionsIn(table)
      for (const reader of [readers[0], readers[1], late]) assert.deepStrictEqual(reader?.seen, versions)
      assert.deepStrictEqual(
        readers[2]?.seen,
        versions.filter((version) => version > 77n)
      )
    }).pipe(Effect.scoped)
  )

  it.live("are what a cursor is compared with", () =>
    Effect.gen(function* () {
      const { archive, events } = yield* served
      const stored = yield* events.append(shapes(120))
      yield* archive(100n)
      for (const index of [0, 20, 48, 98]) {
        const { id, version } = stored[index] ?? { id: "", version: 0n }
        const found = yield* events.load({ version, id })
        assert.deepStrictEqual(found, stored.slice(index + 1))
        const other = yield* Effect.flip(events.load({ version, id: "another" }))
        assert.strictEqual(other._tag, "LogReplaced")
        yield* Stream.runCollect(events.read({ after: { version, id }, limit: 0 }))
      }
    }).pipe(Effect.scoped)
  )

  it.live("are missed by nobody whose program has no archive: what needs them fails, and says why", () =>
    Effect.gen(function* () {
      const { archive, events: all, without } = yield* served
      const [first] = yield* all.append(shapes(120))
      yield* archive(100n)
      const { events } = without
      assert.lengthOf(yield* events.load(99n), 21)
      assert.lengthOf(yield* Stream.runCollect(events.read({ direction: "backward", limit: 21 })), 21)
      assert.lengthOf(yield* events.loadByAggregate("aggregate 1", 99n), 3)
      yield* events.append({ ...event("aggregate 1"), id: "new" }, { expected: "some" })
      const says =
        /versions 0 to 49 .* are archived in the file events-.*, and this program has no archive: provide .*layerDirectory.* strata restore$/
      const fails = <A, E>(operation: string, read: Effect.Effect<A, E>) =>
        failsWith(read, `EventStore.${operation}`, "Unexpected", says)
      yield* fails("load", events.load())
      yield* fails("load", events.load(48n))
      yield* fails("read", Stream.runCollect(events.read({ batchSize: 1, limit: 1 })))
      yield* fails("subscribe", Stream.runCollect(Stream.take(events.subscribe({ after: "start" }), 1)))
      yield* fails("subscribe", Stream.runCollect(Stream.take(events.subscribe({ after: 30n }), 1)))
      yield* fails("loadByAggregate", events.loadByAggregate("aggregate 1"))
      yield* fails("get", events.get(first?.id ?? ""))
      yield* fails("readForDecision", events.readForDecision([{ tags: ["tag 1"] }]))
      yield* failsWith(
        Stream.runCollect(events.read({ direction: "backward" })),
        "EventStore.read",
        "Unexpected",
        /versions 50 to 99 .* no archive/
      )
      yield* fails("append", events.append({ ...event("aggregate 0"), id: first?.id ?? "" }, { onDuplicate: "ignore" }))
    }).pipe(Effect.scoped)
  )

  it.live("whose file is missing or damaged are given by nobody, nor what comes after them", () =>
    Effect.gen(function* () {
      const { archive, directory, events } = yield* served
      yield* events.append(shapes(120))
      yield* archive(100n)
      const [name = ""] = yield* Effect.promise(() => readdir(directory))
      const path = join(directory, name)
      const bytes = yield* Effect.promise(() => readFile(path))
      const seen: Array<unknown> = []
      const read = Stream.runForEach(events.read(), (event) => Effect.sync(() => seen.push(event)))
      for (const wrong of [bytes.subarray(0, -20), Buffer.concat([bytes.subarray(0, 300), bytes.subarray(320)])]) {
        yield* Effect.promise(() => writeFile(path, wrong))
        yield* failsWith(read, "EventStore.read", "Unexpected", /versions 0 to 49 .*bring it back from a copy$/)
      }
      yield* Effect.promise(() => rename(path, `${path}.gone`))
      yield* failsWith(read, "EventStore.read", "Unexpected", /versions 0 to 49 .*bring it back from a copy$/)
      assert.lengthOf(seen, 0)
      yield* Effect.promise(() => rename(`${path}.gone`, path))
      yield* Effect.promise(() => writeFile(path, bytes))
      yield* read
      assert.lengthOf(seen, 120)
    }).pipe(Effect.scoped)
  )

  it.live("whose file has changed since it was read are given by nobody, however few are asked for", () =>
    Effect.gen(function* () {
      const { archive, directory, events } = yield* served
      const [first, ...rest] = yield* events.append(shapes(120))
      yield* archive(100n)
      assert.lengthOf(yield* events.load(), 120)
      const [name = ""] = (yield* Effect.promise(() => readdir(directory))).toSorted()
      const path = join(directory, name)
      const bytes = yield* Effect.promise(() => readFile(path))
      const changed = gunzipSync(bytes).toString().replace('"aggregate 0"', '"aggregate 9"')
      const reads = [
        ["read", Stream.runCollect(events.read({ limit: 1 }))],
        ["read", Stream.runCollect(events.read({ after: 10n, limit: 1 }))],
        ["get", events.get(first?.id ?? "")],
        ["get", events.get(rest[9]?.id ?? "")],
        ["loadByAggregate", events.loadByAggregate("aggregate 0")],
        ["readForDecision", events.readForDecision([{ tags: ["tag 0"] }])],
        ["append", events.append({ ...event("aggregate 0"), id: first?.id ?? "" }, { onDuplicate: "ignore" })]
      ] as const
      for (const wrong of [gzipSync(changed), bytes.with(bytes.length >> 1, (bytes[bytes.length >> 1] ?? 0) ^ 1)]) {
        yield* Effect.promise(() => writeFile(path, wrong))
        for (const [operation, read] of reads) {
          const given: Effect.Effect<unknown, unknown> = read
          yield* failsWith(
            given,
            `EventStore.${operation}`,
            "Unexpected",
            /versions 0 to 49 .*bring it back from a copy$/
          )
        }
        assert.lengthOf(yield* events.load(49n), 71)
      }
      yield* Effect.promise(() => writeFile(path, bytes))
      assert.lengthOf(yield* events.load(), 120)
    }).pipe(Effect.scoped)
  )

  it.live("have their file read to its end once, whatever reads them", () =>
    Effect.gen(function* () {
      const within = EventArchive.makeDirectory(yield* temporaryDirectory)
      let opened = 0
      const files = Layer.succeed(EventArchive.EventArchive, {
        ...within,
        read: (name) =>
          Stream.suspend(() => {
            opened++
            return within.read(name)
          })
      })
      const { archive, events } = yield* serveArchive({}, files)
      const [first] = yield* events.append(shapes(120))
      yield* archive(50n)
      const id = first?.id ?? ""
      const reads: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
        events.load(),
        events.get(id),
        events.readForDecision([{ tags: ["tag 0"] }]),
        Effect.exit(events.append(event("aggregate 0", id), { onDuplicate: "ignore" }))
      ]
      opened = 0
      yield* Effect.forEach(reads, (read) => read)
      // Each of them opens the file for what it wants. Before that, the first one reads the whole.
      assert.strictEqual(opened, reads.length + 1)
    }).pipe(Effect.scoped)
  )

  it.live("are given by a process that has read their file before they were restored, tagged, and archived again", () =>
    Effect.gen(function* () {
      const { archive, directory, events, restore } = yield* serveArchive()
      const [first] = yield* events.append(shapes(120))
      if (first === undefined) return assert.fail("nothing was appended")
      const { id, version } = first
      const archiveAndRead = Effect.gen(function* () {
        yield* archive(50n)
        assert.lengthOf(yield* events.load(), 120)
        return yield* Effect.promise(() => readdir(directory))
      })
      const names = yield* archiveAndRead
      yield* restore()
      yield* events.tag([{ id, version, tags: ["late"] }])
      // The file has the name of the one before, as the rows are the same. Its lines have another tag.
      assert.deepStrictEqual(yield* archiveAndRead, names)
      assert.deepStrictEqual(yield* Stream.runCollect(events.read({ tags: ["late"] })), [first])
    }).pipe(Effect.scoped)
  )

  it.live("are found by the tags that they have got since, archived and restored", () =>
    Effect.gen(function* () {
      const { archive, events, restore } = yield* serveArchive()
      const [first] = yield* events.append(shapes(120))
      if (first === undefined) return assert.fail("nothing was appended")
      const { eventType, id, version } = first
      yield* archive(50n)
      yield* events.tag([{ id, version, tags: ["late"] }])
      for (const move of [Effect.void, restore()]) {
        yield* move
        assert.deepStrictEqual(yield* Stream.runCollect(events.read({ tags: ["late"] })), [first])
        const decided = yield* events.readForDecision([{ tags: ["late"], eventTypes: [eventType] }])
        assert.deepStrictEqual(decided.events, [first])
      }
    }).pipe(Effect.scoped)
  )

  it.live("are seen nowhere by a transaction whose snapshot is older: it fails, and says why", () =>
    Effect.gen(function* () {
      const stores = yield* served
      const { archive, events, restore } = stores
      const [first] = yield* events.append(shapes(120))
      const reads = [
        ["get", events.get(first?.id ?? "")],
        ["loadByAggregate", events.loadByAggregate("aggregate 1")],
        ["read", Stream.runCollect(events.read({ direction: "backward" }))]
      ] as const
      for (const [operation, read] of reads) {
        const given: Effect.Effect<unknown, unknown> = read
        const says = /archived since this transaction has begun.*READ COMMITTED$/
        yield* failsWith(afterwards(stores, archive(100n), given), `EventStore.${operation}`, "Unexpected", says)
        yield* restore()
      }
    }).pipe(Effect.scoped)
  )

  it.live("are missed by nothing else that such a transaction does: it has all of them, or fails", () =>
    Effect.gen(function* () {
      const stores = yield* served
      const { archive, events, restore } = stores
      const all = yield* events.append(shapes(120))
      const id = all[0]?.id ?? ""
      const whole = [
        [events.load(), all],
        [events.load(60n), all.slice(60)],
        [Stream.runCollect(events.read({ batchSize: 7 })), all]
      ] as const
      for (const [read, wanted] of whole) {
        const found = yield* Effect.result(afterwards(stores, archive(100n), read))
        assert.deepStrictEqual(found._tag === "Success" ? found.success : wanted, wanted)
        yield* restore()
      }
      for (const refused of [
        Effect.asVoid(events.readForDecision([{ tags: ["tag 1"] }])),
        Effect.asVoid(events.append(event("aggregate 1"), { expected: "none" })),
        Effect.asVoid(events.append({ ...event("aggregate 1"), id }))
      ]) {
        const given: Effect.Effect<void, unknown> = refused
        yield* Effect.flip(afterwards(stores, archive(100n), given))
        yield* restore()
      }
      assert.deepStrictEqual(yield* events.load(), all)
    }).pipe(Effect.scoped)
  )

  it.live("are not passed by the tail of the log where it stood still meanwhile: its subscribers read the files", () =>
    Effect.gen(function* () {
      const { archive, events, schema } = yield* served
      yield* events.append(shapes(80))
      for (const place of ["start", "end"]) {
        const [newest] = yield* Stream.runCollect(events.read({ direction: "backward", limit: 1 }))
        const before = LastSeen.of(place === "start" || newest === undefined ? 0n : newest)
        const pool = PgClient.layer({ url: Redacted.make(postgresUrl) })
        const context = yield* Layer.build(Layer.provide(PostgresDatabase.layer({ schema }), pool))
        const { query } = Context.get(context, PostgresDatabase.PostgresDatabase)
        const reader = yield* Effect.provide(TailReader.make, context)
        const last = newest?.version ?? 0n
        const resting = yield* Deferred.make<void>()
        const goOn = yield* Deferred.make<void>()
        const wait = () =>
          Effect.as(Effect.andThen(Deferred.succeed(resting, undefined), Deferred.await(goOn)), Option.none())
        const seen: Array<bigint> = []
        const publish: TailReader.Publish = (rows) => Effect.sync(() => seen.push(...rows.map(versionOf)))
        const reading = yield* Effect.forkChild(
          Effect.flip(reader({ query, wait, isHeard: () => false, again: false }, before, publish))
        )
        yield* Deferred.await(resting)
        yield* events.append(shapes(120))
        yield* archive(last + 70n)
        yield* Deferred.succeed(goOn, undefined)
        assert.strictEqual(yield* Fiber.join(reading), TailReader.replaced)
        assert.isTrue(seen.every((version) => version <= last))
      }
    }).pipe(Effect.scoped)
  )
})

describe("an append to a log with archived events", () => {
  it.live("expects what the aggregate has, archived or not", () =>
    Effect.gen(function* () {
      const { archive, events } = yield* served
      const [first] = yield* events.append(event("old"))
      yield* events.append(shapes(120))
      yield* archive(100n)
      const fails = (expected: "none" | bigint) =>
        Effect.map(Effect.flip(events.append(event("old"), { expected })), (error) => [
          error._tag,
          "actual" in error ? Option.getOrUndefined(error.actual) : undefined
        ])
      assert.deepStrictEqual(yield* fails("none"), ["VersionConflict", first?.version])
      assert.deepStrictEqual(yield* fails(77n), ["VersionConflict", first?.version])
      assert.strictEqual(
        (yield* Effect.flip(events.append(event("new"), { expected: "some" })))._tag,
        "VersionConflict"
      )
      yield* events.append(event("new"), { expected: "none" })
      const [second] = yield* events.append(event("old"), { expected: first?.version ?? 0n })
      yield* events.append(event("old"), { expected: second?.version ?? 0n })
      yield* events.append(event("old"), { expected: "some" })
      assert.lengthOf(yield* events.loadByAggregate("old"), 4)
    }).pipe(Effect.scoped)
  )

  it.live("finds the ids that are taken, and gives back what is stored under them", () =>
    Effect.gen(function* () {
      const { archive, events, withTransaction } = yield* served
      const data = { one: 1, two: [1.5, "\u202e"] }
      const own = { ...event("old", "own"), data, metadata: { by: "me" }, tags: ["tag"] }
      const stored = yield* events.append(own)
      yield* events.append(shapes(120))
      yield* archive(100n)
      const again = (change: object, isIgnored = true) =>
        events.append({ ...own, ...change }, isIgnored ? { onDuplicate: "ignore" } : {})
      const refused = (change: object, isIgnored = true) =>
        Effect.map(Effect.flip(again(change, isIgnored)), ({ _tag }) => _tag)
      assert.strictEqual(yield* refused({}, false), "DuplicateEvent")
      assert.strictEqual(yield* refused({ data: { one: 2 } }), "DuplicateEvent")
      assert.strictEqual(yield* refused({ metadata: { by: "you" } }), "DuplicateEvent")
      assert.strictEqual(yield* refused({ aggregateId: "new" }), "DuplicateEvent")
      assert.deepStrictEqual(yield* again({}), stored)
      assert.deepStrictEqual(yield* again({ data: { two: [1.5, "\u202e"], one: 1 } }), stored)
      assert.deepStrictEqual(yield* withTransaction(again({})), stored)
      const mixed = yield* events.append([event("x", "before"), own, event("x", "after")], {
        onDuplicate: "ignore",
        expected: { x: "none", old: "none" }
      })
      assert.deepStrictEqual(mixed.slice(1, 2), stored)
      assert.deepStrictEqual(
        mixed.map(({ id }) => id),
        ["before", "own", "after"]
      )
      const many = yield* Effect.all(
        [
          again({}),
          Effect.flip(again({ data: null })),
          events.append(event("y", "y")),
          events.append(event("z"), { expected: "none" })
        ],
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(many[0], stored)
      assert.strictEqual(many[1]._tag, "DuplicateEvent")
      assert.lengthOf(yield* events.loadByAggregate("y"), 1)
      assert.lengthOf(yield* events.loadByAggregate("old"), 1)
    }).pipe(Effect.scoped)
  )
})

describe("a decision upon archived events", () => {
  it.live("is made of them, and holds until something comes that it has not seen", () =>
    Effect.gen(function* () {
      const { archive, events, restore } = yield* served
      const tagged = (tag: string, eventType = "Happened") => ({ ...event("a"), eventType, tags: [tag] })
      yield* events.append([tagged("one"), tagged("one", "Other"), tagged("two")])
      yield* events.append(shapes(120))
      const one = [{ tags: ["one"] }]
      const typed = [{ tags: ["one"], eventTypes: ["Happened"] }]
      const rare = [{ eventTypes: ["Other"] }]
      const before = yield* events.readForDecision(one)
      yield* archive(100n)
      yield* events.append(event("free"), { condition: before.condition })
      for (const query of [one, typed, rare]) {
        const { condition, events: seen, items } = yield* events.readForDecision(query)
        assert.lengthOf(seen, query === rare ? 1 : 2)
        assert.lengthOf(items, seen.length)
        yield* events.append(event("free"), { condition })
        yield* events.append(tagged(query === rare ? "three" : "one", query === rare ? "Other" : "Happened"))
        const failed = yield* Effect.flip(events.append(event("free"), { condition }))
        assert.strictEqual(failed._tag, "ConditionFailed")
      }
      const now = yield* events.readForDecision(typed)
      yield* events.append(tagged("one", "Other"))
      yield* events.append(event("free"), { condition: now.condition })
      yield* restore()
      yield* events.append(event("free"), { condition: now.condition })
    }).pipe(Effect.scoped)
  )

  it.live("that was made before others appended what is archived by now is made again", () =>
    Effect.gen(function* () {
      const { archive, events } = yield* served
      const tagged = (tag: string) => ({ ...event("a"), tags: [tag] })
      yield* events.append(tagged("one"))
      const typed = [{ tags: ["one"], eventTypes: ["Happened"] }]
      const { condition } = yield* events.readForDecision(typed)
      yield* events.append(tagged("one"))
      yield* events.append(shapes(120))
      yield* archive(100n)
      const failed = yield* Effect.flip(events.append(event("free"), { condition }))
      assert.strictEqual(failed._tag, "ConditionFailed")
      assert.strictEqual("change" in failed ? failed.change : "", "archived")
      const again = yield* events.readForDecision(typed)
      assert.lengthOf(again.events, 2)
      yield* events.append(event("free"), { condition: again.condition })
    }).pipe(Effect.scoped)
  )
})
