/**
 * What has happened before a command of a guide is run. A comment in the guide, `<!-- scene: held -->`, names a scene, which
 * stays until the end of the guide or until the next one begins.
 */
import { PgClient } from "@effect/sql-pg"
import { Deferred, Effect, Layer, Redacted, Schedule, Schema, type Scope } from "effect"
import { EventStore, Projection, Spool } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { mkdir } from "node:fs/promises"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { strata } from "../cli/harness.ts"
import { execute } from "../support/connection.ts"

/** Where a guide is run: in a directory, with a database. */
export interface Place {
  readonly cwd: string
  readonly url: string
}

class Placed extends Schema.TaggedClass<Placed>()("Placed", { customer: Schema.String, total: Schema.Int }) {}
class Receipt extends Schema.Class<Receipt>("Receipt")({ order: Schema.String }) {}

const OrderEvents = EventStore.typed({ events: [Placed] })
const Receipts = Spool.make({
  name: "receipts",
  payload: Receipt,
  maxAttempts: 3,
  policies: { default: Schedule.forever, slow: Spool.backoff() }
})

const client = (url: string, applicationName = "shop") =>
  PgClient.layer({ url: Redacted.make(url), maxConnections: 5, applicationName })

const stores = (url: string) => Layer.fresh(Layer.provideMerge(Postgres.layer(), client(url)))

const place = (order: string, customer: string, total: number) =>
  Effect.flatMap(OrderEvents, (orders) => orders.append(order, new Placed({ customer, total })))

const sales = (customers: ReadonlySet<string>, onFailure: "stop" | "park" = "stop", name = "sales") =>
  Projection.make({
    name,
    events: OrderEvents,
    heartbeat: "100 millis",
    retry: Schedule.recurs(0),
    onFailure,
    on: {
      Placed: ({ event: { customer } }) =>
        customers.has(customer) ? Effect.void : Effect.fail(new Error(`no customer ${customer}`))
    }
  })

const caughtUp = (name: string) =>
  Effect.flatMap(EventStore.EventStore, ({ latestVersion }) =>
    Effect.flatMap(latestVersion, (version) => Projection.awaitVersion(name, version, "4 minutes"))
  )

const known = new Set(["anna", "bert"])

/** Two orders, in the read model, and a receipt that waits. */
const open = Effect.fnUntraced(function* ({ url }: Place) {
  yield* Effect.gen(function* () {
    yield* place("order-1", "anna", 42)
    yield* place("order-2", "bert", 8)
    yield* Receipts.enqueue(new Receipt({ order: "order-1" }), { id: "order-1" })
    yield* Effect.raceFirst(Projection.run(sales(known)), caughtUp("sales"))
  }).pipe(Effect.provide(stores(url)))
})

/** A nightly job has written an event, and does something else before it commits. */
const held = Effect.fnUntraced(function* ({ url }: Place) {
  const context = yield* Layer.build(Layer.fresh(client(url, "nightly-job")))
  const sql = yield* PgClient.PgClient.pipe(Effect.provide(context))
  const reserved = yield* sql.reserve
  yield* reserved.executeRaw("BEGIN", [])
  yield* reserved.executeRaw(
    "INSERT INTO events (id, aggregate_id, event_type, data) VALUES ('nightly-1', 'order-3', 'Placed', '{\"customer\":\"anna\",\"total\":1}')",
    []
  )
  yield* Effect.provide(place("order-4", "anna", 5), stores(url))
})

/** An order of a customer that the handler does not know. */
const stopped = Effect.fnUntraced(function* ({ url }: Place) {
  yield* Effect.gen(function* () {
    yield* place("order-5", "carl", 30)
    yield* Effect.exit(Projection.run(sales(known)))
  }).pipe(Effect.provide(stores(url)))
})

/** A projection that parks orders of unknown customers runs on; one of the customers has become known since. */
const parked = Effect.fnUntraced(function* ({ url }: Place) {
  const context = yield* Layer.build(stores(url))
  const customers = new Set(known)
  yield* Effect.gen(function* () {
    yield* place("order-6", "carl", 12)
    yield* place("order-7", "dora", 30)
    yield* Effect.forkScoped(Projection.run(sales(customers, "park", "mailing")))
    yield* caughtUp("mailing")
  }).pipe(Effect.provide(context))
  customers.add("carl")
})

/** A mail server that refuses some receipts: one has bounced, and one is tried again later. */
const bounced = Effect.fnUntraced(function* ({ url }: Place) {
  yield* Effect.gen(function* () {
    yield* Receipts.enqueue(new Receipt({ order: "order-2" }), { id: "order-2", maxAttempts: 1 })
    yield* Receipts.enqueue(new Receipt({ order: "order-4" }), { id: "order-4", policy: "slow" })
    const handled = yield* Deferred.make<void>()
    const worker = Receipts.run(({ order }) =>
      order === "order-1" ? Deferred.succeed(handled, undefined) : Effect.fail(new Error("mailbox unavailable"))
    )
    const settled = Effect.flatMap(Receipts.stats, ({ counts }) =>
      counts.bounce === 1 && counts.deferred === 1 ? Deferred.await(handled) : Effect.fail("not yet")
    )
    yield* Effect.raceFirst(worker, Effect.retry(settled, Schedule.spaced("50 millis")))
  }).pipe(Effect.provide(stores(url)))
})

/** The last events were lost, as by a failover to a standby that lagged, and offsets of elsewhere were not. */
const setBack = Effect.fnUntraced(function* ({ url }: Place) {
  yield* strata(["doctor"], { url })
  yield* execute(url, [
    "DELETE FROM events WHERE version > 2",
    "SELECT setval(pg_get_serial_sequence('events', 'version'), 2)"
  ])
})

/** Somebody has locked the table of the events. */
const locked = Effect.fnUntraced(function* ({ url }: Place) {
  const context = yield* Layer.build(Layer.fresh(client(url, "psql")))
  const sql = yield* PgClient.PgClient.pipe(Effect.provide(context))
  const reserved = yield* sql.reserve
  yield* reserved.executeRaw("BEGIN", [])
  yield* reserved.executeRaw("LOCK TABLE events IN ACCESS EXCLUSIVE MODE", [])
})

/** A log whose partitions have a thousand versions each, and an empty directory. */
const grown = Effect.fnUntraced(function* ({ cwd, url }: Place) {
  yield* strata(["migrate", "--schema", "history", "--partitions", "1000"], { url })
  yield* execute(url, [
    `INSERT INTO history.events (id, aggregate_id, event_type, data)
     SELECT 'entry-' || n, 'account-' || n % 10, 'Booked', jsonb_build_object('amount', n) FROM generate_series(1, 2500) AS n`
  ])
  yield* Effect.promise(() => mkdir(join(cwd, "archived-events")))
})

/** A store of go-sync-kit in SQLite. */
const sqlite = ({ cwd }: Place) =>
  Effect.sync(() => {
    const database = new DatabaseSync(join(cwd, "events.db"))
    database.exec(`
      CREATE TABLE events (version INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, aggregate_id TEXT, event_type TEXT, data TEXT,
        metadata TEXT, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
      INSERT INTO events (id, aggregate_id, event_type, data) VALUES
        ('go-1', 'order-8', 'Placed', '{"customer":"anna","total":3}'), ('go-2', 'order-8', 'Paid', '{}')`)
    database.close()
  })

/** Marten's tables of events, as its documentation of November 2026 describes their columns. */
export const martenTables = [
  `CREATE TABLE mt_streams (id UUID PRIMARY KEY, type VARCHAR, version BIGINT, timestamp TIMESTAMPTZ NOT NULL DEFAULT now(),
    created TIMESTAMPTZ NOT NULL DEFAULT now(), tenant_id VARCHAR DEFAULT '*DEFAULT*', is_archived BOOLEAN DEFAULT false)`,
  `CREATE TABLE mt_events (seq_id BIGINT PRIMARY KEY, id UUID NOT NULL, stream_id UUID REFERENCES mt_streams ON DELETE CASCADE,
    version BIGINT NOT NULL, data JSONB NOT NULL, type VARCHAR(500) NOT NULL, timestamp TIMESTAMPTZ NOT NULL DEFAULT now(),
    tenant_id VARCHAR DEFAULT '*DEFAULT*', mt_dotnet_type VARCHAR, is_archived BOOLEAN DEFAULT false)`,
  "CREATE SEQUENCE mt_events_sequence OWNED BY mt_events.seq_id"
]

/** A table of Emmett's, of which only the columns that matter, with an event in it. */
const emmett = Effect.fnUntraced(function* ({ url }: Place) {
  yield* strata(["migrate"], { url })
  yield* execute(url, [
    `CREATE TABLE emt_messages (global_position BIGSERIAL, created TIMESTAMPTZ NOT NULL DEFAULT now(), message_kind VARCHAR(1) NOT NULL,
      stream_id TEXT NOT NULL, message_id TEXT NOT NULL, message_type TEXT NOT NULL, message_data JSONB NOT NULL,
      message_metadata JSONB NOT NULL)`,
    `INSERT INTO emt_messages (message_kind, stream_id, message_id, message_type, message_data, message_metadata) VALUES
      ('E', 'order-order-1', 'one', 'Placed', '{"customer": "anna", "total": 42}', '{}')`
  ])
})

/** Marten's tables, by the columns that its documentation names, with two events in one stream. */
const marten = Effect.fnUntraced(function* ({ url }: Place) {
  yield* execute(url, [
    ...martenTables,
    `INSERT INTO mt_streams (id, type, version) VALUES ('0198f2c4-0000-7000-8000-00000000000a', 'order', 2)`,
    `INSERT INTO mt_events (seq_id, id, stream_id, version, data, type) VALUES
      (1, '0198f2c4-0000-7000-8000-000000000001', '0198f2c4-0000-7000-8000-00000000000a', 1, '{"customer": "anna", "total": 42}', 'order_placed'),
      (2, '0198f2c4-0000-7000-8000-000000000002', '0198f2c4-0000-7000-8000-00000000000a', 2, '{"amount": 42}', 'order_paid')`
  ])
})

/** Events of a Go service, which have no tags. */
const untagged = Effect.fnUntraced(function* ({ url }: Place) {
  yield* strata(["migrate"], { url })
  yield* execute(url, [
    `INSERT INTO events (id, aggregate_id, event_type, data) VALUES
      ('go-1', 'course:c1', 'StudentSubscribed', '{"course": "c1", "student": "s7"}'),
      ('go-2', 'course:c1', 'CourseClosed', '{}')`
  ])
})

/** The table of jobs as pg-boss 12 makes it, as far as its columns matter. */
export const pgBossTables = [
  "CREATE SCHEMA pgboss",
  "CREATE TYPE pgboss.job_state AS ENUM ('created', 'retry', 'active', 'completed', 'cancelled', 'failed')",
  `CREATE TABLE pgboss.job (id UUID NOT NULL DEFAULT gen_random_uuid(), name TEXT NOT NULL, priority INTEGER NOT NULL DEFAULT 0,
    data JSONB, state pgboss.job_state NOT NULL DEFAULT 'created', singleton_key TEXT,
    start_after TIMESTAMPTZ NOT NULL DEFAULT now(), created_on TIMESTAMPTZ NOT NULL DEFAULT now()) PARTITION BY LIST (name)`,
  "CREATE TABLE pgboss.job_common PARTITION OF pgboss.job DEFAULT",
  "ALTER TABLE pgboss.job ADD PRIMARY KEY (name, id)"
]

/** The tables of jobs and tasks as graphile-worker 0.18 makes them. */
export const graphileWorkerTables = [
  "CREATE SCHEMA graphile_worker",
  `CREATE TABLE graphile_worker._private_tasks (id INT PRIMARY KEY GENERATED ALWAYS AS IDENTITY, identifier TEXT NOT NULL UNIQUE)`,
  `CREATE TABLE graphile_worker._private_jobs (id BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY, job_queue_id INT, task_id INT NOT NULL,
    payload JSON DEFAULT '{}' NOT NULL, priority SMALLINT DEFAULT 0 NOT NULL, run_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    attempts SMALLINT DEFAULT 0 NOT NULL, max_attempts SMALLINT DEFAULT 25 NOT NULL, last_error TEXT, key TEXT UNIQUE,
    locked_at TIMESTAMPTZ, locked_by TEXT,
    is_available BOOLEAN GENERATED ALWAYS AS (locked_at IS NULL AND attempts < max_attempts) STORED NOT NULL)`
]

/** The table of jobs as River's migrations make it. */
export const riverTables = [
  `CREATE TYPE river_job_state AS ENUM ('available', 'cancelled', 'completed', 'discarded', 'pending', 'retryable', 'running',
    'scheduled')`,
  `CREATE TABLE river_job (id BIGSERIAL PRIMARY KEY, state river_job_state NOT NULL DEFAULT 'available',
    attempt SMALLINT NOT NULL DEFAULT 0, max_attempts SMALLINT NOT NULL, scheduled_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    priority SMALLINT NOT NULL DEFAULT 1, args JSONB NOT NULL, kind TEXT NOT NULL, queue TEXT NOT NULL DEFAULT 'default')`
]

/** pg-boss has a job that is due, one for later, and one that a worker has. */
const pgBoss = Effect.fnUntraced(function* ({ url }: Place) {
  yield* execute(url, [
    ...pgBossTables,
    `INSERT INTO pgboss.job (name, data, state, start_after) VALUES
      ('mails', '{"to": "anna@example.org"}', 'created', now()),
      ('mails', '{"to": "bert@example.org"}', 'created', now() + interval '1 day'),
      ('mails', '{"to": "carl@example.org"}', 'active', now())`
  ])
})

/** The next version has migrated the tables. */
const newer = ({ url }: Place) =>
  execute(url, [
    "INSERT INTO strata_migrations (id, table_name, file) VALUES (9999, 'events', '9999_events_later.sql')"
  ])

export const scenes: Readonly<Record<string, (place: Place) => Effect.Effect<unknown, unknown, Scope.Scope>>> = {
  open,
  held,
  stopped,
  parked,
  bounced,
  setBack,
  locked,
  grown,
  sqlite,
  emmett,
  marten,
  untagged,
  pgBoss,
  newer
}
