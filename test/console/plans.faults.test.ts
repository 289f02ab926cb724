/** What the console reads of large tables. */
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { execute } from "../postgres/harness.ts"
import { scratchDatabase } from "../support/database.ts"
import { rowsRead } from "../support/rowsRead.ts"
import { poolOf } from "./places.ts"
import { clientOf, serve, shared, storesOf } from "./serving.ts"

/** A database with the tables of the stores, and nothing in them. */
const empty = Effect.gen(function* () {
  const url = yield* scratchDatabase()
  yield* Effect.scoped(Effect.flatMap(shared(poolOf(url)), (pool) => storesOf({ pool, options: {} })))
  return url
})

it.live("a page of states by what they contain reads a part of the table", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const url = yield* empty
      yield* execute(
        [
          "ALTER TABLE states_store SET (autovacuum_enabled = off)",
          `INSERT INTO states_store (persistence_id, version_number, state_payload, state_manifest, timestamp, shard_number)
           SELECT 'state-' || lpad(n::text, 6, '0'), 1, convert_to('{"n":' || n || '}', 'UTF8'),
             CASE n WHEN 7 THEN 'Rare' ELSE 'Often' END, 0, 0 FROM generate_series(1, 100000) AS n`,
          "VACUUM ANALYZE states_store"
        ],
        url
      )
      const before = yield* rowsRead(url, "states_store")
      yield* Effect.scoped(
        Effect.gen(function* () {
          const { states } = yield* clientOf(yield* serve(yield* shared(poolOf(url))))
          const rare = yield* states.states({ query: { manifest: "Rare" } })
          assert.deepStrictEqual(
            rare.states.map(({ persistenceId }) => persistenceId),
            ["state-000007"]
          )
          assert.strictEqual(rare.next, "state-005001")
          const absent = yield* states.states({ query: { text: '"n":5002}' } })
          assert.deepStrictEqual([absent.states.length, absent.next], [0, "state-005001"])
          const found = yield* states.states({ query: { text: '"n":5002}', from: absent.next ?? "" } })
          assert.deepStrictEqual(
            found.states.map(({ persistenceId }) => persistenceId),
            ["state-005002"]
          )
        })
      )
      assert.isBelow((yield* rowsRead(url, "states_store")) - before, 50_000)
    })
  )
)
