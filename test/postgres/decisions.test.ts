/** Decisions on a server, in lockstep: which locks they take, what the mark is, and what goes together in one statement. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Option, Redacted } from "effect"
import { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { ForDecision } from "../../src/Event.ts"
import * as Deciding from "../../src/postgres/events/Deciding.ts"
import * as EventTable from "../../src/postgres/events/EventTable.ts"
import * as Wakeups from "../../src/postgres/wakeups/Wakeups.ts"
import { postgresUrl } from "../support/database.ts"
import { event, plainInsert, type ServedEvents, serveEvents, session, untilBlocked } from "./events.harness.ts"
import { execute, failsWith, open, query, unique } from "./harness.ts"

const tagged = (aggregateId: string, ...tags: ReadonlyArray<string>) => ({ ...event(aggregateId), tags })

const numbers = (length: number) => Array.from({ length }, (_, index) => index)

type Store = EventStore.EventStore["Service"]

const appendIf = (events: Store, condition: EventStore.Condition, ...tags: ReadonlyArray<string>) =>
  events.append(tagged(crypto.randomUUID(), ...tags), { condition })

/** What the append fails with. */
const errorOf = <A, E>(exit: Exit.Exit<A, E>) => Option.getOrUndefined(Exit.findErrorOption(exit))

/** Decides on the tag until a condition has a mark at or above the version. */
const untilMarked = ({ events }: Pick<ServedEvents, "events">, tag: string, version: bigint) =>
  Effect.repeat(
    Effect.tap(events.readForDecision([{ tags: [tag] }]), () => Effect.yieldNow),
    { until: ({ condition }) => condition.decided.mark >= version }
  )

describe("the mark of a condition", () => {
  it.live("rises with the log, and never above a version that may still come", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { events, withTransaction } = served
      yield* events.append(numbers(40).map((n) => tagged(`a${n}`, "hot")))
      const { condition } = yield* untilMarked(served, "hot", 40n)
      assert.deepStrictEqual([condition.decided.seen, condition.decided.matches], [[], 40])
      const slow = yield* open(withTransaction, events.append(tagged("slow", "late")))
      yield* events.append(numbers(40).map((n) => tagged(`b${n}`, "hot")))
      // Each of these conditions has more than enough above the mark for another look.
      for (let n = 0; n < 50; n++) {
        const { decided } = (yield* events.readForDecision([{ tags: ["hot"] }])).condition
        assert.isBelow(Number(decided.mark), 41)
        yield* Effect.yieldNow
      }
      const before = yield* events.readForDecision([{ tags: ["late"] }, { tags: ["hot"] }])
      assert.strictEqual(before.condition.decided.seen.length, 40)
      yield* slow.commit
      const failed = yield* Effect.flip(appendIf(events, before.condition, "late"))
      assert.instanceOf(failed, EventStore.ConditionFailed)
      assert.deepStrictEqual([failed.version, failed.tags], [Option.some(41n), ["late"]])
      yield* untilMarked(served, "hot", 81n)
    })
  )

  it.live("rises with the log, also where no condition has anything above it", () =>
    Effect.gen(function* () {
      const { events } = yield* serveEvents()
      yield* events.append(numbers(40).map((n) => tagged(`a${n}`, "hot")))
      // The check of such a condition looks at all events of the tag above the mark.
      yield* Effect.repeat(
        Effect.delay(events.readForDecision([{ tags: ["hot"], eventTypes: ["Other"] }]), "10 millis"),
        {
          until: ({ condition }) => condition.decided.mark === 40n
        }
      ).pipe(
        Effect.timeoutOrElse({ duration: "4 minutes", orElse: () => Effect.die(new Error("the mark does not rise")) })
      )
    })
  )

  it.live("is older than the snapshot that reads the matches, also where a younger one is found meanwhile", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { events, schema } = served
      yield* events.append(numbers(40).map((n) => tagged(`a${n}`, "hot")))
      const pool = PgClient.layer({ url: Redacted.make(postgresUrl), applicationName: yield* unique })
      const context = yield* Layer.build(
        Layer.mergeAll(EventTable.layer, Wakeups.layer).pipe(
          Layer.provideMerge(Postgres.PostgresDatabase.layer({ schema })),
          Layer.provideMerge(pool)
        )
      )
      const database = Context.get(context, Postgres.PostgresDatabase.PostgresDatabase)
      const [isRead, goOn] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      let held = false
      // The answer to one read for a decision stays on its way, and others do not.
      const slowly = (statement: Parameters<typeof database.query>[0]) =>
        Effect.tap(database.query(statement), () => {
          if (!held || !String(statement.compile()[0]).includes("AS epoch")) return Effect.void
          held = false
          return Effect.andThen(Deferred.succeed(isRead, undefined), Deferred.await(goOn))
        })
      const { read } = yield* Deciding.make.pipe(
        Effect.provideService(Postgres.PostgresDatabase.PostgresDatabase, { ...database, query: slowly }),
        Effect.provideContext(context)
      )
      const ask = (tag: string) => read(new ForDecision({ items: [{ tags: [tag] }] }))
      held = true
      const slow = yield* Effect.forkChild(ask("name:anna"))
      yield* Deferred.await(isRead)
      yield* events.append(tagged("anna", "name:anna"))
      yield* Effect.repeat(Effect.delay(ask("hot"), 1), { until: ({ condition }) => condition.decided.mark >= 41n })
      yield* Deferred.succeed(goOn, undefined)
      const { condition } = yield* Fiber.join(slow)
      assert.instanceOf(yield* Effect.flip(appendIf(events, condition, "name:anna")), EventStore.ConditionFailed)
    })
  )
})

describe("the locks of conditions", () => {
  it.live("are on the first tag of each item: two items of which the second tag is the same pass each other", () =>
    Effect.gen(function* () {
      const { applicationName, events, withTransaction } = yield* serveEvents()
      const [one, other] = yield* Effect.forEach(["a", "b"], (name) =>
        events.readForDecision([{ tags: [`name:${name}`, "tenant"] }])
      )
      if (one === undefined || other === undefined) return assert.fail()
      const holder = yield* open(withTransaction, appendIf(events, one.condition, "name:a", "tenant"))
      yield* appendIf(events, other.condition, "name:b", "tenant")
      yield* events.append(tagged("beside", "tenant"))
      // The first tag is held: a writer waits, and so does a decision.
      const again = yield* events.readForDecision([{ tags: ["name:a", "tenant"] }])
      const waiting = yield* Effect.forEach(
        [appendIf(events, again.condition, "tenant"), events.append(tagged("writer", "name:a"))],
        (append) =>
          Effect.forkChild(
            Effect.exit<EventStore.StoredEvent[] | readonly EventStore.StoredEvent[], unknown, never>(append)
          )
      )
      yield* untilBlocked(1, applicationName)
      yield* holder.commit
      const [decided, written] = yield* Effect.forEach(waiting, (fiber) => Fiber.join(fiber))
      assert.instanceOf(decided && errorOf(decided), EventStore.ConditionFailed)
      assert.isTrue(written !== undefined && Exit.isSuccess(written))
    })
  )

  it.live("keep to one order, so that racers on the same tags in any order never deadlock", () =>
    Effect.gen(function* () {
      const { events } = yield* serveEvents()
      const other = yield* serveEvents({ options: { schema: (yield* serveEvents()).schema } })
      const tags = numbers(6).map((n) => `t:${n}`)
      const errors = yield* Effect.forEach(
        numbers(200),
        (n) =>
          Effect.gen(function* () {
            const store = n % 2 === 0 ? events : other.events
            const own = n % 3 === 0 ? tags : tags.toReversed()
            const { condition } = yield* store.readForDecision(own.map((tag) => ({ tags: [tag] })))
            return yield* Effect.exit(appendIf(store, condition, ...own.slice(n % 4)))
          }),
        { concurrency: 24 }
      )
      for (const exit of errors) if (Exit.isFailure(exit)) assert.instanceOf(errorOf(exit), EventStore.ConditionFailed)
    })
  )

  it.live("that come later in the order are not held while an append in a transaction waits for one", () =>
    Effect.gen(function* () {
      const { applicationName, events, table, withTransaction } = yield* serveEvents()
      const rows = yield* query(
        `SELECT name FROM unnest(ARRAY['one', 'other']) AS name
         ORDER BY hashtextextended(name, -1 - '${table}'::regclass::oid::bigint)`
      )
      const [first = "", last = ""] = rows.map(([name]) => String(name))
      const decideOn = (...tags: ReadonlyArray<string>) =>
        Effect.flatMap(events.readForDecision(tags.map((tag) => ({ tags: [tag] }))), ({ condition }) =>
          appendIf(events, condition, "beside")
        )
      for (const append of [
        () => events.append(tagged("writer", last, first)),
        () => events.append([tagged("writer", last), tagged("other", first)]),
        () => events.append(tagged("writer", last, first), { expected: "any", onDuplicate: "ignore" }),
        () => decideOn(last, first)
      ]) {
        const holder = yield* open(withTransaction, decideOn(first))
        const other = yield* open(withTransaction, decideOn(last))
        const before = yield* Effect.forkChild(withTransaction(decideOn(first, last)))
        yield* untilBlocked(1, applicationName)
        yield* other.commit
        // The last lock is free now. Whoever took it, and then waited for the first, would wait in a circle with the one before.
        const after = yield* Effect.forkChild(withTransaction(Effect.asVoid(append())))
        yield* untilBlocked(2, applicationName)
        yield* holder.commit
        yield* Fiber.join(before)
        yield* Fiber.join(after)
      }
    })
  )

  it.live(
    "are that of the whole log for an item without tags: it waits for every append, and every append for it",
    () =>
      Effect.gen(function* () {
        const { applicationName, events, withTransaction } = yield* serveEvents()
        for (const items of [[{}], [{ tags: ["t"] }, { eventTypes: ["Happened"] }]]) {
          const first = yield* events.readForDecision(items)
          const writer = yield* open(withTransaction, events.append(event("writer")))
          const overtaken = yield* Effect.forkChild(Effect.flip(appendIf(events, first.condition, "u")))
          yield* untilBlocked(1, applicationName)
          yield* writer.commit
          assert.instanceOf(yield* Fiber.join(overtaken), EventStore.ConditionFailed)
          const second = yield* events.readForDecision(items)
          const decider = yield* open(withTransaction, appendIf(events, second.condition, "u"))
          const later = yield* Effect.forkChild(events.append(event("writer")))
          yield* untilBlocked(1, applicationName)
          yield* decider.commit
          yield* Fiber.join(later)
        }
      })
  )

  it.live("take the coarse lock where the tags of a condition are too many, and count with all others", () =>
    Effect.gen(function* () {
      const { events, sql, withTransaction } = yield* serveEvents()
      const locks = sql`SELECT count(*)::int AS count FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()`
      const { condition } = yield* events.readForDecision(numbers(64).map((n) => ({ tags: [`c:${n}`] })))
      for (const [length, expected] of [
        [90, 90 + 90 + 64 + 1],
        [94, 1]
      ] as const) {
        const batch = numbers(length).map((n) => tagged(`${length} ${n}`, `t:${n}`))
        const held = yield* withTransaction(Effect.andThen(events.append(batch, { condition }), locks))
        assert.deepStrictEqual(held, [{ count: expected }])
      }
    })
  )

  it.live("are waited for with a limit, and the error names who holds them, a prepared transaction, too", () =>
    Effect.gen(function* () {
      const { events, sql, table, withTransaction } = yield* serveEvents()
      const { condition } = yield* events.readForDecision([{ tags: ["t"] }])
      const foreign = yield* session()
      const gid = yield* unique
      yield* Effect.addFinalizer(() => Effect.ignore(execute([`ROLLBACK PREPARED '${gid}'`])))
      yield* foreign("BEGIN")
      yield* foreign(
        `SELECT FROM ${table}_append(ARRAY[0], ARRAY['x'], ARRAY['a'], ARRAY['T'], ARRAY['1'], ARRAY['null'], ARRAY[false], ARRAY[false], ARRAY['any'], true, ARRAY['x'], ARRAY['t'])`
      )
      const attempt = withTransaction(
        Effect.andThen(sql`SET LOCAL lock_timeout = '50ms'`, appendIf(events, condition, "t"))
      )
      yield* failsWith(attempt, "EventStore.append", "Contention", /waiting for pid \d+, role \w+, application/)
      yield* foreign(`PREPARE TRANSACTION '${gid}'`)
      yield* failsWith(
        attempt,
        "EventStore.append",
        "Contention",
        new RegExp(`waiting for the prepared transaction '${gid}'`)
      )
      yield* execute([`COMMIT PREPARED '${gid}'`])
      assert.instanceOf(yield* Effect.flip(appendIf(events, condition, "t")), EventStore.ConditionFailed)
    })
  )
})

describe("a tag that a transaction writes, and then decides upon", () => {
  it.live("beside another one that does the same: one of them fails with Contention, and the other one decides", () =>
    Effect.gen(function* () {
      const { applicationName, events, withTransaction } = yield* serveEvents()
      const goOn = yield* Deferred.make<void>()
      const begin = Effect.gen(function* () {
        const begun = yield* Deferred.make<void>()
        const exit = yield* Effect.gen(function* () {
          const own = yield* events.append(tagged("writer", "t"))
          yield* Deferred.succeed(begun, undefined)
          yield* Deferred.await(goOn)
          const { condition, events: found } = yield* events.readForDecision([{ tags: ["t"] }])
          assert.deepStrictEqual(found, own)
          yield* appendIf(events, condition, "t")
        }).pipe(withTransaction, Effect.exit, Effect.forkChild)
        yield* Deferred.await(begun)
        return exit
      })
      const fibers = [yield* begin, yield* begin]
      yield* Deferred.succeed(goOn, undefined)
      const exits = yield* Effect.forEach(fibers, (fiber) => Fiber.join(fiber))
      const failed = exits.filter(Exit.isFailure)
      assert.lengthOf(failed, 1)
      for (const exit of failed) {
        yield* failsWith(exit, "EventStore.append", "Contention", /deadlock detected; run the transaction again/)
      }
      assert.lengthOf((yield* events.readForDecision([{ tags: ["t"] }])).events, 2)
      yield* untilBlocked(0, applicationName)
    })
  )
})

describe("appends with conditions that are coalesced", () => {
  it.live("go together where they cannot conflict, and one after the other where they do", () =>
    Effect.gen(function* () {
      const { events, table } = yield* serveEvents()
      const disjoint = yield* Effect.forEach(numbers(200), (n) => events.readForDecision([{ tags: [`n:${n}`] }]))
      yield* Effect.forEach(disjoint, ({ condition }, n) => appendIf(events, condition, `n:${n}`), {
        concurrency: "unbounded"
      })
      const [row] = yield* query(`SELECT count(DISTINCT xmin::text)::int, count(*)::int FROM ${table}`)
      assert.strictEqual(row?.[1], 200)
      assert.isAtMost(Number(row?.[0]), 40)
    })
  )

  it.live("know of the tags that others write in the same statement", () =>
    Effect.gen(function* () {
      const { applicationName, events, table } = yield* serveEvents()
      for (const [items, blocked, write] of [
        [[{ tags: ["t"] }], 2, () => events.append(tagged("writer", "t"))],
        [[{ eventTypes: ["Happened"] }], 3, () => events.append({ ...event("writer"), tags: ["t"] })],
        [[{}], 3, () => events.append(event("writer"), { expected: "any", onDuplicate: "ignore" })]
      ] as const) {
        const { condition } = yield* events.readForDecision(items)
        const second = yield* events.readForDecision(items)
        const foreign = yield* session()
        yield* foreign("BEGIN")
        yield* foreign(`LOCK TABLE ${table} IN SHARE MODE`)
        // What is submitted while an append is under way goes together, as far as it may.
        const busy = yield* Effect.forkChild(events.append(event("busy")), { startImmediately: true })
        yield* untilBlocked(1, applicationName)
        const fibers = [
          yield* Effect.forkChild(Effect.exit(write())),
          yield* Effect.forkChild(Effect.exit(appendIf(events, condition, "t"))),
          yield* Effect.forkChild(Effect.exit(appendIf(events, second.condition, "t")))
        ]
        yield* untilBlocked(blocked, applicationName)
        yield* foreign("COMMIT")
        yield* Fiber.join(busy)
        const [written, ...decided] = yield* Effect.forEach(fibers, (fiber) => Fiber.join(fiber))
        assert.isTrue(written !== undefined && Exit.isSuccess(written))
        const winners = decided.filter(Exit.isSuccess)
        assert.isAtMost(winners.length, 1)
        const writer = written !== undefined && Exit.isSuccess(written) ? written.value[0]?.version : undefined
        for (const { value } of winners)
          assert.isBelow(Number(value[0]?.version), Number(writer), "the decision came first")
      }
    })
  )
})

describe("a condition", () => {
  it.live("cannot be checked outside of READ COMMITTED, and is not given there", () =>
    Effect.gen(function* () {
      const { events, sql, withTransaction } = yield* serveEvents()
      const { condition } = yield* events.readForDecision([{ tags: ["t"] }])
      const strictly = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
        withTransaction(Effect.andThen(sql`SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`, effect))
      const says = /READ COMMITTED/
      yield* failsWith(strictly(appendIf(events, condition, "t")), "EventStore.append", "Unexpected", says)
      yield* failsWith(
        strictly(events.readForDecision([{ tags: ["t"] }])),
        "EventStore.readForDecision",
        "Unexpected",
        says
      )
      yield* appendIf(events, condition, "t")
    })
  )

  it.live("of an item without tags does not hold against plain SQL; with a tag it has nothing to do with that", () =>
    Effect.gen(function* () {
      const { events, table } = yield* serveEvents()
      const all = yield* events.readForDecision([{}])
      const own = yield* events.readForDecision([{ tags: ["t"] }])
      const foreign = yield* session()
      yield* foreign("BEGIN")
      yield* foreign(plainInsert(table, "plain"))
      yield* appendIf(events, own.condition, "t")
      yield* foreign("COMMIT")
      const failed = yield* Effect.flip(appendIf(events, all.condition, "u"))
      assert.instanceOf(failed, EventStore.ConditionFailed)
      assert.deepStrictEqual([failed.version, failed.tags], [Option.some(1n), []])
    })
  )

  it.live("from before the log was set back, or of another log, is LogReplaced; a restart alone is no such case", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { events, table } = served
      yield* events.append(numbers(40).map((n) => tagged(`a${n}`, "hot")))
      const { condition } = yield* untilMarked(served, "hot", 40n)
      const restarted = new EventStore.Condition({ ...condition.decided, server: "before the restart" })
      yield* appendIf(events, restarted, "cold")
      const other = yield* serveEvents()
      yield* other.events.append(numbers(50).map((n) => tagged(`a${n}`, "hot")))
      const foreign = yield* Effect.flip(appendIf(other.events, condition, "cold"))
      assert.instanceOf(foreign, EventStore.LogReplaced)
      assert.strictEqual(foreign.version, 40n)
      // A match that was committed late is lost, and the event at the mark is not.
      yield* execute([`DELETE FROM ${table} WHERE version = 7`, `DELETE FROM ${table}_tags WHERE version = 7`])
      yield* appendIf(events, condition, "cold")
      assert.instanceOf(yield* Effect.flip(appendIf(events, restarted, "cold")), EventStore.LogReplaced)
      yield* execute([`TRUNCATE ${table}, ${table}_tags RESTART IDENTITY`])
      yield* events.append(numbers(50).map((n) => tagged(`b${n}`, "other")))
      assert.instanceOf(yield* Effect.flip(appendIf(events, condition, "cold")), EventStore.LogReplaced)
    })
  )

  it.live("is void once events have been tagged afterwards", () =>
    Effect.gen(function* () {
      const { events, table } = yield* serveEvents()
      yield* events.append(event("a"))
      const { condition } = yield* events.readForDecision([{ tags: ["t"] }])
      yield* execute([`INSERT INTO ${table}_tags VALUES ('t', 1), ('', 1)`])
      const failed = yield* Effect.flip(appendIf(events, condition, "u"))
      assert.instanceOf(failed, EventStore.ConditionFailed)
      assert.strictEqual(failed.change, "tagged")
      const again = yield* events.readForDecision([{ tags: ["t"] }])
      assert.lengthOf(again.events, 1)
      yield* appendIf(events, again.condition, "u")
    })
  )
})
