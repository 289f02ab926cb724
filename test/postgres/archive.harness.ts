/**
 * What the tests of archived logs share: stores that find the files, what moves parts, events, and every kind of read of them.
 */
import { DateTime, Deferred, Effect, Layer, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import { SqlClient } from "effect/sql"
import { temporaryDirectory } from "../cli/harness.ts"
import { serveEvents, type ServedEvents } from "./events.harness.ts"
import type { Settings } from "./harness.ts"

const { Archive, EventArchive, PostgresDatabase } = Postgres

export const size = 50n
export const options = { partitions: { size } }

/** What archives and restores parts of the log of some stores. */
export const archiving = (
  stores: Pick<ServedEvents, "context" | "schema">,
  files: Layer.Layer<Postgres.EventArchive.EventArchive>
) => {
  const database = Layer.provide(
    PostgresDatabase.layer({ schema: stores.schema }),
    Layer.effectContext(Effect.succeed(stores.context))
  )
  const layer = Layer.merge(database, files)
  return {
    layer,
    archive: (before: bigint) => Effect.provide(Archive.archive({ before }), layer),
    restore: (from = 0n) => Effect.provide(Archive.restore({ from, remove: true }), layer)
  }
}

/** Stores with an archive, in a directory unless another one is given. */
export const serveArchive = Effect.fnUntraced(function* (
  settings: Settings = {},
  given?: Layer.Layer<Postgres.EventArchive.EventArchive>
) {
  const directory = yield* temporaryDirectory
  const files = given ?? EventArchive.layerDirectory(directory)
  const stores = yield* serveEvents({
    ...settings,
    options: { ...options, ...settings.options },
    layer: (options) => Layer.provideMerge(Postgres.layer(options), files)
  })
  return { ...stores, ...archiving(stores, files), files, directory }
})

/**
 * Events of several aggregates and types, of which some have tags, and texts and numbers that are hard to keep. The last event
 * of the first part, of version 49, is alone in its aggregate and with its tag.
 */
export const shapes = (count: number) =>
  Array.from({ length: count }, (_, n) => ({
    aggregateId: n === 48 ? "alone" : `aggregate ${n % 7}`,
    eventType: n % 3 === 0 ? "Rare" : "Happened",
    data: { n, text: '\u202e ,"data":","metadata": \\ \n é', deep: [{ ',"metadata":': n / 3 }] },
    ...(n % 2 === 0 ? { metadata: { ',"data":': n } } : {}),
    tags: n % 5 === 0 ? [`tag ${n % 2}`, "every fifth"] : n === 48 ? ["alone"] : []
  }))

/** What every kind of read gives. */
export const everything = ({ events }: Pick<ServedEvents, "events">) =>
  Effect.gen(function* () {
    const all = yield* events.load()
    const middle = all[60]
    const queries = [
      {},
      { batchSize: 7 },
      { limit: 10 },
      { limit: 80 },
      { after: 20n },
      { after: 20n, limit: 5 },
      { after: 48n },
      { after: 48n, limit: 1 },
      { after: 49n },
      { after: 50n },
      { after: 110n },
      { aggregateIds: ["aggregate 3"] },
      { aggregateIds: ["aggregate 3", "aggregate 5"] },
      { aggregateIds: ["alone"] },
      { aggregateIds: ["nobody"] },
      { eventTypes: ["Rare"] },
      { eventTypes: ["Rare"], limit: 3, after: 10n },
      { tags: ["tag 1"] },
      { tags: ["tag 0", "every fifth"], limit: 4 },
      { tags: ["alone"] },
      { items: [{ tags: ["alone"] }] },
      { tags: ["nothing"] },
      { items: [{ tags: ["tag 0"] }, { eventTypes: ["Rare"], tags: ["every fifth"] }] },
      { items: [{ eventTypes: ["Rare"] }, { tags: ["tag 1"] }] },
      { data: { n: 33 } },
      { metadata: { ',"data":': 44 } },
      { createdAfter: middle === undefined ? DateTime.makeUnsafe(0) : middle.createdAt }
    ] as const
    const found: Array<unknown> = []
    for (const query of queries) {
      for (const direction of ["forward", "backward"] as const) {
        found.push([query, direction, yield* Stream.runCollect(events.read({ ...query, direction }))])
      }
    }
    found.push(yield* events.loadByAggregate("alone"))
    for (let n = 0; n < 8; n++) {
      found.push(yield* events.loadByAggregate(`aggregate ${n}`))
      found.push(yield* events.loadByAggregate(`aggregate ${n}`, 75n))
    }
    for (const { id } of all) found.push(yield* events.get(id))
    const { events: decided, items } = yield* events.readForDecision([
      { tags: ["tag 0"] },
      { eventTypes: ["Rare"] },
      { tags: ["every fifth"], eventTypes: ["Happened"] }
    ])
    found.push(
      decided,
      items,
      (yield* events.readForDecision([{ tags: ["tag 1"] }])).events,
      yield* events.latestVersion
    )
    return found
  })

/** Reads in a transaction of REPEATABLE READ, whose snapshot is older than what is done meanwhile, outside of it. */
export const afterwards = <A, E, E2>(
  { sql, withTransaction }: Pick<ServedEvents, "sql" | "withTransaction">,
  move: Effect.Effect<unknown, E2>,
  read: Effect.Effect<A, E>
) =>
  Effect.gen(function* () {
    const begun = yield* Deferred.make<void>()
    const moved = yield* Deferred.make<void>()
    yield* Effect.forkScoped(
      Effect.andThen(Deferred.await(begun), Effect.andThen(Effect.orDie(move), Deferred.succeed(moved, undefined)))
    )
    return yield* Effect.provideService(
      withTransaction(
        Effect.gen(function* () {
          yield* sql`SELECT 1 AS snapshot`
          yield* Deferred.succeed(begun, undefined)
          yield* Deferred.await(moved)
          return yield* read
        })
      ),
      SqlClient.BeginTransaction,
      "BEGIN ISOLATION LEVEL REPEATABLE READ"
    )
  })
