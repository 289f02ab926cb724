/** A log that archives what it can, again and again, and brings it back now and then, keeps every promise of its contracts. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted } from "effect"
import * as Postgres from "effect-strata/postgres"
import { Decision, Entity, EventStore } from "effect-strata/testing"
import { randomInt } from "node:crypto"
import { temporaryDirectory } from "../cli/harness.ts"
import { layerSchema, postgresUrl, TestSchema } from "../support/database.ts"

const { Archive, EventArchive, PostgresDatabase } = Postgres

const everything = 2n ** 62n

/** Archives and restores for as long as the layer lives. What cannot have the log, as a test keeps it, tries again. */
const restless = Layer.effectDiscard(
  Effect.gen(function* () {
    yield* Effect.ignore(Archive.archive({ before: everything }))
    yield* Effect.sleep(randomInt(100))
    const parts = yield* Archive.parts
    const from = parts[parts.length - randomInt(1, 4)]?.firstVersion
    if (randomInt(3) === 0 && from !== undefined) yield* Effect.ignore(Archive.restore({ from }))
  }).pipe(Effect.ignore, Effect.forever, Effect.forkScoped)
)

const stores = Layer.unwrap(
  Effect.gen(function* () {
    const directory = yield* temporaryDirectory
    const { name } = yield* TestSchema
    const pool = PgClient.layer({ url: Redacted.make(postgresUrl), maxConnections: 2 })
    const database = Layer.provide(PostgresDatabase.layer({ schema: name, migrationWait: "2 seconds" }), pool)
    const files = EventArchive.layerDirectory(directory)
    const archiving = Layer.provide(restless, Layer.merge(database, files))
    return Layer.provideMerge(
      archiving,
      Layer.provide(Postgres.layer({ partitions: { size: 100n }, acquireTimeout: "2 minutes" }), files)
    )
  })
)

const layer = Layer.provide(stores, layerSchema({ maxConnections: 20 }))

EventStore.suite("postgres, archived again and again", layer)
Decision.suite("postgres, archived again and again", layer)
Entity.suite("postgres, archived again and again", layer)
