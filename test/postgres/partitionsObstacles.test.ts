/** What stands in the way of a log that is being divided: transactions that have it, and roles that may not do all. */
import { assert, describe, it } from "@effect/vitest"
import { Console, Effect, Fiber } from "effect"
import type * as Postgres from "effect-strata/postgres"
import { scratchDatabase } from "../support/database.ts"
import { event, follow, plainInsert, serveEvents, session, versionsIn } from "./events.harness.ts"
import { execute, failsWith, freshRole, migrate, query } from "./harness.ts"

const divide = (url: string, options: Postgres.Options = {}) =>
  migrate(url, { schema: "strata", partitions: { size: 50n }, ...options })

const isDivided = (url: string) =>
  Effect.map(query("SELECT relkind::text FROM pg_class WHERE oid = 'strata.events'::regclass", url), (rows) =>
    rows.some(([kind]) => kind === "p")
  )

/** A log with events, which somebody reads from its start on. */
const made = Effect.gen(function* () {
  const url = yield* scratchDatabase()
  const stores = yield* serveEvents({ url, options: { schema: "strata" } })
  yield* stores.events.append([event("a", "first"), event("b", "second")])
  return { url, stores, reader: yield* follow(stores, { after: "start" }) }
})

describe("a log is divided beside", () => {
  it.live("a prepared transaction, for which the command waits, and names it, and nobody else waits", () =>
    Effect.gen(function* () {
      const { reader, stores, url } = yield* made
      yield* Effect.scoped(
        Effect.gen(function* () {
          const run = yield* session(url)
          yield* run("BEGIN")
          yield* run(plainInsert("strata.events", "prepared"))
          yield* run("PREPARE TRANSACTION 'held'")
        })
      )
      yield* failsWith(
        divide(url, { migrationWait: 0 }),
        "Postgres.migrate",
        "Contention",
        /the prepared transaction 'held', role postgres/
      )
      const dividing = yield* Effect.forkScoped(divide(url))
      // Many times as long as a statement may wait for a lock here.
      for (let n = 0; n < 100; n++) yield* stores.events.append(event("c", `meanwhile ${n}`))
      assert.isFalse(yield* isDivided(url))
      yield* execute(["COMMIT PREPARED 'held'"], url)
      yield* Fiber.join(dividing)
      assert.isTrue(yield* isDivided(url))
      for (const id of ["first", "prepared", "meanwhile 99"]) {
        assert.strictEqual((yield* Effect.flip(stores.events.append(event("a", id))))._tag, "DuplicateEvent")
      }
      const versions = yield* versionsIn("strata.events", "true", url)
      yield* reader.until(versions.at(-1) ?? 0n)
      assert.deepStrictEqual(reader.seen, versions)
    }).pipe(Effect.scoped)
  )

  it.live("a transaction that idles for long: the command gives up its place, and writers pass it", () =>
    Effect.gen(function* () {
      const { reader, stores, url } = yield* made
      const idle = yield* session(url)
      yield* idle("BEGIN")
      yield* idle(plainInsert("strata.events", "idle"))
      const dividing = yield* Effect.forkScoped(divide(url))
      // The command waits again and again. An append that came behind it would wait until the transaction ends.
      let longestMillis = 0
      const isWaiting = query(
        `SELECT FROM pg_locks WHERE NOT granted AND relation = 'strata.events'::regclass
           AND mode IN ('ShareRowExclusiveLock', 'AccessExclusiveLock', 'ShareUpdateExclusiveLock')`,
        url
      )
      for (let waits = 0, count = 0; waits < 5; count++) {
        const start = performance.now()
        yield* stores.events.append(event("c", `meanwhile ${count}`))
        longestMillis = Math.max(longestMillis, performance.now() - start)
        if ((yield* isWaiting).length > 0) waits++
      }
      yield* Console.log(`the longest wait of an append: ${Math.ceil(longestMillis)} ms`)
      assert.isFalse(yield* isDivided(url))
      yield* idle("COMMIT")
      yield* Fiber.join(dividing)
      assert.isTrue(yield* isDivided(url))
      const versions = yield* versionsIn("strata.events", "true", url)
      yield* reader.until(versions.at(-1) ?? 0n)
      assert.deepStrictEqual(reader.seen, versions)
    }).pipe(Effect.scoped)
  )

  it.live("nothing, by a role that owns the tables and is no superuser, and another one appends", () =>
    Effect.gen(function* () {
      const [owner, writer] = [yield* freshRole(), yield* freshRole()]
      const url = yield* scratchDatabase()
      yield* execute([`CREATE SCHEMA strata AUTHORIZATION ${owner.role}`], url)
      const urlOf = ({ role, url: server }: typeof owner) => {
        const own = new URL(url)
        own.username = role
        own.password = new URL(server).password
        return own.href
      }
      yield* migrate(urlOf(owner), { schema: "strata" })
      yield* execute(
        [
          `GRANT USAGE ON SCHEMA strata TO ${writer.role}`,
          `GRANT SELECT, INSERT (id, aggregate_id, event_type, data, metadata) ON strata.events TO ${writer.role}`,
          `GRANT SELECT, INSERT ON strata.events_tags TO ${writer.role}`
        ],
        url
      )
      const run = yield* session(urlOf(writer))
      yield* run(plainInsert("strata.events", "before"))
      yield* divide(urlOf(owner))
      assert.isTrue(yield* isDivided(url))
      for (let n = 0; n < 10; n++) yield* run(plainInsert("strata.events", `after ${n}`))
      // What runs as the owner makes partitions for the one who may only append.
      yield* query(
        `SELECT setval('strata.events_version_seq', split_part(pg_get_expr(relpartbound, oid), '''', 4)::bigint)
         FROM pg_class WHERE oid = 'strata.events_0'::regclass`,
        url
      )
      for (let n = 0; n < 200; n++) yield* run(plainInsert("strata.events", `later ${n}`))
      const owners = yield* query(
        `SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class WHERE relnamespace = 'strata'::regnamespace
         UNION SELECT pg_get_userbyid(proowner)::text FROM pg_proc WHERE pronamespace = 'strata'::regnamespace`,
        url
      )
      assert.deepStrictEqual(owners, [[owner.role]])
    }).pipe(Effect.scoped)
  )
})
