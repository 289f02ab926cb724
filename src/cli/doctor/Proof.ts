/** The proof of the doctor: many writers, some of which roll back, and a subscriber that must see each event once. */
import { PgClient } from "@effect/sql-pg"
import { Cause, Clock, Context, Duration, Effect, Exit, Fiber, Latch, Layer, Random, Schema, Stream } from "effect"
import { EventStore } from "../../EventStore.ts"
import { decodeRows } from "../../postgres/database/DecodeRows.ts"
import { quote } from "../../postgres/database/Identifier.ts"
import { PostgresDatabase } from "../../postgres/database/PostgresDatabase.ts"
import { reasonOf } from "../../postgres/database/Reasons.ts"
import * as Postgres from "../../postgres/index.ts"
import { Transactor } from "../../Transactor.ts"
import { Failed } from "../terminal/Failure.ts"
import type { Finding } from "./TableChecks.ts"

const writers = 12

/** How long the subscriber may take for the last events after the writers have ended. */
const patience = Duration.seconds(10)

const Version = Schema.Struct({ version: Schema.BigInt })

/** A schema that is gone with the scope. */
const scratch = Effect.gen(function* () {
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

class RolledBack extends Schema.TaggedError<RolledBack>()("RolledBack", {}) {}

/** One transaction of some events, which now and then is rolled back, and takes a moment before it ends. */
const transaction = Effect.gen(function* () {
  const { append } = yield* EventStore
  const { withTransaction } = yield* Transactor
  const aggregateId = `aggregate-${yield* Random.nextIntBetween(0, 50)}`
  const rollBack = (yield* Random.next) < 0.2
  const millis = (yield* Random.next) * 5
  yield* withTransaction(
    Effect.gen(function* () {
      yield* append({ aggregateId, eventType: "Proof", data: { at: yield* Clock.currentTimeMillis } })
      yield* Effect.sleep(millis)
      if (rollBack) return yield* new RolledBack()
      yield* append({ aggregateId, eventType: "Proof", data: { at: yield* Clock.currentTimeMillis } })
    })
  ).pipe(Effect.catchTag("RolledBack", () => Effect.void))
})

/** Runs it for so many milliseconds, and says what has come of it. */
export const prove = (millis: number) =>
  Effect.gen(function* () {
    const schema = yield* scratch
    const client = yield* PgClient.PgClient
    const context = yield* Layer.build(
      Layer.provideMerge(Postgres.layer({ schema }), Layer.succeed(PgClient.PgClient, client))
    )
    const { names, query, sql } = yield* PostgresDatabase
    const seen: Array<bigint> = []
    const progressed = yield* Latch.make()
    const subscriber = yield* Context.get(context, EventStore)
      .subscribe({ after: "start" })
      .pipe(
        Stream.runForEachArray((events) =>
          Effect.suspend(() => {
            for (const { version } of events) seen.push(version)
            return progressed.open
          })
        ),
        Effect.forkScoped
      )

    const writing = Effect.forever(transaction).pipe(Effect.timeoutOption(millis))
    yield* Effect.provideContext(
      Effect.all(
        Array.from({ length: writers }, () => writing),
        { concurrency: "unbounded", discard: true }
      ),
      context
    )

    const table = sql.literal(`${quote(schema)}.events`)
    const stored = yield* Effect.flatMap(
      query(sql`SELECT version FROM ${table} ORDER BY version`),
      decodeRows(Version, names.events, ["version"])
    )
    const last = stored.at(-1)?.version ?? 0n
    const caughtUp = Effect.gen(function* () {
      while ((seen.at(-1) ?? 0n) < last) {
        yield* progressed.await
        yield* progressed.close
      }
    })
    yield* Effect.timeoutOption(caughtUp, patience)
    const exit = subscriber.pollUnsafe()
    if (exit !== undefined && Exit.isFailure(exit)) {
      return yield* new Failed({ message: `the subscriber ended: ${Cause.squash(exit.cause)}` })
    }
    yield* Fiber.interrupt(subscriber)

    const found = new Set(seen)
    const lost = stored.filter(({ version }) => !found.has(version)).length
    const disorder = seen.filter((version, index) => index > 0 && version <= (seen[index - 1] ?? 0n)).length
    const holes = Number(last) - stored.length
    const says =
      `${stored.length.toLocaleString("en-US")} events of ${writers} writers, ${holes.toLocaleString("en-US")} versions ` +
      `rolled back: ${lost} lost, ${disorder} twice or out of order`
    const finding: Finding =
      lost + disorder === 0
        ? { level: "ok", says }
        : { level: "problem", says, remedy: "this must not be: please report it, with what strata doctor says" }
    return finding
  }).pipe(Effect.scoped)
