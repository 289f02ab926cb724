/** Go services that start beside this library's writers. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect } from "effect"
import { goSyncKitStart } from "../support/goServices.ts"
import { event, goSyncKit, serveEvents, session } from "./events.harness.ts"
import { freshSchema, query } from "./harness.ts"

const writers = 8
const starts = 128

describe("go-sync-kit", () => {
  it.live("starts beside writers, again and again: neither it nor they end in a deadlock", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      yield* goSyncKit(schema)
      const served = yield* Effect.replicateEffect(serveEvents({ options: { schema } }), 2)
      const over = yield* Deferred.make<void>()
      let appended = 2
      // Appends that expect a version, appends with an id, in transactions and outside of them.
      const write = Effect.fnUntraced(function* (writer: number) {
        const { events, withTransaction } = served[writer % served.length] ?? assert.fail()
        let version: bigint | "none" = "none"
        for (let n = 0; !Deferred.isDoneUnsafe(over); n++) {
          const expected: bigint | "none" = version
          const append: ReturnType<typeof events.append> = events.append(
            event(`w${writer}`, n % 2 === 0 ? `${writer}/${n}` : undefined),
            { expected }
          )
          const [stored] = yield* n % 3 === 0 ? withTransaction(append) : append
          version = stored?.version ?? "none"
          appended++
        }
      })
      const go = Effect.gen(function* () {
        const run = yield* session()
        // One after another: two starts at once wait for each other, whoever else is there.
        for (let n = 0; n < starts; n++) for (const statement of goSyncKitStart(schema)) yield* run(statement)
        yield* Deferred.succeed(over, undefined)
      })
      yield* Effect.all([go, ...Array.from({ length: writers }, (_, writer) => write(writer))], {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(yield* query(`SELECT count(*)::int FROM ${schema}.events`), [[appended]])
      assert.isAbove(appended, writers)
    })
  )
})
