/** Sessions that cannot write: what becomes of them once others can. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Option, Redacted } from "effect"
import { EventStore, OffsetStore, Projection, Transactor } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { isTransient, transientDelays } from "../../src/internal/Transient.ts"
import { withDatabase } from "../support/database.ts"
import { execute, failsWith } from "./harness.ts"

/** Sessions of a database that begin from now on may write, or may not. */
const letWrite = (url: string, may: boolean) =>
  execute([
    `ALTER DATABASE ${new URL(url).pathname.slice(1)} SET default_transaction_read_only = ${may ? "off" : "on"}`
  ])

/** The stores on one connection, of a database whose sessions begin read-only. */
const readOnly = Effect.fnUntraced(function* (url: string) {
  yield* Effect.scoped(Layer.build(Postgres.layer().pipe(Layer.provide(PgClient.layer({ url: Redacted.make(url) })))))
  yield* letWrite(url, false)
  const client = PgClient.layer({ url: Redacted.make(url), maxConnections: 1 })
  return yield* Layer.build(Layer.provide(Postgres.layerStorage(), client))
})

const id = { projectionName: "p", shardNumber: 0 }
const step = { from: Option.none<bigint>(), to: 1n }

describe("a session that is read-only", () => {
  it.live.each(["outside of a transaction", "in one"])("is not used again once others can write: %s", (where) =>
    withDatabase((url) =>
      Effect.gen(function* () {
        const stores = yield* readOnly(url)
        const { advanceOffset } = Context.get(stores, OffsetStore.OffsetStore)
        const { withTransaction } = Context.get(stores, Transactor.Transactor)
        const advance = where === "in one" ? withTransaction(advanceOffset(id, step)) : advanceOffset(id, step)
        yield* failsWith(advance, "OffsetStore.advanceOffset", "Denied", /read-only/)
        yield* letWrite(url, true)
        // The pool may have opened another session before, which is read-only as well: it is closed, too.
        assert.strictEqual((yield* Effect.retry(advance, { times: 1 })).value, 1n)
      }).pipe(Effect.scoped)
    )
  )

  it.live.each(["outside of a transaction", "in one", "in one that commits"] as const)(
    "is given to nobody who waits for a connection: %s",
    (where) =>
      withDatabase((url) =>
        Effect.gen(function* () {
          const stores = yield* readOnly(url)
          const { advanceOffset, getCurrentOffset } = Context.get(stores, OffsetStore.OffsetStore)
          const { afterCommit, withTransaction } = Context.get(stores, Transactor.Transactor)
          const advance = Effect.exit(advanceOffset(id, step))
          const inOne = Effect.exit(withTransaction(advanceOffset(id, step)))
          const read = Effect.orDie(Effect.asVoid(getCurrentOffset(id)))
          const refused = {
            "outside of a transaction": advance,
            "in one": inOne,
            "in one that commits": withTransaction(Effect.andThen(inOne, afterCommit(read)))
          }
          for (let time = 0; time < 10; time++) {
            yield* Effect.all([refused[where], read, read, read], { concurrency: "unbounded", discard: true })
          }
        }).pipe(Effect.scoped)
      )
  )

  const ends: ReadonlyArray<
    readonly [string, (effect: Effect.Effect<unknown, unknown>) => Effect.Effect<unknown, unknown>]
  > = [
    ["fails with an error of its own", Effect.mapError(() => "own")],
    ["dies of it", (effect) => Effect.orDie(effect)],
    ["goes on without it", (effect) => Effect.ignore(effect)]
  ]

  it.live.each(ends)("is not used again where a transaction %s", ([, end]) =>
    withDatabase((url) =>
      Effect.gen(function* () {
        const stores = yield* readOnly(url)
        const { advanceOffset, writeOffset } = Context.get(stores, OffsetStore.OffsetStore)
        const { withTransaction } = Context.get(stores, Transactor.Transactor)
        const advance = Effect.exit(withTransaction(end(advanceOffset(id, step))))
        yield* advance
        yield* letWrite(url, true)
        // The pool may have opened another session before, as above.
        yield* advance
        yield* writeOffset({ ...id, value: 2n })
      }).pipe(Effect.scoped)
    )
  )

  it.live("keeps no projection waiting once others can write", () =>
    withDatabase((url) =>
      Effect.gen(function* () {
        const stores = yield* readOnly(url)
        const projection = Projection.make({ name: "p", handler: () => Effect.void })
        yield* Effect.forkScoped(Effect.provide(Projection.run(projection), stores))
        // The projection has met the session that the pool has.
        yield* Effect.flip(Context.get(stores, OffsetStore.OffsetStore).advanceOffset(id, step))
        yield* letWrite(url, true)
        const append = Context.get(stores, EventStore.EventStore).append({ aggregateId: "a", eventType: "T", data: 1 })
        const [event] = yield* Effect.retry(append, { schedule: transientDelays, while: isTransient })
        yield* Effect.provide(Projection.awaitVersion("p", event?.version ?? 0n, "4 minutes"), stores)
      }).pipe(Effect.scoped)
    )
  )
})
