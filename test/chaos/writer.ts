/** Appends and enqueues, in every way there is, and writes down what it is about to do and how that has ended. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Random, Schedule, Stream } from "effect"
import { EventStore, Transactor } from "effect-strata"
import type { Began, Fate } from "../support/histories.ts"
import { errands, isStopping, jobs, main, name, note, worked } from "./child.ts"
import { endOf, type Failure, isRetryable, RolledBack } from "./ends.ts"

const connections = 4
const begun = Date.now().toString(36)
let writes = 0

type Plan = Omit<typeof Began.Type, "write">

const range = (count: number) => Array.from({ length: count }, (_, index) => index)

const amount = Random.nextIntBetween(1, 100)

const newEvents = (ids: ReadonlyArray<string>, aggregateId?: string) =>
  Effect.forEach(ids, (id) =>
    Effect.gen(function* () {
      const account = aggregateId ?? `account ${yield* Random.nextIntBetween(0, 40)}`
      return { id, aggregateId: account, eventType: "Added", data: yield* amount }
    })
  )

const pause = Effect.flatMap(Random.nextIntBetween(0, 30), Effect.sleep)

const fates = ["fine", "fine", "stubborn", "hopeless"] as const satisfies ReadonlyArray<Fate>

const enqueue = (messages: ReadonlyArray<string>) =>
  jobs.enqueueAll(messages.map((id) => ({ id, payload: fates.find((fate) => id.endsWith(`:${fate}`)) ?? "fine" })))

const enqueueOne = (id: string) =>
  id.endsWith(":slow") ? errands.enqueueAll([{ id, payload: "slow" }]) : enqueue([id])

/** Writes the plan down, carries it out, and writes down how it has ended. */
const recorded = Effect.fnUntraced(function* <R>(
  planned: (id: string) => Plan,
  write: (plan: Plan) => Effect.Effect<unknown, Failure, R>
) {
  const id = `${name}-${begun}-${writes++}`
  const plan = planned(id)
  note(name, { write: id, ...plan })
  const ended = yield* Effect.match(write(plan), {
    onSuccess: () => ({ end: "acknowledged" }),
    onFailure: endOf
  })
  note(name, { write: id, ...ended })
  if (ended.end === "acknowledged") worked()
})

/** Tries a write again until it works. Its ids keep it from storing anything twice. */
const persistent = <A, R>(write: Effect.Effect<A, Failure, R>) =>
  Effect.retry(write, { schedule: Schedule.spaced("200 millis"), while: isRetryable })

const batch = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  const size = yield* Random.nextIntBetween(1, 20)
  const fate = yield* Random.choice(fates)
  yield* recorded(
    (id) => ({ events: range(size).map((n) => `${id}.${n}`), undone: [], messages: [] }),
    ({ events: ids }) =>
      Effect.flatMap(newEvents(ids), (all) => persistent(events.append(all, { onDuplicate: "ignore" })))
  )
  yield* recorded(
    (id) => ({ events: [], undone: [], messages: [`${id}.a:${fate}`, `${id}.b:fine`] }),
    ({ messages }) => persistent(enqueue(messages))
  )
})

/** A transaction with pauses, a savepoint, which may be undone, and a message. One in five is rolled back. */
const transaction = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  const { withTransaction } = yield* Transactor.Transactor
  const fate = yield* Random.choice([...fates, "slow"])
  const undo = yield* Random.nextBoolean
  const rollBack = (yield* Random.next) < 0.2
  yield* recorded(
    (id) => ({
      events: [`${id}.0`, ...(undo ? [] : [`${id}.1`]), `${id}.2`],
      undone: undo ? [`${id}.1`] : [],
      messages: [`${id}.m:${fate}`]
    }),
    ({ events: ids, messages, undone }) =>
      withTransaction(
        Effect.gen(function* () {
          const [first = "", ...others] = ids
          const last = others.slice(-1)
          const inner = [...undone, ...others.slice(0, -1)]
          yield* events.append(yield* newEvents([first]))
          yield* pause
          const nested = Effect.flatMap(newEvents(inner), (all) => events.append(all))
          yield* withTransaction(undo ? Effect.andThen(nested, Effect.fail(new RolledBack())) : nested).pipe(
            Effect.catchTag("RolledBack", () => Effect.void)
          )
          yield* Effect.forEach(messages, enqueueOne)
          yield* pause
          yield* events.append(yield* newEvents(last))
          if (rollBack) return yield* new RolledBack()
          return
        })
      )
  )
})

/** Appends to an aggregate that all writers share, and expects the last version that it has seen there. */
const expecting = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  yield* recorded(
    (id) => ({ events: [`${id}.0`], undone: [], messages: [] }),
    ({ events: ids }) =>
      Effect.gen(function* () {
        const [last] = yield* Stream.runCollect(
          events.read({ aggregateIds: ["shared"], direction: "backward", limit: 1 })
        )
        yield* pause
        yield* events.append(yield* newEvents(ids, "shared"), { expected: last?.version ?? "none" })
      })
  )
})

const write = Effect.gen(function* () {
  while (!isStopping()) {
    yield* yield* Random.choice([batch, transaction, transaction, expecting])
    yield* Effect.sleep(yield* Random.nextIntBetween(50, 200))
  }
})

/** Takes the whole pool for a while, when it is told to. */
const fillPool = Effect.gen(function* () {
  const sql = yield* PgClient.PgClient
  yield* Effect.callback<void>((resume) => {
    process.once("SIGUSR2", () => resume(Effect.void))
  })
  yield* Effect.ignore(
    Effect.all(
      range(connections).map(() => sql`SELECT pg_sleep(2)`),
      { concurrency: "unbounded" }
    )
  )
}).pipe(Effect.forever)

const writers = Effect.all(
  range(3).map(() => write),
  { concurrency: "unbounded" }
)

// The writers end by themselves when they are told to: each write that has begun ends, and is written down.
main(Effect.raceFirst(writers, fillPool), connections)
