/** A compact log from before its indexes had blocks of versions gets them while others write to it. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Stream } from "effect"
import { scratchDatabase } from "../support/database.ts"
import { session } from "./events.harness.ts"
import { execute, migrate, query, serve } from "./harness.ts"

const before = ["(((version >> 12)), created_at)", "(aggregate_id, version)", "(event_type, version)"]

const now = [
  "(((version >> 12)), date_trunc('minute'::text, (created_at AT TIME ZONE 'UTC'::text)))",
  "(aggregate_id, ((version >> 6)))",
  "(event_type, ((version >> 8)))"
]

/** The indexes that are not unique, of the log and of each partition, and whether each can be used. */
const indexes = (url: string) =>
  query(
    `SELECT indrelid::regclass::text, regexp_replace(pg_get_indexdef(indexrelid), '.* USING btree ', '') AS form, indisvalid
     FROM pg_index WHERE NOT indisunique AND (indrelid = 'events'::regclass OR indrelid IN (
       SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass
     )) ORDER BY indrelid <> 'events'::regclass, 1, 2`,
    url
  )

/** A compact log with the indexes that it had before. */
const serveOld = Effect.fnUntraced(function* (partitions: { readonly partitions?: { readonly size: bigint } }) {
  const url = yield* scratchDatabase()
  const options = { layout: "compact", ...partitions } as const
  yield* migrate(url, options)
  const made = yield* query(
    `SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'events'::regclass AND indexprs IS NOT NULL`,
    url
  )
  yield* execute(
    [
      `DROP INDEX ${made.flat().join()}`,
      ...before.map((form) => `CREATE INDEX ON events ${form}`),
      "DELETE FROM strata_migrations WHERE id = 50",
      ...[1, 100_001, 200_001].map(
        (first) => `INSERT INTO events (id, aggregate_id, event_type, data, created_at)
          SELECT gen_random_uuid(), 'account-' || n % 1000, CASE WHEN n % 1000 = 0 THEN 'Rare' ELSE 'Deposited' END,
            jsonb_build_object('amount', n, 'note', 'a payment like any other'), now()
          FROM generate_series(${first}, ${first + 99_999}) AS n`
      )
    ],
    url
  )
  const found = yield* indexes(url)
  assert.deepStrictEqual(
    found.slice(0, 3).map(([, form]) => form),
    before
  )
  return { url, options }
})

/** What such a log has in the end: each index once, and as many for each partition. */
const assertNew = Effect.fnUntraced(function* (url: string) {
  const found = yield* indexes(url)
  assert.isEmpty(found.length % 3 === 0 ? [] : found)
  for (let at = 0; at < found.length; at += 3) {
    const three = found.slice(at, at + 3)
    assert.deepStrictEqual(
      three.map(([, form]) => form),
      now
    )
    assert.isTrue(three.every(([, , isValid]) => isValid === true))
  }
  return found.length / 3
})

/** A writer that inserts one event after the other. To ask it how many ends it. */
const writer = Effect.fnUntraced(function* (url: string) {
  const run = yield* session(url)
  const end = yield* Deferred.make<void>()
  let written = 0
  const fiber = yield* Effect.gen(function* () {
    while (!Deferred.isDoneUnsafe(end)) {
      yield* run(
        "INSERT INTO events (id, aggregate_id, event_type, data) VALUES (gen_random_uuid(), 'new', 'New', '{}')"
      )
      written++
    }
  }).pipe(Effect.forkScoped)
  return Effect.map(Effect.andThen(Deferred.succeed(end, undefined), Fiber.join(fiber)), () => written)
})

const kinds = [
  ["without partitions", {}, 1],
  ["with partitions", { partitions: { size: 100_000n } }, 8]
] as const

describe.each(kinds)("a compact log %s that is large already", (_, partitions, tables) => {
  it.live("gets its indexes beside a writer, and keeps none of those before", () =>
    Effect.gen(function* () {
      const { options, url } = yield* serveOld(partitions)
      const writing = yield* writer(url)
      yield* migrate(url, options)
      const written = yield* writing
      assert.isAbove(written, 0)
      assert.isAtLeast(yield* assertNew(url), tables - 1)
      const { events } = yield* serve({ url })
      const rare = yield* Stream.runCollect(events.read({ eventTypes: ["Rare"], limit: 10 }))
      assert.deepStrictEqual(
        rare.map(({ version }) => version),
        Array.from({ length: 10 }, (_, n) => BigInt((n + 1) * 1000))
      )
      assert.lengthOf(yield* events.loadByAggregate("new"), written)
      assert.deepStrictEqual(yield* migrate(url, options), undefined)
    })
  )

  it.live("gets them once more where a build was ended, and where only some are there", () =>
    Effect.gen(function* () {
      const { options, url } = yield* serveOld(partitions)
      const [[leaf] = []] = yield* query(
        `SELECT coalesce(min(inhrelid::regclass::text), 'events') FROM pg_inherits WHERE inhparent = 'events'::regclass`,
        url
      )
      yield* execute(
        [
          `CREATE INDEX broken ON ${leaf} (event_type, (version >> 8))`,
          "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass",
          `CREATE INDEX done ON ${leaf} (aggregate_id, (version >> 6))`
        ],
        url
      )
      yield* migrate(url, options)
      yield* assertNew(url)
      assert.deepStrictEqual(yield* query("SELECT to_regclass('broken')::text, to_regclass('done')::text", url), [
        [null, "done"]
      ])
    })
  )
})
