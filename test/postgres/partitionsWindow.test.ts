/** A process that has looked at the log before it was divided takes it for a plain table for some seconds. No caller can tell. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Option, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import * as Exporting from "../../src/postgres/events/Exporting.ts"
import * as MarkedPages from "../../src/postgres/events/MarkedPages.ts"
import { temporaryDirectory } from "../cli/harness.ts"
import { postgresUrl } from "../support/database.ts"
import { archiving } from "./archive.harness.ts"
import { event, follow, plainInsert, serveEvents, type ServedEvents, versionsIn } from "./events.harness.ts"
import { freshSchema, migrate, query, type Settings } from "./harness.ts"

const size = 50n

/** Divides the log of a schema, so that the versions that are drawn next are those of the second partition. */
const divide = Effect.fnUntraced(function* (schema: string) {
  yield* migrate(postgresUrl, { schema, partitions: { size } })
  yield* query(
    `SELECT setval(pg_get_serial_sequence('${schema}.events', 'version'), (
       SELECT split_part(pg_get_expr(relpartbound, oid), '''', 4)::bigint FROM pg_class WHERE oid = '${schema}.events_0'::regclass
     ))`
  )
})

/** What reads of every kind give. The last two look at the log themselves, and tell the process what they have found. */
const everything = (
  { context, events, schema }: ServedEvents,
  files: Layer.Layer<Postgres.EventArchive.EventArchive>
) => ({
  fromEnd: Stream.runCollect(events.read({ direction: "backward" })),
  aggregate: events.loadByAggregate("old"),
  get: Effect.map(events.get("old 1"), (event) => [event]),
  decision: Effect.map(events.readForDecision([{ tags: ["old"] }]), ({ events }) => events),
  untagged: Effect.map(events.readForDecision([{ eventTypes: ["Happened"] }]), ({ events }) => events),
  exported: Exporting.rowsAt(2n).pipe(
    Effect.provide(Layer.merge(Postgres.PostgresDatabase.layer({ schema }), files)),
    Effect.provide(context)
  ),
  page: Stream.runCollect(events.read({ limit: 3 })),
  load: events.load()
})

/** A process whose files are in a directory, and what archives into it. */
const serve = Effect.fnUntraced(function* (settings: Pick<Settings, "client" | "options"> = {}) {
  const directory = yield* temporaryDirectory
  const files = Postgres.EventArchive.layerDirectory(directory)
  const schema = yield* freshSchema()
  const stores = yield* serveEvents({
    ...settings,
    options: { ...settings.options, schema },
    layer: (options) => Layer.provide(Postgres.layer(options), files)
  })
  yield* stores.events.append([
    { ...event("old", "old 1"), tags: ["old"] },
    event("old", "old 2"),
    event("another", "old 3")
  ])
  const other = yield* serveEvents({ options: { schema } })
  return {
    schema,
    files,
    stores,
    other,
    archive: archiving(other, files).archive(1_000_000n)
  }
})

describe("a process that has taken the log for a plain table", () => {
  it.live("finds what is archived right after the log was divided", () =>
    Effect.gen(function* () {
      const { archive, files, other, schema, stores } = yield* serve()
      const before = new Map<string, unknown>()
      for (const [name, read] of Object.entries(everything(stores, files))) before.set(name, yield* read)
      yield* divide(schema)
      yield* other.events.append(event("new", "new"))
      const { parts } = yield* archive
      assert.deepStrictEqual(
        parts.map(({ events }) => events),
        [3]
      )
      assert.deepStrictEqual(yield* versionsIn(`${schema}.events`, "id <> 'new'"), [])
      const added = yield* other.events.get("new")
      const isOld = (found: unknown) =>
        !(typeof found === "object" && found !== null && "id" in found && found.id === "new")
      for (const [name, read] of Object.entries(everything(stores, files))) {
        const found: ReadonlyArray<unknown> = yield* read
        assert.deepStrictEqual(found.filter(isOld), before.get(name), name)
      }
      assert.deepStrictEqual((yield* everything(stores, files).load).at(-1), added)
      assert.strictEqual((yield* Effect.flip(stores.events.append(event("old", "old 2"))))._tag, "DuplicateEvent")
    }).pipe(Effect.scoped)
  )

  it.live("looks once more where a statement had to wait for a connection until the first part was archived", () =>
    Effect.gen(function* () {
      const { archive, files, other, schema, stores } = yield* serve({
        client: { maxConnections: 1 },
        options: { acquireTimeout: "5 minutes" }
      })
      const { aggregate, decision, fromEnd, get, untagged } = everything(stores, files)
      const latest = Effect.map(stores.events.latestVersion, (version) => [version])
      // What a store with a replica asks a standby, which says that it lacks what is archived.
      const pages = yield* MarkedPages.make.pipe(
        Effect.provide(Postgres.PostgresDatabase.layer({ schema, acquireTimeout: "5 minutes" })),
        Effect.provide(stores.context)
      )
      const marked = Effect.map(pages.byAggregate("old", 0n, 0n), (page) =>
        Option.toArray(page).flatMap(({ archivedEnd, lacksArchived, rows }) => [
          rows.length,
          archivedEnd,
          lacksArchived
        ])
      )
      const reads: Record<string, Effect.Effect<ReadonlyArray<unknown>, unknown>> = {
        aggregate,
        decision,
        fromEnd,
        get,
        untagged,
        latest,
        marked
      }
      // By these reads the process takes the log for a plain one, and it still does when the next ones begin.
      const before = yield* Effect.all(reads)
      const held = yield* Deferred.make<void>()
      const release = yield* Deferred.make<void>()
      const holding = Effect.andThen(Deferred.succeed(held, undefined), Deferred.await(release))
      yield* Effect.forkScoped(Effect.scoped(Effect.andThen(stores.sql.reserve, holding)))
      yield* Deferred.await(held)
      const waiting = yield* Effect.forkScoped(Effect.all(reads, { concurrency: "unbounded" }), {
        startImmediately: true
      })
      yield* divide(schema)
      const [added] = yield* other.events.append(event("new", "new"))
      const { parts } = yield* archive
      assert.lengthOf(parts, 1)
      assert.isUndefined(waiting.pollUnsafe())
      yield* Deferred.succeed(release, undefined)
      const found = yield* Fiber.join(waiting)
      assert.deepStrictEqual(found, {
        ...before,
        fromEnd: [added, ...(before["fromEnd"] ?? [])],
        untagged: [...(before["untagged"] ?? []), added],
        latest: [added?.version],
        marked: [0, parts[0]?.endVersion, true]
      })
    }).pipe(Effect.scoped)
  )

  it.live("appends, expects, decides, and follows within these seconds as if it knew", () =>
    Effect.gen(function* () {
      const { other, schema, stores } = yield* serve()
      const { events } = stores
      const reader = yield* follow(stores, { after: "start" })
      yield* reader.until(3n)
      // The mark of a process that has just begun is that of any log.
      yield* Effect.repeat(events.readForDecision([{ tags: ["old"] }]), {
        until: ({ condition }) => condition.decided.mark > 0n
      })
      const [overtaken, standing] = [
        yield* events.readForDecision([{ tags: ["old"] }]),
        yield* events.readForDecision([{ tags: ["alone"] }])
      ]
      const last = (yield* events.loadByAggregate("old")).at(-1)?.version ?? 0n
      yield* divide(schema)
      yield* other.events.append({ ...event("new", "new"), tags: ["old"] })
      const tagOf = <A, E extends { readonly _tag: string }>(effect: Effect.Effect<A, E>) =>
        Effect.map(Effect.flip(effect), ({ _tag }) => _tag)
      assert.strictEqual(
        yield* tagOf(events.append(event("decided"), { condition: overtaken.condition })),
        "ConditionFailed"
      )
      yield* events.append({ ...event("decided"), tags: ["alone"] }, { condition: standing.condition })
      assert.strictEqual(
        yield* tagOf(events.append(event("decided"), { condition: standing.condition })),
        "ConditionFailed"
      )
      yield* events.append(event("old"), { expected: last })
      assert.strictEqual(yield* tagOf(events.append(event("old"), { expected: last })), "VersionConflict")
      assert.strictEqual(yield* tagOf(events.append(event("old"), { expected: "none" })), "VersionConflict")
      for (const id of ["old 1", "new"]) {
        assert.strictEqual(yield* tagOf(events.append(event("a", id))), "DuplicateEvent")
        assert.strictEqual((yield* events.get(id)).id, id)
      }
      yield* query(plainInsert(`${schema}.events`, "plain"))
      assert.strictEqual(yield* tagOf(events.append(event("a", "plain"))), "DuplicateEvent")
      const [again] = yield* events.append({ ...event("new", "new"), tags: ["old"] }, { onDuplicate: "ignore" })
      assert.strictEqual(again?.version, (yield* other.events.get("new")).version)
      // More events than three partitions have.
      yield* events.append(Array.from({ length: 200 }, (_, n) => event("many", `many ${n}`)))
      const versions = yield* versionsIn(`${schema}.events`)
      yield* reader.until(versions.at(-1) ?? 0n)
      assert.deepStrictEqual(reader.seen, versions)
      assert.deepStrictEqual(
        (yield* events.load()).map(({ version }) => version),
        versions
      )
    }).pipe(Effect.scoped)
  )
})
