/** `Health.check` where the server does not answer, refuses, or has no tables: it tells, and in time. */
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import { EventStore, Health } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { postgresUrl } from "../support/database.ts"
import { uniqueName } from "../support/databases.ts"
import * as Proxy from "../support/Proxy.ts"

/** The stores on a schema of its own, by way of a proxy. */
const serve = Effect.gen(function* () {
  const { hostname, port } = new URL(postgresUrl)
  const proxy = yield* Proxy.make({ host: hostname, port: Number(port || 5432) })
  const schema = yield* uniqueName
  const client = PgClient.layer({ url: Redacted.make(proxy.url(postgresUrl)), maxConnections: 4 })
  const stores = yield* Layer.build(Layer.fresh(Layer.provide(Postgres.layer({ schema }), client)))
  const direct = PgClient.layer({ url: Redacted.make(postgresUrl), maxConnections: 1 })
  yield* Effect.addFinalizer(() =>
    PgClient.PgClient.use((sql) => sql`DROP SCHEMA ${sql(schema)} CASCADE`).pipe(
      Effect.provide(Layer.fresh(direct)),
      Effect.orDie
    )
  )
  const check = (timeout: "1 minute" | "200 millis") => Effect.provideContext(Health.check({ timeout }), stores)
  const ping = Effect.provideContext(
    EventStore.EventStore.use((events) => events.ping),
    stores
  )
  return { check, proxy, ping }
})

const tagsOf = ({ problems }: Health.Report) => problems.map(({ _tag }) => _tag)

it.live("tells of a server that refuses connections, and of one that says nothing, and is well when it is back", () =>
  Effect.gen(function* () {
    const { check, ping, proxy } = yield* serve
    assert.deepStrictEqual(tagsOf(yield* check("1 minute")), [])
    yield* proxy.refuse(true)
    yield* proxy.cut
    assert.deepStrictEqual(tagsOf(yield* check("1 minute")), ["DatabaseUnreachable"])
    yield* proxy.refuse(false)
    yield* Effect.repeat(check("1 minute"), { until: ({ isHealthy }) => isHealthy })

    // To interrupt what waits for an answer takes seconds. The check does not wait for that.
    yield* proxy.stall(true)
    const interrupted = yield* Effect.forkScoped(Effect.timeoutOption(ping, "1 millis"), { startImmediately: true })
    const silent = yield* check("200 millis")
    assert.isUndefined(interrupted.pollUnsafe())
    assert.deepStrictEqual(tagsOf(silent), ["DatabaseUnreachable"])
    assert.include(silent.problems[0]?.message, "has not answered in time")
    yield* proxy.stall(false)
    yield* Effect.repeat(check("1 minute"), { until: ({ isHealthy }) => isHealthy })
  }).pipe(Effect.scoped)
)

it.live("tells of tables that are missing, with the command to run", () =>
  Effect.gen(function* () {
    const schema = yield* uniqueName
    const client = PgClient.layer({ url: Redacted.make(postgresUrl), maxConnections: 1 })
    const report = yield* Effect.provide(
      Health.check(),
      Layer.fresh(Layer.provide(Postgres.layerStorage({ schema }), client))
    )
    assert.deepStrictEqual(tagsOf(report), ["SchemaMissing"])
    assert.include(report.problems[0]?.remedy, "strata migrate")
  })
)
