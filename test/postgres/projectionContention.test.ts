/** Projections whose own SQL loses against other transactions. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Schedule } from "effect"
import { type EventStore, Projection } from "effect-strata"
import { untilHandled } from "../../src/testing/ProjectionScene.ts"
import { event, serveEvents } from "./events.harness.ts"
import { execute, open } from "./harness.ts"

const serve = Effect.fnUntraced(function* (startupParameters: Record<string, string> = {}) {
  const stores = yield* serveEvents({ client: { startupParameters } })
  const { schema, sql } = stores
  yield* execute([
    `CREATE TABLE ${schema}.customers (id text PRIMARY KEY, events int NOT NULL)`,
    `INSERT INTO ${schema}.customers VALUES ('anna', 0), ('bert', 0)`
  ])
  const add = (id: string) => sql`UPDATE ${sql(schema)}.customers SET events = events + 1 WHERE id = ${id}`
  const counts = Effect.map(sql`SELECT events FROM ${sql(schema)}.customers ORDER BY id`.values, (rows) => rows.flat())
  return { ...stores, add, counts }
})

it.live("shards that end each other in deadlocks say so, and go on", () =>
  Effect.gen(function* () {
    const { add, context, counts, events, logged, watched } = yield* serve()
    const idIn = (shard: number) =>
      ["a", "b", "c", "d", "e", "f"].find((id) => Projection.shardOf(id, 2) === shard) ?? ""
    const [one, other] = [idIn(0), idIn(1)]
    const stored = yield* events.append([event(one), event(other)])
    const inTheMiddle = [yield* Deferred.make<void>(), yield* Deferred.make<void>()] as const
    const handler = ({ aggregateId }: EventStore.StoredEvent) =>
      Effect.gen(function* () {
        const isOne = aggregateId === one
        yield* add(isOne ? "anna" : "bert")
        yield* Deferred.succeed(inTheMiddle[isOne ? 0 : 1], undefined)
        yield* Deferred.await(inTheMiddle[isOne ? 1 : 0])
        yield* add(isOne ? "bert" : "anna")
      })
    const projection = Projection.make({ name: "customers", shards: 2, retry: Schedule.recurs(0), handler })
    const until = untilHandled("customers", stored.at(-1)?.version ?? 0n)
    yield* Effect.raceFirst(Projection.run(projection), until).pipe(watched, Effect.provideContext(context))
    assert.deepStrictEqual(yield* counts, [2, 2])
    const told = logged.filter((message) =>
      /has lost against a concurrent transaction.*deadlock detected.*shardBy/.test(message)
    )
    assert.isAtLeast(told.length, 1)
    assert.deepStrictEqual(logged, told)
  })
)

it.live("a row that stays locked is the handler's failure in the end", () =>
  Effect.gen(function* () {
    const { add, context, counts, events, logged, watched, withTransaction } = yield* serve({ lock_timeout: "100ms" })
    const lock = yield* open(withTransaction, add("anna"))
    yield* events.append(event("a"))
    const projection = Projection.make({ name: "customers", retry: Schedule.recurs(0), handler: () => add("anna") })
    const error = yield* Effect.flip(Projection.run(projection)).pipe(watched, Effect.provideContext(context))
    assert.instanceOf(error, Projection.ProjectionFailed)
    assert.deepStrictEqual(
      logged.map((message) => /(has lost|attempt 1|stopped before event 1)/.exec(message)?.[0]),
      ["has lost", "attempt 1", "stopped before event 1"]
    )
    assert.include(logged[1], "canceling statement due to lock timeout")
    yield* lock.commit
    assert.deepStrictEqual(yield* counts, [1, 0])
  })
)
