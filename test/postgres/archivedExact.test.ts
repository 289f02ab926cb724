/**
 * Whatever columns of an event hold, it is the same in each after it was archived and restored, and reads give the same
 * meanwhile.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Stream } from "effect"
import { randomInt } from "node:crypto"
import { serveArchive } from "./archive.harness.ts"
import { execute, query } from "./harness.ts"

/** JSON as the server takes it, NULL, and null. */
const jsons = [
  "NULL",
  "'null'",
  "'{}'",
  "'[]'",
  "'\"\"'",
  "'0'",
  "'-0'",
  "'-0.0'",
  "'1.0'",
  "'1.00'",
  "'1e400'",
  "'-1.5e-320'",
  "'12345678901234567890123456789012345678901234567890.10'",
  "'9007199254740993'",
  "'true'",
  `'{"b": 1, "a": 2, "aa": 3, "B": 4, "": 5}'`,
  `'{"a": 1, "a": 2}'`,
  `'{",\\"data\\":": ",\\"metadata\\":", "nulls": ["data"]}'`,
  `'["\\u202e", "\\u0001", "\\\\ud834", "\\ud834\\udd1e", "é", "\\t\\"/"]'`,
  `'{"deep": [[[[[{"x": [null, {"y": {}}]}]]]]]}'`
]

const metadatas = [
  "NULL",
  "'null'",
  "'{}'",
  `'{"by": 1.0}'`,
  `'{"é": "\\u2028", "n": 1e3}'`,
  `'{"nulls": ["metadata"]}'`
]

const times = [
  "NULL",
  "'infinity'",
  "'-infinity'",
  "'0001-01-01 00:00:00.000001+00'",
  "'1969-12-31 23:59:59.999999+00'",
  "'1999-12-31 23:59:59.999999+00'",
  "'2000-01-01 00:00:00.000001+00'",
  "'2026-03-29 02:30:00.123456+01'",
  "'2026-10-25 02:30:00.5+02'",
  "'9999-12-31 23:59:59.999999+00'"
]

const texts = ["plain", `"quoted"`, "\\", "line\nfeed", "tab\t", "\u202e\u2028", "𝄞é", ',"data":', "'; --", " "]

const literal = (text: string) => `E'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`

const any = <A>(items: ReadonlyArray<A>): A => items[randomInt(items.length)] ?? assert.fail("there are none")

/** All columns of all events, each as a text, NULL apart. */
const columnsOf = (table: string) =>
  query(
    `SELECT version::text, id::text, aggregate_id, event_type, data::text, metadata::text, created_at::text,
       extract(epoch FROM created_at)::text, to_jsonb(event)::text, pg_typeof(id)::text FROM ${table} AS event ORDER BY version`
  )

const isCompact = (layout: "compact" | undefined) => layout === "compact"

/** Events with each of these values, and with any of the others. */
const rowsOf = (layout: "compact" | undefined) => {
  const values = [
    ...jsons.map((data) => ({ data })),
    ...metadatas.map((metadata) => ({ metadata })),
    ...times.map((time) => ({ time })),
    ...texts.map((text) => ({ text })),
    ...Array.from({ length: 60 }, () => ({}))
  ]
  return values.map((value, n) => {
    const { data, metadata, text, time } = {
      data: any(jsons),
      metadata: any(metadatas),
      time: any(times),
      text: any(texts),
      ...value
    }
    const id = isCompact(layout) ? "gen_random_uuid()" : literal(`${text}${n}`)
    return `(${id}, ${literal(text)}, ${literal(`type ${text}`)}, ${data}::jsonb, ${metadata}::jsonb, ${time}::timestamptz)`
  })
}

describe.each(["default", "compact"] as const)("a log with the %s layout", (name) => {
  const layout = name === "compact" ? name : undefined
  // Sessions whose times and numbers look different as texts.
  const sessions = [
    {},
    { datestyle: "SQL, DMY", timezone: "Asia/Kolkata" },
    { datestyle: "German", timezone: "America/St_Johns", extra_float_digits: "0" }
  ]
  it.live.each(sessions)(
    "comes back in each column as it was, archived and restored with the settings %o",
    (settings) =>
      Effect.gen(function* () {
        const { archive, events, restore, table } = yield* serveArchive({
          options: layout === undefined ? {} : { layout },
          client: { startupParameters: settings }
        })
        const rows = rowsOf(layout)
        yield* execute([
          `INSERT INTO ${table} (id, aggregate_id, event_type, data, metadata, created_at) VALUES ${rows.join()}`,
          `INSERT INTO ${table} (id, aggregate_id, event_type, data)
         SELECT ${isCompact(layout) ? "gen_random_uuid()" : "'last ' || n"}, 'last', 'Last', '{}' FROM generate_series(1, 60) AS n`
        ])
        const before = yield* columnsOf(table)
        /** Each event alone, as some of these cannot be read by any reader, and what all readers say of those that can. */
        const reads = Effect.gen(function* () {
          const found: Array<unknown> = []
          for (const [, id] of before) {
            const one = yield* Effect.exit(events.get(String(id)))
            found.push(Exit.isSuccess(one) ? one.value : String(Exit.findErrorOption(one)))
          }
          for (const text of texts) {
            const some = yield* Effect.exit(events.loadByAggregate(text))
            // Of several events that cannot be read, another one may be named.
            found.push(Exit.isSuccess(some) ? some.value : "fails")
          }
          const part = yield* Effect.exit(Stream.runCollect(Stream.take(events.read({ aggregateIds: ["last"] }), 60)))
          found.push(part)
          return found
        })
        const seen = yield* reads
        const { parts } = yield* archive(BigInt(rows.length))
        assert.isAtLeast(parts.length, 2)
        assert.deepStrictEqual(yield* reads, seen)
        yield* restore()
        assert.deepStrictEqual(yield* columnsOf(table), before)
        assert.deepStrictEqual(yield* reads, seen)
      }).pipe(Effect.scoped)
  )
})

describe("the file of a part", () => {
  it.live("has the same name, whichever session has archived it", () =>
    Effect.gen(function* () {
      const { archive, restore, schema, table } = yield* serveArchive()
      yield* execute([
        `INSERT INTO ${table} (id, aggregate_id, event_type, data, created_at)
         SELECT n, 'a', 'A', '{}', '2026-01-01 10:00:00.5+00'::timestamptz + n * interval '1 hour' FROM generate_series(1, 120) AS n`
      ])
      const other = yield* serveArchive({
        options: { schema },
        client: { startupParameters: { datestyle: "SQL, DMY", timezone: "Asia/Kolkata" } }
      })
      const [one] = (yield* archive(50n)).parts
      yield* restore()
      const [two] = (yield* other.archive(50n)).parts
      assert.strictEqual(two?.name, one?.name)
      assert.deepStrictEqual(two?.firstCreatedAt, one?.firstCreatedAt)
      assert.deepStrictEqual(two?.lastCreatedAt, one?.lastCreatedAt)
      assert.strictEqual(two?.sha256, one?.sha256)
      yield* other.restore()
    }).pipe(Effect.scoped)
  )
})
