/** How messages of queues leave RetrySpool's table, while processes of the version before are still running. */
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Queue, Redacted, Schema } from "effect"
import { Spool, SpoolStore } from "effect-strata"
import { postgresUrl } from "../support/database.ts"
import { formerSpool, undoMigrations } from "./fixtures/formerSpool.ts"
import { execute, freshRole, freshSchema, migrate, open, query, unique } from "./harness.ts"
import { serveSpool } from "./spool.harness.ts"

/** The table of the version before, and a pool of that version, as this role. */
const former = Effect.fnUntraced(function* (role?: { readonly role: string; readonly url: string }) {
  const schema = yield* freshSchema()
  const applicationName = yield* unique
  yield* migrate(postgresUrl, { schema, queues: "shared" })
  yield* execute(undoMigrations(schema))
  const table = `${schema}.retryspool_messages`
  if (role !== undefined) {
    yield* execute([
      `GRANT USAGE ON SCHEMA ${schema} TO ${role.role}`,
      `GRANT SELECT, INSERT, UPDATE, DELETE ON ${table} TO ${role.role}`
    ])
  }
  const pool = PgClient.layer({ url: Redacted.make(role?.url ?? postgresUrl), applicationName, maxConnections: 4 })
  const sql = Context.get(yield* Layer.build(pool), PgClient.PgClient)
  return {
    schema,
    table,
    sql,
    applicationName,
    mails: formerSpool(sql, table, "mails", "former"),
    /** This version, which migrates first. */
    serve: serveSpool({ options: { schema } })
  }
})

const key = (id: string) => ({ queue: "mails", id })
const messages = (...ids: ReadonlyArray<string>) => ids.map((id) => ({ id, payload: { to: id } }))

it.live("messages of queues move with all that they have, and those of RetrySpool stay", () =>
  Effect.gen(function* () {
    const { mails, schema, serve, table } = yield* former()
    const generated = "0199d8a0-1111-7222-8333-444455556666"
    yield* mails.store(messages("0", "1", "2", "3", "4", "5", generated))
    yield* execute([
      `UPDATE ${table} SET state = id::int, attempts = 3, next_retry = '2200-01-01', last_error = 'busy', priority = 2,
         headers = '{"a": "b"}', retry_policy_name = 'slow', updated = '2025-01-01' WHERE length(id) = 1`,
      `INSERT INTO ${table} (id, state, max_attempts, next_retry, headers) VALUES ('go', 0, 3, now(), 'null')`
    ])
    const rows = (name: string) =>
      query(
        `SELECT queue, id, state, attempts, max_attempts, next_retry, created, updated, last_error, size, priority, headers,
           retry_policy_name, lease_owner, lease_until, payload FROM ${schema}.${name} WHERE queue = 'mails' AND state NOT IN (1, 6)
         ORDER BY id`
      )
    const before = yield* rows("retryspool_messages")
    assert.strictEqual(before.length, 6)
    const { spool } = yield* serve
    assert.deepStrictEqual(yield* rows("strata_messages"), before)
    assert.deepStrictEqual(yield* query(`SELECT id FROM ${table} ORDER BY 1`), [["1"], ["go"]])
    assert.deepStrictEqual((yield* spool.getMeta("go")).state, "incoming")
    assert.deepStrictEqual(yield* spool.countByState("mails"), {
      incoming: 2,
      active: 0,
      deferred: 1,
      hold: 1,
      bounce: 1,
      archived: 1
    })
    // A given id is remembered after the delivery from now on, and one that was generated is not.
    const claimed = yield* spool.claim({ queue: "mails", limit: 10, lease: "1 minute", owner: "o" })
    const done = claimed.map((message) => Object.assign({ outcome: "done" as const }, SpoolStore.leaseOf(message, "o")))
    assert.deepStrictEqual(yield* spool.settle(done), [])
    assert.deepStrictEqual(
      yield* spool.storeMany([...messages("0"), ...messages(generated)].map((one) => Object.assign(key(""), one))),
      [new SpoolStore.MessageExists(key("0"))]
    )
    // To run the migration again changes nothing.
    yield* execute([`DELETE FROM ${schema}.strata_migrations`])
    yield* serveSpool({ options: { schema } })
    assert.strictEqual((yield* spool.countByState("mails")).incoming, 1)
  })
)

it.live("a sender of the version before goes on until the migration has run, then fails, and says what to do", () =>
  Effect.gen(function* () {
    const { mails, schema, serve, sql } = yield* former()
    // The migration waits for a transaction that has stored a message, and moves that one, too.
    const sending = yield* open(
      (effect) => Effect.orDie(sql.withTransaction(effect)),
      Effect.orDie(mails.store(messages("first")))
    )
    const serving = yield* Effect.forkScoped(serve)
    const isWaiting = query(
      `SELECT FROM pg_locks WHERE NOT granted AND relation = '${schema}.retryspool_messages'::regclass AND mode = 'ShareRowExclusiveLock'`
    )
    yield* Effect.repeat(isWaiting, { until: (rows) => rows.length > 0 })
    // While the migration waits, another sender does not wait behind it.
    assert.deepStrictEqual(yield* mails.store(messages("late")), ["late"])
    yield* sending.commit
    const { spool } = yield* Fiber.join(serving)
    // The statement was prepared before.
    const error = yield* Effect.flip(mails.store(messages("again")))
    assert.match(
      String(error.reason.cause),
      /a message of the queue "mails" cannot be stored in the table .*retryspool_messages: messages of queues are in the table .*strata_messages since migration 18 of effect-strata; upgrade this process/
    )
    assert.strictEqual((yield* spool.getMeta(key("first"))).state, "incoming")
    assert.strictEqual((yield* spool.countByState("mails")).incoming, 2)
    assert.deepStrictEqual(yield* mails.claim(10), [])
  })
)

it.live("a worker of the version before, with rights on its table alone, settles what it has claimed", () =>
  Effect.gen(function* () {
    const { mails, serve, table } = yield* former(yield* freshRole())
    const ids = ["done", "archived", "deferred", "bounced", "held", "released", "recovered", "taken"]
    yield* mails.store(messages(...ids))
    const leases = new Map((yield* mails.claim(10)).map((lease) => [lease.id, lease]))
    const { spool } = yield* serve
    // Nobody gets these messages, nor stores them again, while the worker has them.
    assert.deepStrictEqual(yield* spool.claim({ queue: "mails", limit: 10, lease: "1 minute", owner: "o" }), [])
    const again = (id: string) => Effect.flip(spool.storeMeta({ ...key(id), payload: { to: id } }))
    for (const id of ids) assert.deepStrictEqual(yield* again(id), new SpoolStore.MessageExists(key(id)))
    const other = yield* Effect.flip(spool.storeMeta({ ...key("done"), payload: "other" }))
    assert.strictEqual(other._tag, "IdConflict")
    const states = { archived: 5, deferred: 2, bounced: 4, held: 3, released: 0 }
    for (const [id, lease] of leases) {
      assert.deepStrictEqual(yield* mails.renew(lease), [id])
      if (id === "done") assert.deepStrictEqual(yield* mails.done([lease]), [id])
      for (const [name, state] of Object.entries(states)) {
        if (name === id) assert.deepStrictEqual(yield* mails.settle(lease, state, "busy", 0), [id])
      }
    }
    // Its lease runs out, and its own recovery finds it, or RetrySpool's recovery does.
    yield* execute([
      `UPDATE ${table} SET lease_until = now() - interval '1 second' WHERE id = 'recovered'`,
      `UPDATE ${table} SET state = 0, updated = now() WHERE id = 'taken' AND state = 1`
    ])
    assert.deepStrictEqual(yield* mails.recover, ["recovered"])
    assert.deepStrictEqual(yield* query(`SELECT id FROM ${table}`), [])
    const found = yield* Effect.forEach(ids.slice(1), (id) =>
      Effect.map(spool.getMeta(key(id)), ({ attempts, lastError, payload, state }) => {
        assert.deepStrictEqual(payload, { to: id })
        return [id, state, attempts, lastError]
      })
    )
    assert.deepStrictEqual(found, [
      ["archived", "archived", 1, "busy"],
      ["deferred", "deferred", 1, "busy"],
      ["bounced", "bounce", 1, "busy"],
      ["held", "hold", 1, "busy"],
      ["released", "incoming", 0, "busy"],
      ["recovered", "incoming", 1, "the lease ran out"],
      ["taken", "incoming", 1, ""]
    ])
    assert.deepStrictEqual(yield* again("done"), new SpoolStore.MessageExists(key("done")))
    const claimed = yield* spool.claim({ queue: "mails", limit: 10, lease: "1 minute", owner: "o" })
    assert.sameMembers(
      claimed.map(({ id }) => id),
      ["deferred", "released", "recovered", "taken"]
    )
  })
)

it.live("what a worker of the version before had claimed when it died is recovered by a worker of this one", () =>
  Effect.gen(function* () {
    const { mails, serve, table } = yield* former()
    yield* mails.store(messages("left", "last"))
    yield* execute([`UPDATE ${table} SET max_attempts = 1 WHERE id = 'last'`])
    yield* mails.claim(10, 0)
    const { spool } = yield* serve
    assert.sameDeepMembers(
      (yield* spool.recover({ queue: "mails" })).map(({ id, state }) => [id, state]),
      [
        ["left", "incoming"],
        ["last", "bounce"]
      ]
    )
    assert.strictEqual((yield* spool.getMeta(key("last"))).state, "bounce")
    const [left] = yield* spool.claim({ queue: "mails", limit: 10, lease: "1 minute", owner: "o" })
    assert.deepStrictEqual([left?.id, left?.attempts], ["left", 2])
  })
)

it.live("senders and workers of both versions lose nothing and handle nothing twice while the migration runs", () =>
  Effect.gen(function* () {
    const { mails, schema, serve, sql, table } = yield* former()
    const stored: Array<string> = []
    const handled = yield* Queue.unbounded<string>()
    const other = formerSpool(sql, table, "mails", "former too")
    // Senders send one after the other until they are refused. What they were told is stored has to be handled, once.
    const send = Effect.fnUntraced(function* (sender: number) {
      for (let n = 0; ; n++) {
        const batch = messages(`${sender} ${n} a`, `${sender} ${n} b`)
        const sent = yield* Effect.result(mails.store(batch))
        if (sent._tag === "Failure") return String(sent.failure.reason.cause)
        stored.push(...sent.success)
      }
    })
    const work = (worker: typeof mails) =>
      Effect.gen(function* () {
        const leases = yield* worker.claim(3)
        for (const [n, lease] of leases.entries()) {
          if (n === 1) yield* worker.settle(lease, 2, "later", 0)
          else if (n === 2) yield* worker.settle(lease, 0, null, null)
          else if ((yield* worker.done([lease])).length > 0) yield* Queue.offer(handled, lease.id)
        }
      }).pipe(Effect.forever)
    const workers = [yield* Effect.forkScoped(work(mails)), yield* Effect.forkScoped(work(other))]
    const senders = yield* Effect.forEach([1, 2], (sender) => Effect.forkScoped(send(sender)))
    while (stored.length < 200) yield* Effect.yieldNow

    const { context, spool } = yield* serve
    for (const sender of senders) assert.match(yield* Fiber.join(sender), /upgrade this process/)
    const payload = Schema.Struct({ to: Schema.String })
    const queue = Spool.make({ name: "mails", payload, policies: { default: Spool.fixed(0) } })
    yield* Effect.forkScoped(
      Effect.provideContext(
        queue.run(({ to }) => Queue.offer(handled, to)),
        context
      )
    )
    yield* Effect.provideContext(queue.enqueue({ to: "new" }, { id: "new" }), context)
    // Each of them is at work until nothing is left, wherever it is.
    const left = Effect.gen(function* () {
      const { active, deferred, incoming } = yield* spool.countByState()
      return active + deferred + incoming
    })
    yield* Effect.repeat(left, { until: (count) => count === 0 })
    for (const worker of workers) assert.strictEqual(worker.pollUnsafe(), undefined)
    const all = yield* Queue.takeAll(handled)
    assert.deepStrictEqual(all.toSorted(), [...stored, "new"].toSorted())
    assert.deepStrictEqual(yield* query(`SELECT FROM ${schema}.retryspool_messages`), [])
  })
)
