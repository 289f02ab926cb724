/** A statement leaves its connection to the next one: the others that want a connection still get theirs. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { backends } from "../support/database.ts"
import { assertWhole, freshSchema, serve, unique } from "./harness.ts"

/** More statements than one connection runs before another caller gets it. */
const endless = 20_000

describe("a borrowed connection", () => {
  it.live("goes back to the pool in time, though statements follow each other without an end", () =>
    Effect.gen(function* () {
      const stores = yield* serve({ client: { maxConnections: 1 }, options: { schema: yield* freshSchema() } })
      const end = { reached: false }
      const loop = yield* Effect.forkChild(
        Effect.gen(function* () {
          for (let times = 0; times < endless; times++) yield* stores.offsets.ping
          end.reached = true
        }),
        { startImmediately: true }
      )
      yield* stores.sql`SELECT 1`
      assert.isFalse(end.reached)
      yield* Fiber.interrupt(loop)
      yield* assertWhole(stores)
    })
  )

  it.live("goes to the transaction that begins next, which opens no other one", () =>
    Effect.gen(function* () {
      const stores = yield* serve({ options: { schema: yield* freshSchema() } })
      const persistenceId = yield* unique
      for (let versionNumber = 1n; versionNumber < 50n; versionNumber++) {
        yield* stores.states.getLatestState(persistenceId)
        yield* stores.transactor.withTransaction(
          stores.states.writeState({ persistenceId, versionNumber, payload: new Uint8Array(), manifest: "nothing" })
        )
      }
      assert.lengthOf(yield* backends(stores.applicationName), 1)
    })
  )
})
