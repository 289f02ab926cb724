/**
 * Half of the racers of each race, and half of the decisions that have nothing to do with each other. Beside them are plain
 * writers, and writers of the tags that all of these events have.
 */
import { PgClient } from "@effect/sql-pg"
import { Deferred, Effect, Fiber, Queue, Schema, Semaphore } from "effect"
import { EventStore, type InvalidInput, type StoreError, Transactor } from "effect-strata"
import { withConnection } from "../support/connection.ts"
import { decided, raced, RacerCommand, type RacerSaid } from "./agreed.ts"
import { main, name, schema, url } from "./child.ts"
import { RolledBack } from "./ends.ts"
import { plainTransaction } from "./plain.ts"

/** How many decisions of this process are under way at once. */
const deciders = 16

/** About how often each tag is decided upon. */
const timesEach = 10

const range = (count: number) => Array.from({ length: count }, (_, index) => index)

const tell = (said: typeof RacerSaid.Type) => Effect.sync(() => process.send?.(said))

const eventOf = (eventType: string, ...tags: ReadonlyArray<string>) => ({
  aggregateId: crypto.randomUUID(),
  eventType,
  data: {},
  tags
})

const program = Effect.fnUntraced(function* (foreign: PgClient.PgClient) {
  const events = yield* EventStore.EventStore
  const sql = yield* PgClient.PgClient
  const { withTransaction } = yield* Transactor.Transactor
  let number = 0

  /** Ends a prepared transaction: outside of the pool, whose connections may all be waiting for it. */
  const finishing = yield* Semaphore.make(1)
  const finish = (statement: string) => finishing.withPermit(foreign.unsafe(statement).unprepared)

  type Append = Effect.Effect<unknown, EventStore.DecisionError | InvalidInput.InvalidInput | StoreError.StoreError>

  const undoing = (append: Append) =>
    Effect.catchTag(withTransaction(Effect.andThen(append, Effect.fail(new RolledBack()))), "RolledBack", () =>
      Effect.succeed("undone")
    )

  const alone = (append: Append) => Effect.as(append, "won")

  const inTransaction = (append: Append) => Effect.as(withTransaction(append), "won")

  const afterSavepoint = (append: Append) => withTransaction(Effect.andThen(undoing(append), alone(append)))

  /** What is prepared is out of the transaction: the COMMIT after it has nothing to do. */
  const prepared = (end: "COMMIT" | "ROLLBACK") => (append: Append) => {
    const gid = `${name}.${number++}`
    const prepare = sql.unsafe(`PREPARE TRANSACTION '${gid}'`).unprepared
    return Effect.as(
      Effect.andThen(withTransaction(Effect.andThen(append, prepare)), finish(`${end} PREPARED '${gid}'`)),
      end === "COMMIT" ? "won" : "undone"
    )
  }

  /** How the racers decide: a word for each way to end if nothing of the race was there. */
  const racers = [alone, inTransaction, undoing, prepared("COMMIT"), afterSavepoint, alone, prepared("ROLLBACK"), alone]

  const conditions = new Map<number, ReadonlyArray<EventStore.Condition>>()

  const read = Effect.fnUntraced(function* (race: number) {
    const query = [{ tags: [`race:${race}`, "hot"] }]
    const reads = Effect.forEach(racers, () => events.readForDecision(query), { concurrency: "unbounded" })
    conditions.set(
      race,
      (yield* reads).map(({ condition }) => condition)
    )
    yield* tell({ race, has: "read" })
  })

  const decide = Effect.fnUntraced(function* (race: number) {
    const own = conditions.get(race) ?? []
    conditions.delete(race)
    const ends = yield* Effect.forEach(
      own,
      (condition, racer) => {
        const append = events.append(eventOf(raced, `race:${race}`, "hot"), { condition })
        return Effect.match((racers[racer] ?? alone)(append), {
          onSuccess: (end) => end,
          onFailure: (error) => (error._tag === "ConditionFailed" ? "overtaken" : `${error._tag}: ${error.message}`)
        })
      },
      { concurrency: "unbounded" }
    )
    yield* tell({ race, has: "decided", ends })
  })

  /** Decisions upon tags that nobody else decides upon. All of their events have the tag `hot`, and so have those of others. */
  const decideAll = Effect.fnUntraced(function* (decisions: number) {
    const tags = Math.ceil(decisions / timesEach / deciders)
    const wrong: Array<string> = []
    let done = 0
    const decider = Effect.fnUntraced(function* (fiber: number) {
      const before = new Map<number, number>()
      for (let n = fiber; n < decisions; n += deciders) {
        const own = ((n - fiber) / deciders) % tags
        const tag = `own:${name}:${fiber}:${own}`
        const { condition, events: found } = yield* events.readForDecision([{ tags: [tag, "hot"] }])
        const expected = before.get(own) ?? 0
        if (found.length !== expected) wrong.push(`${tag} has ${found.length} events, and not ${expected}`)
        yield* Effect.match(events.append(eventOf(decided, tag, "hot"), { condition }), {
          onFailure: (error) => void wrong.push(`${tag}: ${error._tag}: ${error.message}`),
          onSuccess: () => void before.set(own, expected + 1)
        })
        if (++done % 1000 === 0) yield* tell({ decided: done, wrong })
      }
    })
    yield* Effect.forEach(range(deciders), decider, { concurrency: "unbounded", discard: true })
    yield* tell({ decided: done, wrong })
  })

  const over = yield* Deferred.make<void>()
  const often = <E, R>(write: Effect.Effect<unknown, E, R>) =>
    Effect.whileLoop({
      while: () => !Deferred.isDoneUnsafe(over),
      body: () => Effect.andThen(write, Effect.sleep("10 millis")),
      step: () => {}
    })
  const plain = withConnection(url, (own) =>
    often(
      Effect.suspend(() =>
        plainTransaction((statement) => own.unsafe(statement).unprepared, {
          table: `${schema}.events`,
          write: `${name}.${number++} plain`,
          most: 5,
          pause: Effect.yieldNow
        })
      )
    )
  )
  const hot = often(Effect.suspend(() => events.append(eventOf("Beside", "hot", `beside:${number++}`))))
  const beside = yield* Effect.forkChild(Effect.all([plain, hot], { concurrency: "unbounded" }))

  while (true) {
    const command = yield* Queue.take(commands)
    if ("end" in command) break
    if ("decisions" in command) yield* Effect.forkChild(decideAll(command.decisions))
    else yield* Effect.forkChild(command.step === "read" ? read(command.race) : decide(command.race))
  }
  yield* Deferred.succeed(over, undefined)
  yield* Fiber.join(beside)
})

const commands = Effect.runSync(Queue.unbounded<typeof RacerCommand.Type>())
process.on("message", (message) => void Queue.offerUnsafe(commands, Schema.decodeUnknownSync(RacerCommand)(message)))

main(withConnection(url, program), 60)
