/**
 * The stores on Postgres.
 *
 * Each layer needs only a `PgClient`: an application gives the stores its own, and that is what makes their transactions
 * one.
 *
 * **Details**
 *
 * A connection can be silently dead: nothing passes on it any more, and no error comes. What waits for an answer on it fails
 * with `Unavailable` after a few seconds: once the server says, on another connection, that the backend is gone, or that it
 * has waited for its client at two looks. A long statement, and the wait for a lock, are waited for. Where no server can be
 * reached, it fails after 10 seconds. The message says what is known of the statement. This holds for the stores, for their
 * transactions, and for the application's own statements on each connection of the pool that the stores have used.
 *
 * **Gotchas**
 *
 * Behind a pooler nobody can ask for the backend of a connection. There a dead connection is found out while the role has no
 * other session that does something; otherwise TCP ends the wait, after 15 minutes. `idle_in_transaction_session_timeout`
 * ends the sessions that dead connections leave behind in a transaction.
 */
import { PgClient } from "@effect/sql-pg"
import type { Config } from "effect"
import { Clock, type Duration, Effect, Layer } from "effect"
import { type SqlClient, type SqlError } from "effect/sql"
import type * as States from "../DurableStateStore.ts"
import type * as Events from "../EventStore.ts"
import * as Operation from "../internal/Operation.ts"
import { realClock } from "../internal/RealTime.ts"
import type { InvalidInput } from "../InvalidInput.ts"
import type * as Offsets from "../OffsetStore.ts"
import type * as Spools from "../SpoolStore.ts"
import type { StoreError } from "../StoreError.ts"
import { Transactor } from "../Transactor.ts"
import { durationOf } from "./database/Options.ts"
import * as PostgresDatabase from "./database/PostgresDatabase.ts"
import * as DurableStateStore from "./DurableStateStore.ts"
import * as EventArchive from "./events/EventArchive.ts"
import * as EventTable from "./events/EventTable.ts"
import * as ReplicaReading from "./events/ReplicaReading.ts"
import * as EventStore from "./EventStore.ts"
import * as Migrations from "./Migrations.ts"
import * as OffsetStore from "./OffsetStore.ts"
import * as PostgresConfig from "./PostgresConfig.ts"
import * as SpoolStore from "./SpoolStore.ts"

export * as Archive from "./Archive.ts"
export * as DurableStateStore from "./DurableStateStore.ts"
export * as EventArchive from "./events/EventArchive.ts"
export * as EventStore from "./EventStore.ts"
export * as Migrations from "./Migrations.ts"
export * as OffsetStore from "./OffsetStore.ts"
export * as PostgresConfig from "./PostgresConfig.ts"
export * as PostgresDatabase from "./database/PostgresDatabase.ts"
export * as SpoolStore from "./SpoolStore.ts"

export type { Options } from "./database/PostgresDatabase.ts"

/** What every backend provides. */
export type Stores = Events.EventStore | Offsets.OffsetStore | Spools.SpoolStore | States.DurableStateStore | Transactor

const layerTransactor = Layer.effect(
  Transactor,
  PostgresDatabase.PostgresDatabase.use(({ transactor }) => Effect.succeed(transactor))
)

/**
 * The stores on the database that they are given. A program that uses two databases builds them twice: layers are remembered by
 * their value, so without `fresh` the second one would get the stores of the first.
 */
const layerStores: Layer.Layer<Stores, never, PostgresDatabase.PostgresDatabase> = Layer.fresh(
  Layer.mergeAll(layerTransactor, DurableStateStore.layer, EventStore.layer, OffsetStore.layer, SpoolStore.layer)
)

const layerRealClock = Layer.succeed(Clock.Clock, realClock)

/**
 * `PgClient.layer`, whose time limits go by real time also under `TestClock`. A server answers in real time: by the clock of a
 * test a connection would time out while it opens.
 */
export const layerClient = (
  config: PgClient.PgPoolConfig
): Layer.Layer<PgClient.PgClient | SqlClient.SqlClient, SqlError.SqlError> =>
  Layer.provide(PgClient.layer(config), layerRealClock)

/** Runs the migrations, and nothing else: for a role that owns the tables, in a deployment step. */
export const layerMigrations = (
  options?: PostgresDatabase.Options
): Layer.Layer<never, InvalidInput | StoreError, PgClient.PgClient> =>
  Layer.provide(Layer.effectDiscard(Migrations.migrate), PostgresDatabase.layer(options))

/**
 * Serves every store, on tables that are there. It never runs DDL, so a role with the grants of the guide to deploying is enough.
 */
export const layerStorage = (
  options?: PostgresDatabase.Options
): Layer.Layer<Stores, InvalidInput, PgClient.PgClient> => Layer.provide(layerStores, PostgresDatabase.layer(options))

// The first append checks the table, too. Here a program whose readers cannot rely on the table fails at its start.
const migrateAndCheck = Effect.gen(function* () {
  yield* Migrations.migrate
  const operation = yield* Operation.make("Postgres", "postgres")
  const database = yield* PostgresDatabase.PostgresDatabase
  yield* operation.effect(
    "layer",
    EventTable.check.pipe(
      Effect.provideService(PostgresDatabase.PostgresDatabase, database),
      // A statement timeout here is no reason not to start: the first append or read checks again.
      Effect.catchTag("Timeout", () => Effect.void)
    )
  )
})

/**
 * Runs the migrations, then serves every store.
 *
 * **Details**
 *
 * Each call gives another layer, with stores of its own: a program can use several schemas or databases. All parts of it that are
 * given the same value share its stores.
 */
export const layer = (
  options?: PostgresDatabase.Options
): Layer.Layer<Stores, InvalidInput | StoreError, PgClient.PgClient> => {
  const migrations = Layer.effectDiscard(migrateAndCheck)
  return Layer.provide(Layer.provide(layerStores, migrations), PostgresDatabase.layer(options))
}

/** What `layerReplica` takes beside the options of the other layers, which have to be the same. */
export interface ReplicaOptions extends PostgresDatabase.Options {
  /**
   * How long a read waits until the standby has what the read needs: 1 second unless given. Then the primary is read. A read can
   * say another time.
   */
  readonly wait?: Duration.Input
}

/**
 * An `EventStore` whose reads go to a standby: `read`, `load`, `loadByAggregate`, and what subscriptions, projections and rebuilds
 * catch up on. All else is the primary's, whose `PgClient` the layer needs: appends, decisions, what entities read in order to
 * decide, reads in a transaction, and the live end of the log.
 *
 * ```ts
 * import { Effect, Layer, Redacted } from "effect"
 * import { EventStore } from "effect-strata"
 * import * as Postgres from "effect-strata/postgres"
 *
 * const Standby = Postgres.layerClient({ url: Redacted.make("postgres://app@standby/app"), maxConnections: 10 })
 *
 * // What is given `Stores` reads from the primary, and what is given `Queries` from the standby.
 * export const Stores = Postgres.layerStorageConfig()
 * export const Queries = Layer.provideMerge(Postgres.layerReplica(Standby), Stores)
 *
 * export const history = (order: string, atLeast: bigint) =>
 *   EventStore.EventStore.use((events) => events.loadByAggregate(order, 0n, { atLeast }))
 * ```
 *
 * **Details**
 *
 * A standby cannot tell which events are in flight on its primary. So the primary writes down how far the log is settled, in one
 * row, and reads in the order of the log end at the last such mark that the standby has replayed: they skip no event, and give none
 * that is not final. The mark is written while somebody reads, about once a second. A read that follows a rest waits up to 100
 * milliseconds for a new one. What a read finds is so as old as the standby lags, and up to a second more.
 *
 * With `{ atLeast: version }` a read has everything up to that version: it waits for the standby, and after `wait` it goes to the
 * primary. `loadByAggregate` waits only for the replay of the version. A read that goes on after a version needs it, too.
 *
 * The client may lead to several standbys. Where none of them can be read, the primary is, and a warning says so once. A statement
 * that is cancelled because it was in the way of the replay is tried again. A subscription that has read all that the standby has
 * goes on with the primary, and misses nothing in between. After a promotion nothing has to be done here.
 *
 * A standby is read once its mark is one that this primary has published, or if it is the primary itself by now: what follows
 * another primary is never read. So nothing is read from a standby until this process has reached the primary once.
 *
 * **Gotchas**
 *
 * The role of the primary's client needs SELECT, INSERT and UPDATE on `events_mark`: `strata grants` prints it. Each `layerReplica`
 * has a tail of its own: where the same process also subscribes by the other store, both listen.
 */
export const layerReplica = <E, R>(
  standby: Layer.Layer<PgClient.PgClient, E, R>,
  { wait = "1 second", ...options }: ReplicaOptions = {}
): Layer.Layer<Events.EventStore, E | InvalidInput, PgClient.PgClient | R> => {
  const replica = Layer.effect(
    ReplicaReading.Replica,
    Effect.gen(function* () {
      const database = yield* PostgresDatabase.make(options)
      return { database, wait: yield* durationOf("wait", wait) }
    })
  )
  return Layer.fresh(EventStore.layerReplica).pipe(
    Layer.provide(PostgresDatabase.layer(options)),
    Layer.provide(Layer.provide(replica, standby))
  )
}

/** The `EventArchive` in the directory that `DB_ARCHIVE_DIR` names. Where that is not set, the layer gives none. */
export const layerArchiveConfig: Layer.Layer<never, Config.ConfigError> = Layer.unwrap(
  Effect.map(PostgresConfig.archive, (path) => (path === undefined ? Layer.empty : EventArchive.layerDirectory(path)))
)

/**
 * `layerReplica` on a pool of its own that leads to `DB_REPLICA_URL`, with the other settings of `PostgresConfig`. Where that
 * variable is not set, as on the machine of a developer, the same store reads from the primary.
 *
 * ```ts
 * import { Layer } from "effect"
 * import * as Postgres from "effect-strata/postgres"
 *
 * export const Stores = Postgres.layerStorageConfig()
 * export const Queries = Layer.provideMerge(Postgres.layerReplicaConfig(), Stores)
 * ```
 */
export const layerReplicaConfig = (
  options?: ReplicaOptions
): Layer.Layer<Events.EventStore, Config.ConfigError | InvalidInput | SqlError.SqlError, PgClient.PgClient> =>
  Layer.unwrap(
    Effect.gen(function* () {
      const { pool, wait } = yield* PostgresConfig.replica
      const all = { ...(yield* PostgresConfig.options), wait, ...options }
      return pool === undefined
        ? Layer.provide(Layer.fresh(EventStore.layer), PostgresDatabase.layer(all))
        : layerReplica(layerClient(pool), all)
    })
  ).pipe(Layer.provide(layerArchiveConfig))

/** The pool of `PostgresConfig`. */
const layerPool = Layer.unwrap(Effect.map(PostgresConfig.pool, layerClient))

/** What is set in the environment, and what is given: that counts more. */
const withOptions = <A, E, R>(
  options: PostgresDatabase.Options | undefined,
  make: (options: PostgresDatabase.Options) => Layer.Layer<A, E, R>
) =>
  Layer.provide(
    Layer.unwrap(Effect.map(PostgresConfig.options, (set) => make({ ...set, ...options }))),
    layerArchiveConfig
  )

/**
 * Runs the migrations, then serves every store, on a pool of its own with the settings of `PostgresConfig`. The pool is
 * provided too, so that the application's statements join the stores' transactions.
 */
export const layerConfig = (
  options?: PostgresDatabase.Options
): Layer.Layer<
  Stores | PgClient.PgClient | SqlClient.SqlClient,
  Config.ConfigError | InvalidInput | SqlError.SqlError | StoreError
> => Layer.provideMerge(withOptions(options, layer), layerPool)

/**
 * `layerStorage` on a pool of its own with the settings of `PostgresConfig`: for a role that does not own the tables. The pool
 * is provided, too.
 *
 * ```ts
 * import { Layer } from "effect"
 * import * as Postgres from "effect-strata/postgres"
 *
 * // DB_OWNER_URL is the owner's, DATABASE_URL the application's. In production a step of the deployment migrates.
 * export const Stores = Layer.provide(Postgres.layerStorageConfig(), Postgres.layerMigrationsConfig())
 * ```
 */
export const layerStorageConfig = (
  options?: PostgresDatabase.Options
): Layer.Layer<
  Stores | PgClient.PgClient | SqlClient.SqlClient,
  Config.ConfigError | InvalidInput | SqlError.SqlError
> => Layer.provideMerge(withOptions(options, layerStorage), layerPool)

/**
 * `layerMigrations` on a connection of its own with the settings of `PostgresConfig`: that of `DB_OWNER_URL` if it is set, else one
 * like those of the pool. It is closed when the migrations have run.
 */
export const layerMigrationsConfig = (
  options?: PostgresDatabase.Options
): Layer.Layer<never, Config.ConfigError | InvalidInput | SqlError.SqlError | StoreError> => {
  const settings = Effect.gen(function* () {
    return (yield* PostgresConfig.owner) ?? (yield* PostgresConfig.pool)
  })
  const client = Layer.unwrap(Effect.map(settings, (config) => layerClient({ ...config, maxConnections: 2 })))
  const migrations = Layer.provide(withOptions(options, layerMigrations), client)
  return Layer.effectDiscard(Effect.scoped(Layer.build(Layer.fresh(migrations))))
}
