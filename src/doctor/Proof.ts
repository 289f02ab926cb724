/** The proof of the doctor: many writers, some of which roll back, and a subscriber that must see each event once. */
import { PgClient } from "@effect/sql-pg"
import { Cause, Clock, Duration, Effect, Exit, Fiber, Latch, Layer, Random, Schema, Stream } from "effect"
import { EventStore } from "../EventStore.ts"
import { decodeRows } from "../postgres/database/DecodeRows.ts"
import { quote } from "../postgres/database/Identifier.ts"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import { reasonOf } from "../postgres/database/Reasons.ts"
import * as Postgres from "../postgres/index.ts"
import { Transactor } from "../Transactor.ts"
import type { Finding } from "./Check.ts"

const writers = 12

const aggregates = 50

/** The share of the transactions that roll back, which leaves holes among the versions. */
const rollbackShare = 0.2

/** A transaction stays open for a random time up to this one, so that versions become visible out of order. */
const longestTransaction = Duration.millis(5)

/** How long the subscriber may take for the last events after the writers have ended. */
const catchUpTimeout = Duration.seconds(10)

const Version = Schema.Struct({ version: Schema.BigInt })

/** Makes a schema, and drops it when the scope closes. */
const temporarySchema = Effect.gen(function* () {
  const { sql } = yield* PostgresDatabase
  const name = `strata_prove_${crypto.randomUUID().slice(0, 8)}`
  const run = (statement: string) => sql.unsafe(statement).unprepared
  yield* Effect.acquireRelease(run(`CREATE SCHEMA ${quote(name)}`), () =>
    Effect.catch(run(`DROP SCHEMA ${quote(name)} CASCADE`), (error) =>
      Effect.logWarning(`the schema ${name} is left behind: ${reasonOf(error).message}`)
    )
  )
  return name
})

/** The proof came to no end. */
class ProofFailed extends Schema.TaggedError<ProofFailed>("effect-strata/doctor/ProofFailed")("ProofFailed", {
  message: Schema.String
}) {}

class RolledBack extends Schema.TaggedError<RolledBack>()("RolledBack", {}) {}

/** A transaction that appends an event, stays open for a moment, and then appends another one or rolls back. */
const writeOnce = Effect.gen(function* () {
  const { append } = yield* EventStore
  const { withTransaction } = yield* Transactor
  const aggregateId = `aggregate-${yield* Random.nextIntBetween(0, aggregates)}`
  const rollBack = (yield* Random.next) < rollbackShare
  const pauseMillis = (yield* Random.next) * Duration.toMillis(longestTransaction)
  yield* withTransaction(
    Effect.gen(function* () {
      yield* append({ aggregateId, eventType: "Proof", data: { at: yield* Clock.currentTimeMillis } })
      yield* Effect.sleep(pauseMillis)
      if (rollBack) return yield* new RolledBack()
      yield* append({ aggregateId, eventType: "Proof", data: { at: yield* Clock.currentTimeMillis } })
    })
  ).pipe(Effect.catchTag("RolledBack", () => Effect.void))
})

/** Runs all writers for a time. */
const writeFor = (time: Duration.Duration) =>
  Effect.all(
    Array.from({ length: writers }, () => Effect.timeoutOption(Effect.forever(writeOnce), time)),
    { concurrency: "unbounded", discard: true }
  )

/** Subscribes from the start of the log, and notes each version that is delivered. */
const subscriber = Effect.fnUntraced(function* (tell: (delivered: number) => void) {
  const { subscribe } = yield* EventStore
  const delivered: Array<bigint> = []
  const progressed = yield* Latch.make()
  const fiber = yield* subscribe({ after: "start" }).pipe(
    Stream.runForEachArray((events) =>
      Effect.suspend(() => {
        for (const { version } of events) delivered.push(version)
        tell(delivered.length)
        return progressed.open
      })
    ),
    Effect.forkScoped
  )
  /** Waits until the subscriber has reached a version, but not longer than `catchUpTimeout`. */
  const reached = (version: bigint) =>
    Effect.gen(function* () {
      while ((delivered.at(-1) ?? 0n) < version) {
        yield* progressed.await
        yield* progressed.close
      }
    }).pipe(Effect.timeoutOption(catchUpTimeout))
  return { delivered, fiber, reached }
})

/** The versions in the table, without any regard to transactions: nobody writes any more. */
const storedVersions = Effect.fnUntraced(function* (schema: string) {
  const { names, query, sql } = yield* PostgresDatabase
  const table = sql.literal(`${quote(schema)}.${quote(names.events)}`)
  const rows = yield* Effect.flatMap(
    query(sql`SELECT version FROM ${table} ORDER BY version`),
    decodeRows(Version, names.events, ["version"])
  )
  return rows.map(({ version }) => version)
})

const compare = (stored: ReadonlyArray<bigint>, delivered: ReadonlyArray<bigint>): Finding => {
  const seen = new Set(delivered)
  const lost = stored.filter((version) => !seen.has(version)).length
  const disorder = delivered.filter((version, index) => index > 0 && version <= (delivered[index - 1] ?? 0n)).length
  const holes = Number(stored.at(-1) ?? 0n) - stored.length
  const says =
    `${stored.length.toLocaleString("en-US")} events of ${writers} writers, ${holes.toLocaleString("en-US")} versions ` +
    `rolled back: ${lost} lost, ${disorder} twice or out of order`
  return lost + disorder === 0
    ? { level: "ok", says }
    : { level: "problem", says, remedy: "this must not be: please report it, with what strata doctor says" }
}

/**
 * Tells how many events were delivered while it lets the writers run for a time, in a schema of their own, and compares what is
 * stored with what was delivered.
 */
export const prove = (time: Duration.Duration, tell: (delivered: number) => void = () => {}) =>
  Effect.gen(function* () {
    const schema = yield* temporarySchema
    const client = yield* PgClient.PgClient
    // The caller has stores of its own, on the tables that it examines.
    const stores = yield* Layer.build(
      Layer.fresh(Layer.provideMerge(Postgres.layer({ schema }), Layer.succeed(PgClient.PgClient, client)))
    )
    const { delivered, fiber, reached } = yield* Effect.provideContext(subscriber(tell), stores)
    yield* Effect.provideContext(writeFor(time), stores)
    const stored = yield* storedVersions(schema)
    yield* reached(stored.at(-1) ?? 0n)
    const exit = fiber.pollUnsafe()
    if (exit !== undefined && Exit.isFailure(exit)) {
      return yield* new ProofFailed({ message: `the subscriber ended: ${Cause.squash(exit.cause)}` })
    }
    yield* Fiber.interrupt(fiber)
    return compare(stored, delivered)
  }).pipe(Effect.scoped)
