/** What decisions of one process share where they come at once. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Option, Redacted, Scope } from "effect"
import { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { ForDecision } from "../../src/Event.ts"
import * as Deciding from "../../src/postgres/events/Deciding.ts"
import * as EventTable from "../../src/postgres/events/EventTable.ts"
import * as Wakeups from "../../src/postgres/wakeups/Wakeups.ts"
import { postgresUrl } from "../support/database.ts"
import { event, serveEvents } from "./events.harness.ts"
import { unique } from "./harness.ts"

const tagged = (aggregateId: string, ...tags: ReadonlyArray<string>) => ({ ...event(aggregateId), tags })

const numbers = (length: number) => Array.from({ length }, (_, index) => index)

/** Reads for decisions, of which the answers stay on their way until they are let go. */
const slowReads = Effect.gen(function* () {
  const { events, schema } = yield* serveEvents()
  const context = yield* Layer.build(
    Layer.mergeAll(EventTable.layer, Wakeups.layer).pipe(
      Layer.provideMerge(Postgres.PostgresDatabase.layer({ schema })),
      Layer.provideMerge(PgClient.layer({ url: Redacted.make(postgresUrl), applicationName: yield* unique }))
    )
  )
  const database = Context.get(context, Postgres.PostgresDatabase.PostgresDatabase)
  /** The answers that are on their way: each with what lets it go. */
  const answers: Array<Deferred.Deferred<void>> = []
  let statements = 0
  const query = (statement: Parameters<typeof database.query>[0]) =>
    Effect.tap(database.query(statement), () => {
      if (!String(statement.compile()[0]).includes("AS epoch")) return Effect.void
      statements++
      const goOn = Deferred.makeUnsafe<void>()
      answers.push(goOn)
      return Deferred.await(goOn)
    })
  const scope = yield* Scope.make()
  yield* Effect.addFinalizer(() => Scope.close(scope, Exit.void))
  const { read } = yield* Deciding.make.pipe(
    Effect.provideService(Postgres.PostgresDatabase.PostgresDatabase, { ...database, query }),
    Effect.provideContext(context),
    Effect.provideService(Scope.Scope, scope)
  )
  const ask = (tag: string) =>
    Effect.forkChild(read(new ForDecision({ items: [{ tags: [tag] }] })), { startImmediately: true })
  /** Waits until so many answers are on their way. */
  const until = (count: number) =>
    Effect.repeat(
      Effect.delay(
        Effect.sync(() => answers.length),
        1
      ),
      { until: (length) => length === count }
    )
  const letGo = Effect.flatMap(
    Effect.suspend(() => Effect.fromNullishOr(answers.shift())),
    (goOn) => Deferred.succeed(goOn, undefined)
  )
  return { ask, events, letGo, until, statements: () => statements, close: Scope.close(scope, Exit.void) }
})

describe("reads for decisions on the same thing", () => {
  it.live("share a statement that begins after all of them were asked for", () =>
    Effect.gen(function* () {
      const { ask, events, letGo, statements, until } = yield* slowReads
      const first = yield* ask("t")
      yield* until(1)
      // The answer of the first read is on its way, and lacks what comes now.
      yield* events.append(tagged("a", "t"))
      const later = yield* Effect.forEach(numbers(10), () => ask("t"))
      const other = yield* ask("u")
      yield* until(2)
      yield* letGo
      assert.lengthOf((yield* Fiber.join(first)).events, 0)
      yield* letGo
      assert.lengthOf((yield* Fiber.join(other)).events, 0)
      yield* until(1)
      yield* letGo
      for (const fiber of later) {
        assert.lengthOf((yield* Fiber.join(fiber)).events, 1, "what was appended before a read was asked for is in it")
      }
      assert.strictEqual(statements(), 3)
    })
  )

  it.live("go on where the one that is ahead is interrupted, and fail once the layer has ended", () =>
    Effect.gen(function* () {
      const { ask, close, letGo, until } = yield* slowReads
      const first = yield* ask("t")
      yield* until(1)
      const second = yield* ask("t")
      yield* Fiber.interrupt(first)
      yield* until(2)
      yield* letGo
      const third = yield* ask("t")
      yield* letGo
      assert.lengthOf((yield* Fiber.join(second)).events, 0)
      yield* until(1)
      const [fourth, fifth] = [yield* ask("t"), yield* ask("t")]
      yield* close
      for (const fiber of [third, fourth, fifth]) {
        const failed = yield* Effect.flip(Fiber.join(fiber))
        assert.strictEqual(failed._tag, "Closed")
      }
    })
  )
})

describe("the types beside tags", () => {
  it.live("are not needed: rows of former processes have none, and their events are looked at", () =>
    Effect.gen(function* () {
      const { events, schema, sql } = yield* serveEvents()
      const append = (eventType: string) => events.append({ ...tagged("a", "t"), eventType })
      const ask = (...eventTypes: ReadonlyArray<string>) => events.readForDecision([{ tags: ["t"], eventTypes }])
      const untyped = sql`UPDATE ${sql(schema)}.events_tags SET event_type = NULL`
      yield* append("Opened")
      yield* append("Changed")
      yield* untyped
      yield* append("Changed")
      for (const [types, count] of [
        [["Opened"], 1],
        [["Changed"], 2],
        [["Closed"], 0],
        [["Opened", "Changed"], 3]
      ] as const) {
        assert.lengthOf((yield* ask(...types)).events, count)
        const two = [{ tags: ["t"], eventTypes: types }, { tags: ["u"] }]
        assert.lengthOf((yield* events.readForDecision(two)).events, count)
      }
      const [opened, closed] = [yield* ask("Opened"), yield* ask("Closed")]
      yield* append("Opened")
      yield* untyped
      yield* events.append(tagged("b", "v"), { condition: closed.condition })
      const failed = yield* Effect.flip(events.append(tagged("b", "v"), { condition: opened.condition }))
      assert.instanceOf(failed, EventStore.ConditionFailed)
      assert.deepStrictEqual(failed.eventType, Option.some("Opened"))
    })
  )

  it.live("are those of the events, however these got their tags", () =>
    Effect.gen(function* () {
      const { events, table, sql } = yield* serveEvents()
      yield* events.append(tagged("a", "one", "other"))
      yield* events.append([{ ...tagged("a", "many"), eventType: "First" }, tagged("b", "many")])
      const { condition } = yield* events.readForDecision([{ tags: ["decided"] }])
      yield* events.append(tagged("a", "decided"), { condition })
      const [plain] = yield* events.append(event("later"))
      if (plain === undefined) return assert.fail()
      yield* events.tag([{ version: plain.version, id: plain.id, tags: ["later"] }])
      const rows = yield* sql.unsafe(
        `SELECT count(*)::int AS count, count(*) FILTER (WHERE tagged.event_type = event.event_type)::int AS typed
         FROM ${table}_tags AS tagged JOIN ${table} AS event USING (version)`
      )
      assert.deepStrictEqual(rows, [{ count: 6, typed: 6 }])
    })
  )
})
