/**
 * Appends in every way there is, much of it at once, at the pace that its parent sets. Each event says in its type which
 * write it belongs to: so the log is checked by counting.
 */
import { Effect, Random, Schema, Stream } from "effect"
import { EventStore, Transactor } from "effect-strata"
import { withConnection } from "../support/connection.ts"
import type { Counted } from "../support/histories.ts"
import { Command, type Pace, type Said } from "./agreed.ts"
import { main, name, note, schema, url } from "./child.ts"
import { endOf, type Failure, RolledBack } from "./ends.ts"
import { oneIn, plainTransaction } from "./plain.ts"

let pace: Pace = "wait"
process.on("message", (message) => {
  pace = Schema.decodeUnknownSync(Command)(message).pace
})

let writes = 0
let written = 0

const range = (count: number) => Array.from({ length: count }, (_, index) => index)

const pause = Effect.flatMap(Random.nextIntBetween(0, 10), (kind) =>
  kind < 5 ? Effect.void : kind < 9 ? Effect.yieldNow : Effect.flatMap(Random.nextIntBetween(0, 8), Effect.sleep)
)

const eventsOf = (eventType: string, count: number, aggregateId: string) =>
  range(count).map((data) => ({ aggregateId, eventType, data }))

const aggregate = Effect.map(Random.nextIntBetween(0, 100), (number) => `aggregate ${number}`)

type End = Omit<typeof Counted.Type, "write" | "events">

const ended = (write: string, events: number, end: End) => {
  const history: typeof Counted.Type = { write, events, ...end }
  note(name, history)
  if (end.end === "acknowledged") written += events
}

/** Carries the write out, and writes down how it has ended. */
const recorded = <R>(kind: string, events: number, carryOut: (write: string) => Effect.Effect<unknown, Failure, R>) =>
  Effect.suspend(() => {
    const write = `${name}.${writes++} ${kind}`
    return Effect.match(carryOut(write), {
      onSuccess: () => ended(write, events, { end: "acknowledged" }),
      onFailure: (error) => ended(write, events, endOf(error))
    })
  })

const bulk = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  const [size, aggregateId] = [yield* Random.nextIntBetween(1, 500), yield* aggregate]
  yield* recorded("bulk", size, (write) => events.append(eventsOf(write, size, aggregateId)))
})

/** A transaction with pauses, a savepoint, which may be undone, and in one of five cases a rollback. */
const transaction = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  const { withTransaction } = yield* Transactor.Transactor
  const [size, aggregateId] = [yield* Random.nextIntBetween(1, 100), yield* aggregate]
  const [undo, rollBack] = [yield* oneIn(2), yield* oneIn(5)]
  yield* recorded("transaction", size + 1 + (undo ? 0 : 5), (write) =>
    withTransaction(
      Effect.gen(function* () {
        yield* pause
        yield* events.append(eventsOf(write, size, aggregateId))
        yield* pause
        const nested = events.append(eventsOf(undo ? `${write}, undone` : write, 5, aggregateId))
        yield* withTransaction(undo ? Effect.andThen(nested, Effect.fail(new RolledBack())) : nested).pipe(
          Effect.catchTag("RolledBack", () => pause)
        )
        yield* events.append(eventsOf(write, 1, aggregateId))
        if (rollBack) return yield* new RolledBack()
        return
      })
    )
  )
})

/** Appends to an aggregate that all writers share, and expects the last version that it has seen there. */
const expecting = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  const [last] = yield* Stream.runCollect(events.read({ aggregateIds: ["shared"], direction: "backward", limit: 1 }))
  yield* pause
  yield* recorded("expecting", 1, (write) =>
    events.append(eventsOf(write, 1, "shared"), { expected: last?.version ?? "none" })
  )
})

const plain = Effect.fnUntraced(function* (run: (statement: string) => Effect.Effect<unknown, unknown>) {
  const write = `${name}.${writes++} plain`
  const { end, events } = yield* plainTransaction(run, { table: `${schema}.events`, write, most: 2000, pause })
  ended(write, events, { end })
})

/** Writes again and again, until the parent says that it is enough. */
const often = Effect.fnUntraced(function* <E, R>(write: Effect.Effect<unknown, E, R>) {
  while (true) {
    if (pace === "end") return
    yield* pace === "go" ? write : Effect.sleep(20)
  }
})

const tell = (said: typeof Said.Type) => Effect.sync(() => process.send?.(said))

const progress = Effect.suspend(() => tell({ written })).pipe(Effect.delay("100 millis"), Effect.forever)

main(
  Effect.gen(function* () {
    const plains = range(3).map(() =>
      withConnection(url, (sql) => often(plain((statement) => sql.unsafe(statement).unprepared)))
    )
    const others = [...range(2).map(() => bulk), ...range(6).map(() => transaction), ...range(2).map(() => expecting)]
    yield* Effect.forkChild(progress)
    yield* Effect.all([...plains, ...others.map(often)], { concurrency: "unbounded" })
    yield* tell({ written })
  }),
  12
)
