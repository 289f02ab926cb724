/**
 * Appends of processes of the version before, which know nothing of the keys that say where an event comes from, beside those of
 * this version, which add them: an event that one has stored is the same event for the other.
 */
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Redacted } from "effect"
import { Origin } from "effect-strata"
import { query, restore, serve } from "./harness.ts"

type Metadata = { readonly by: string } | null

/**
 * Appends one event that has an id as processes of the version before do, with `onDuplicate: "ignore"`: their statement, word for
 * word, which the driver prepares. Returns what came of it.
 */
const formerProcess = Effect.fnUntraced(function* (url: string) {
  const pool = PgClient.layer({ url: Redacted.make(url), maxConnections: 2 })
  const sql = Context.get(yield* Layer.build(Layer.fresh(pool)), PgClient.PgClient)
  const append = (id: string, metadata: Metadata) =>
    Effect.map(
      sql`
      SELECT outcome, request, key AS id, version, created_at AS "createdAt"
      FROM ${sql.literal('"public"."events_append"')}(
        ${[0]}::integer[],
        ${[id]}::text[],
        ${[id]}::text[],
        ${["Happened"]}::text[],
        ${["1"]}::text[],
        ${[JSON.stringify(metadata)]}::text[],
        ${[true]}::boolean[],
        ${[true]}::boolean[],
        ${["any"]}::text[],
        ${true}::boolean
      )`,
      ([first]) => first?.["outcome"]
    )
  return { append }
})

/** A process of this version, whose layer adds keys to the metadata. It migrates first. */
const newProcess = Effect.fnUntraced(function* (url: string) {
  const { events } = yield* serve({ url, options: { schema: "public" } })
  const append = (id: string, metadata: Metadata) =>
    events
      .append(
        { id, aggregateId: id, eventType: "Happened", data: 1, ...(metadata === null ? {} : { metadata }) },
        { onDuplicate: "ignore" }
      )
      .pipe(Effect.provideService(Origin.Origin, { correlationId: "request-1", causationId: "event-1" }))
  return { append, events }
})

it.live("an event that either version has stored is the same one for the other, however often it is appended", () =>
  Effect.gen(function* () {
    const url = yield* restore("migrations1to7.sql")
    const former = yield* formerProcess(url)
    const anna = { by: "anna" }
    assert.strictEqual(yield* former.append("old", anna), "stored")
    assert.strictEqual(yield* former.append("old", anna), "known")
    assert.strictEqual(yield* former.append("bare", null), "stored")
    const { append, events } = yield* newProcess(url)
    const [known] = yield* append("old", anna)
    assert.strictEqual(known?.version, (yield* events.get("old")).version)
    yield* append("bare", null)
    // What was stored stays as it is.
    assert.deepStrictEqual((yield* events.get("old")).metadata, anna)

    yield* append("new", anna)
    yield* append("new, bare", null)
    const keys = { correlationId: "request-1", causationId: "event-1" }
    assert.deepStrictEqual((yield* events.get("new")).metadata, { ...keys, ...anna })
    assert.strictEqual(yield* former.append("new", anna), "known")
    assert.strictEqual(yield* former.append("new, bare", null), "known")
    assert.deepStrictEqual((yield* events.get("new")).metadata, { ...keys, ...anna })
    // What the caller has given itself is content, for both.
    assert.strictEqual(yield* former.append("new", { by: "bob" }), "duplicate")
    assert.strictEqual(yield* former.append("new, bare", anna), "duplicate")
    assert.strictEqual((yield* Effect.flip(append("old", { by: "bob" })))._tag, "DuplicateEvent")
    assert.deepStrictEqual(
      yield* query(`SELECT count(*)::int FROM events WHERE id IN ('old', 'bare', 'new', 'new, bare')`, url),
      [[4]]
    )
  })
)

it.live("both append the same events while the migration runs: each is stored once, and nobody is refused", () =>
  Effect.gen(function* () {
    const url = yield* restore("migrations1to7.sql")
    const outcomes = new Set<unknown>()
    const appended = [0, 0, 0]
    const work = { isOver: false }
    /** Appends one event after the other, the same ones as every other worker, until it is over. */
    const run = Effect.fnUntraced(function* (
      worker: number,
      append: (id: string, metadata: Metadata) => Effect.Effect<unknown, unknown>
    ) {
      for (let n = 0; !work.isOver; n++) {
        outcomes.add(yield* append(`event ${n}`, { by: "anna" }))
        appended[worker] = n + 1
      }
    })
    const untilAppended = (worker: number, count: number) =>
      Effect.whileLoop({ while: () => (appended[worker] ?? 0) < count, body: () => Effect.yieldNow, step: () => {} })
    const former = [yield* formerProcess(url), yield* formerProcess(url)]
    const workers = yield* Effect.forEach(former, ({ append }, worker) => Effect.forkScoped(run(worker, append)))
    yield* untilAppended(1, 30)
    const { append } = yield* newProcess(url)
    workers.push(yield* Effect.forkScoped(run(2, (id, metadata) => Effect.as(append(id, metadata), "known"))))
    const joined = Effect.forEach(workers, (worker) => Fiber.join(worker), { concurrency: "unbounded" })
    yield* Effect.raceFirst(untilAppended(2, Math.max(...appended) + 30), joined)
    work.isOver = true
    yield* joined
    assert.deepStrictEqual([...outcomes].toSorted(), ["known", "stored"])
    assert.deepStrictEqual(
      yield* query(`SELECT count(*)::int, count(DISTINCT id)::int FROM events WHERE id LIKE 'event %'`, url),
      [[Math.max(...appended), Math.max(...appended)]]
    )
  })
)
