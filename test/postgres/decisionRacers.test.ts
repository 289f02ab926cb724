/** Racers that decide on the same tags, beside writers who know nothing of them: each time exactly one of them wins. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Option } from "effect"
import { EventStore } from "effect-strata"
import { event, plainInsert, serveEvents, session } from "./events.harness.ts"
import { execute, query, unique } from "./harness.ts"

const rounds = 200
const racers = 16

const tagged = (tag: string) => ({ ...event(crypto.randomUUID()), tags: [tag, "tenant"] })

const numbers = (length: number) => Array.from({ length }, (_, index) => index)

describe("racers that decide after all of them have read", () => {
  it.live("have one winner in each round, beside plain writers, rollbacks, savepoints and prepared transactions", () =>
    Effect.gen(function* () {
      // Two stores with pools of their own stand for two processes.
      const first = yield* serveEvents()
      const second = yield* serveEvents({ options: { schema: first.schema } })
      const served = [first, second]
      const over = yield* Deferred.make<void>()
      const until = <A, E>(effect: (n: number) => Effect.Effect<A, E>) =>
        Effect.gen(function* () {
          for (let n = 0; !Deferred.isDoneUnsafe(over); n++) {
            yield* effect(n)
            yield* Effect.yieldNow
          }
        })
      const foreign = yield* session()
      const plain = until((n) => foreign(plainInsert(first.table, `plain ${n}`)))
      const undone = until((n) =>
        Effect.exit(
          first.withTransaction(
            Effect.gen(function* () {
              yield* first.events.append(tagged(`beside ${n}`))
              yield* Effect.exit(
                first.withTransaction(
                  Effect.andThen(first.events.append(tagged(`round ${n % rounds}`)), Effect.fail("undo the savepoint"))
                )
              )
              if (n % 2 === 0) return yield* Effect.fail("undo")
            })
          )
        )
      )
      const preparer = yield* session()
      const prefix = yield* unique
      yield* Effect.addFinalizer(() =>
        Effect.flatMap(query(`SELECT gid FROM pg_prepared_xacts WHERE gid LIKE '${prefix}%'`), (rows) =>
          execute(rows.map(([gid]) => `ROLLBACK PREPARED '${gid}'`))
        ).pipe(Effect.ignore)
      )
      const prepared = until((n) =>
        Effect.gen(function* () {
          yield* preparer("BEGIN")
          yield* preparer(plainInsert(first.table, `prepared ${n}`))
          yield* preparer(`PREPARE TRANSACTION '${prefix} ${n}'`)
          yield* preparer(`${n % 2 === 0 ? "COMMIT" : "ROLLBACK"} PREPARED '${prefix} ${n}'`)
        })
      )
      const race = Effect.fnUntraced(function* (round: number) {
        const tag = `round ${round}`
        // All have read before one of them appends.
        const decisions = yield* Effect.forEach(
          numbers(racers),
          (racer) => {
            const { events } = served[racer % 2] ?? first
            return Effect.map(events.readForDecision([{ tags: [tag, "tenant"] }]), ({ condition }) => ({
              condition,
              events
            }))
          },
          { concurrency: "unbounded" }
        )
        const exits = yield* Effect.forEach(
          decisions,
          ({ condition, events }) => Effect.exit(events.append(tagged(tag), { condition })),
          { concurrency: "unbounded" }
        )
        assert.lengthOf(exits.filter(Exit.isSuccess), 1)
        for (const exit of exits.filter(Exit.isFailure)) {
          assert.instanceOf(Option.getOrUndefined(Exit.findErrorOption(exit)), EventStore.ConditionFailed)
        }
      })
      const racing = Effect.andThen(
        Effect.forEach(numbers(rounds), race, { concurrency: 2, discard: true }),
        Deferred.succeed(over, undefined)
      )
      yield* Effect.all([racing, plain, undone, prepared], { concurrency: "unbounded" })
      for (const round of numbers(rounds)) {
        assert.lengthOf((yield* first.events.readForDecision([{ tags: [`round ${round}`] }])).events, 1)
      }
    })
  )
})
