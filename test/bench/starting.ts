/**
 * Run in a process of its own: `starting.ts NAME` prints the milliseconds from before the first import to the first
 * answer.
 */
import process from "node:process"

const start = performance.now()
const answered = () => process.stdout.write(String(performance.now() - start))
const url = process.env["DATABASE_URL"] ?? ""
const schema = process.env["DB_SCHEMA"] ?? "public"

const programs: Readonly<Record<string, () => Promise<unknown>>> = {
  memory: async () => {
    const { Effect } = await import("effect")
    const { EventStore } = await import("effect-strata")
    const Memory = await import("effect-strata/memory")
    const first = EventStore.EventStore.use((events) => Effect.map(events.latestVersion, answered))
    return Effect.runPromise(Effect.provide(first, Memory.layer))
  },

  effect: async () => {
    const { Effect } = await import("effect")
    return Effect.runPromise(Effect.sync(answered))
  },

  postgres: async () => {
    const { Effect } = await import("effect")
    const { EventStore } = await import("effect-strata")
    const Postgres = await import("effect-strata/postgres")
    const first = EventStore.EventStore.use((events) => Effect.map(events.latestVersion, answered))
    return Effect.runPromise(Effect.provide(first, Postgres.layerConfig()))
  },

  driver: async () => {
    const { Effect, Redacted } = await import("effect")
    const { PgClient } = await import("@effect/sql-pg")
    const first = PgClient.PgClient.use((sql) => sql`SELECT max(version) FROM ${sql(schema)}.events`)
    return Effect.runPromise(Effect.provide(Effect.map(first, answered), PgClient.layer({ url: Redacted.make(url) })))
  },

  pglite: async () => {
    const { Effect, Layer } = await import("effect")
    const { EventStore } = await import("effect-strata")
    const Postgres = await import("effect-strata/postgres")
    const Pglite = await import("effect-strata/pglite")
    const first = EventStore.EventStore.use((events) => Effect.map(events.latestVersion, answered))
    return Effect.runPromise(Effect.provide(first, Layer.provide(Postgres.layer(), Pglite.layer())))
  },

  "pglite itself": async () => {
    const { PGlite } = await import("@electric-sql/pglite")
    const database = await PGlite.create()
    await database.query("SELECT 1")
    answered()
    await database.close()
  }
}

await programs[process.argv[2] ?? ""]?.()
