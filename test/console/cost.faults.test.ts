/** What an open console costs the server. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import { Projection } from "effect-strata"
import { type Browser, chromium as driver } from "playwright-core"
import { afterAll, beforeAll } from "vitest"
import { query } from "../postgres/harness.ts"
import { chromium, launchOptions } from "../site/browser.ts"
import { scratchDatabase } from "../support/database.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { build, open } from "./page.ts"
import { poolOf } from "./places.ts"
import { clientOf, serve, shared, storesOf } from "./serving.ts"
import * as Shop from "./shop.ts"

let browser: Browser
beforeAll(async () => {
  await build()
  if (chromium !== undefined) browser = await driver.launch(launchOptions)
})
afterAll(() => browser?.close())

describe.concurrent("what an open console costs", () => {
  /** How many statements have ended in a database. A process tells it of them when it ends, at the latest. */
  const statements = (database: string, server: string) =>
    Effect.map(
      query(`SELECT xact_commit::float8 FROM pg_stat_database WHERE datname = '${database}'`, server),
      ([row]) => Number(row?.[0] ?? 0)
    )

  /** A database in which a projection has run, and the statements that looking at it for some moments takes. */
  const asked = (moments: number, look: (url: string) => Effect.Effect<void>) =>
    Effect.gen(function* () {
      // The commits of autovacuum would be counted, too.
      const server = yield* PostgresServer.make({ settings: { autovacuum: "off" } })
      const url = yield* scratchDatabase(server.url)
      const database = new URL(url).pathname.slice(1)
      yield* Effect.scoped(
        Effect.gen(function* () {
          const stores = yield* Effect.flatMap(shared(poolOf(url)), (pool) => storesOf({ pool, options: {} }))
          const idle = Projection.make({ name: "idle", shards: 4, handler: () => Effect.void })
          yield* Effect.provide(Effect.andThen(Shop.orders(1, 3), Shop.ranOnce(idle)), stores)
        })
      )
      const before = yield* statements(database, server.url)
      const seconds = yield* Effect.scoped(
        Effect.gen(function* () {
          const console = yield* serve(yield* shared(poolOf(url)))
          const client = yield* clientOf(console)
          yield* look(console)
          const times = yield* Effect.flatMap(client.overview.live(), (live) =>
            Stream.runCollect(Stream.map(Stream.take(live, moments), ({ at }) => at.epochMilliseconds))
          )
          return ((times.at(-1) ?? 0) - (times[0] ?? 0)) / 1000
        })
      )
      const count = yield* Effect.repeat(statements(database, server.url), {
        until: (count) => count > before + moments
      })
      return { statements: count - before, seconds }
    })

  it.live("is next to nothing where nobody looks", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const url = yield* scratchDatabase()
        const database = new URL(url).pathname.slice(1)
        const pool = yield* shared(poolOf(url))
        yield* storesOf({ pool, options: {} })
        const client = yield* clientOf(yield* serve(pool))
        yield* Effect.flatMap(client.overview.live(), (moments) => Stream.runDrain(Stream.take(moments, 2)))
        const newest = query(`SELECT max(query_start)::text FROM pg_stat_activity WHERE datname = '${database}'`)
        const last = yield* newest
        yield* Effect.sleep("4 seconds")
        assert.deepStrictEqual(yield* newest, last)
      })
    )
  )

  // Some more statements are those of the first look, and of connections as they begin.
  it.live("is less than a statement a second where nothing moves", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { seconds, statements } = yield* asked(16, () => Effect.void)
        assert.isBelow(statements, seconds + 20)
      })
    )
  )

  it.live.skipIf(chromium === undefined)("is less than that, too, where the page of a projection is open", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const look = (url: string) =>
          Effect.promise(async () => {
            const { go, page } = await open(browser, url)
            await go("projections/idle")
            await page.locator(".badge", { hasText: "complete" }).waitFor({ timeout: 60_000 })
          })
        const { seconds, statements } = yield* asked(31, look)
        assert.isBelow(statements, seconds + 60)
      })
    )
  )
})
