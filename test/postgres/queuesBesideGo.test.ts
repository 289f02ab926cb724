/** Messages of queues beside RetrySpool's workers: out of their sight, or in one table with them. */
import { assert, it } from "@effect/vitest"
import { Effect, Queue, Schema } from "effect"
import { Spool, SpoolStore } from "effect-strata"
import { execute, freshSchema, query } from "./harness.ts"
import { retrySpool, serveSpool } from "./spool.harness.ts"

/** RetrySpool's worker, with its Postgres data storage: it deletes a message whose data it does not find. */
const goWorker = ({ sql, table }: Effect.Success<ReturnType<typeof serveSpool>>, canHandle: string) => {
  const run = (statement: string, parameters: ReadonlyArray<unknown> = []) => sql.unsafe(statement, parameters).values
  return Effect.gen(function* () {
    const waiting = yield* run(`SELECT id FROM ${table} WHERE state = 0 AND ${canHandle} ORDER BY created LIMIT 10`)
    for (const [id] of waiting) {
      const moved = yield* run(
        `UPDATE ${table} SET state = 1, updated = now() WHERE id = $1 AND state = 0 RETURNING id`,
        [id]
      )
      if (moved.length > 0) yield* run(`DELETE FROM ${table} WHERE id = $1`, [id])
    }
  }).pipe(Effect.forever)
}

it.live("a worker of RetrySpool never sees them: each is handled, and its own messages are left to it", () =>
  Effect.gen(function* () {
    const schema = yield* freshSchema()
    yield* retrySpool(schema, true)
    const served = yield* serveSpool({ options: { schema } })
    yield* Effect.forkScoped(goWorker(served, "true"))
    const mails = Spool.make({ name: "mails", payload: Schema.String })
    const handled = yield* Queue.unbounded<string>()
    yield* Effect.gen(function* () {
      yield* Effect.forkScoped(mails.run((to) => Queue.offer(handled, to)))
      yield* Effect.forEach(
        Array.from({ length: 300 }, (_, n) => `${n}`),
        (to) => mails.enqueue(to),
        { concurrency: 16 }
      )
    }).pipe(Effect.provideContext(served.context))
    const all = yield* Effect.all(Array.from({ length: 300 }, () => Queue.take(handled)))
    assert.strictEqual(new Set(all).size, 300)
    yield* Effect.repeat(query(`SELECT FROM ${served.table} WHERE id = 'go-new'`), {
      until: (rows) => rows.length === 0
    })
  })
)

it.live("where they share RetrySpool's table, Go leaves those alone that have a header", () =>
  Effect.gen(function* () {
    const schema = yield* freshSchema()
    const served = yield* serveSpool({ options: { schema, queues: "shared" } })
    const { context, spool, table } = served
    yield* Effect.forkScoped(goWorker(served, "NOT headers ? 'strata'"))
    const mails = Spool.make({ name: "mails", payload: Schema.String })
    const texts = Spool.make({ name: "texts", payload: Schema.String })
    const headers = { strata: "1" }
    yield* Effect.gen(function* () {
      yield* mails.enqueue("anna", { id: "order-1", headers })
      assert.deepStrictEqual(yield* query(`SELECT id, queue, state FROM ${table}`), [["order-1", "mails", 0]])
      assert.strictEqual(yield* mails.enqueue("anna", { id: "order-1" }), "order-1")
      // An id is one of the whole table, so no message is lost in silence.
      const conflict = { queue: "texts", id: "order-1", takenBy: "another queue" } as const
      assert.deepStrictEqual(
        yield* Effect.flip(texts.enqueue("anna", { id: "order-1", headers })),
        new SpoolStore.IdConflict(conflict)
      )
      assert.deepStrictEqual(
        yield* Effect.flip(texts.hold("order-1", "mine?")),
        new SpoolStore.MessageNotFound({ queue: "texts", id: "order-1" })
      )
      assert.deepStrictEqual(
        yield* Effect.flip(spool.storeMeta({ id: "order-1", payload: "anna" })),
        new SpoolStore.IdConflict({ id: "order-1", takenBy: "another queue" })
      )
      assert.strictEqual((yield* Effect.flip(mails.enqueue("bert", { id: "order-1" })))._tag, "IdConflict")
      assert.strictEqual(yield* spool.forgetIds(), 0)

      const handled = yield* Queue.unbounded<string>()
      yield* Effect.forkScoped(mails.run((to) => Queue.offer(handled, to)))
      assert.strictEqual(yield* Queue.take(handled), "anna")
      yield* Effect.repeat(spool.countByState("mails"), { until: ({ active }) => active === 0 })
      // What it can handle, Go handles: a message of no queue here.
      yield* spool.storeMany([{ id: "of Go" }, { id: "ours", headers }])
      yield* Effect.repeat(query(`SELECT id FROM ${table}`), { until: (rows) => rows.length === 1 })
      assert.strictEqual((yield* spool.getMeta("ours")).state, "incoming")
    }).pipe(Effect.provideContext(context))
  })
)

it.live("a process that shares the table fails where another one keeps queues in a table of their own", () =>
  Effect.gen(function* () {
    const schema = yield* freshSchema()
    const shared = yield* serveSpool({ options: { schema, queues: "shared" } })
    yield* shared.spool.storeMeta({ queue: "mails", id: "a" })
    const own = yield* serveSpool({ options: { schema } })
    const error = yield* Effect.flip(shared.spool.storeMeta({ queue: "mails", id: "b" }))
    assert.match(
      error.message,
      /cannot be stored in the table .*; upgrade this process, or give all processes the same option queues/
    )
    assert.strictEqual((yield* own.spool.getMeta({ queue: "mails", id: "a" })).state, "incoming")
    yield* execute([`DELETE FROM ${own.table}`])
  })
)
