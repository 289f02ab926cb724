/** What the server refuses, and rows that another program wrote: which reason each SQLSTATE becomes, and in which words. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Option, Schedule, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import { SqlClient } from "effect/sql"
import { connect } from "node:net"
import { Duplex } from "node:stream"
import { postgresUrl } from "../support/database.ts"
import { freePort } from "../support/ports.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import {
  assertStoreError,
  assertWhole,
  execute,
  failsWith,
  freshRole,
  freshSchema,
  open,
  serve,
  type Settings,
  shard,
  storeError,
  urlWith
} from "./harness.ts"

const served = Effect.fnUntraced(function* (settings: Settings = {}) {
  const schema = yield* freshSchema()
  return { ...(yield* serve({ ...settings, options: { schema } })), schema }
})

describe("a limit of the server", () => {
  it.live("on statements is a Timeout", () =>
    Effect.gen(function* () {
      // A second: no statement that waits for nobody takes so long, on a busy machine either.
      const stores = yield* served({ client: { startupParameters: { statement_timeout: "1000" } } })
      const { read, write } = shard(stores, "row")
      const held = yield* open(stores.transactor.withTransaction, write(1n))
      const says = /a time limit of the server ran out: .*statement timeout; call again, or raise the limit/
      yield* failsWith(write(2n), "OffsetStore.writeOffset", "Timeout", says)
      yield* failsWith(stores.transactor.withTransaction(write(2n)), "OffsetStore.writeOffset", "Timeout", says)
      yield* held.commit
      assert.strictEqual(yield* read, 1n)
      yield* assertWhole(stores)
    })
  )

  it.live("on locks is Contention", () =>
    Effect.gen(function* () {
      const stores = yield* served({ client: { startupParameters: { lock_timeout: "100" } } })
      const { read, write } = shard(stores, "row")
      const held = yield* open(stores.transactor.withTransaction, write(1n))
      const says = /lost against a concurrent transaction: .*lock timeout; run the transaction again/
      yield* failsWith(write(2n), "OffsetStore.writeOffset", "Contention", says)
      yield* held.commit
      assert.strictEqual(yield* read, 1n)
      yield* assertWhole(stores)
    })
  )

  it.live("on idle transactions is a Timeout, and nothing is written", () =>
    Effect.gen(function* () {
      const told = yield* Deferred.make<void>()
      // Tells when the message of the server has arrived: a statement that is sent before may find the connection dead.
      const stream = () => {
        const { hostname, port } = new URL(postgresUrl)
        return connect(Number(port || 5432), hostname).on("data", (chunk) => {
          // The driver gets the message first.
          if (chunk.includes("25P03")) setImmediate(() => Deferred.doneUnsafe(told, Effect.void))
        })
      }
      const stores = yield* served({ client: { stream } })
      const { read, write } = shard(stores, "row")
      const error = yield* write(1n).pipe(
        Effect.andThen(stores.sql`SET LOCAL idle_in_transaction_session_timeout = 50`),
        Effect.andThen(Deferred.await(told)),
        Effect.andThen(write(2n)),
        stores.transactor.withTransaction,
        storeError
      )
      assertStoreError(error, { at: "OffsetStore.writeOffset", reason: "Timeout", says: /idle-in-transaction timeout/ })
      assert.strictEqual(yield* read, -1n)
      yield* assertWhole(stores)
    })
  )

  it.live("on the connections of a role is Unavailable, and over when one of them ends", () =>
    Effect.gen(function* () {
      const { role, url } = yield* freshRole("CONNECTION LIMIT 1")
      const { schema, ...owner } = yield* served()
      yield* execute([
        `GRANT USAGE ON SCHEMA ${schema} TO ${role}`,
        `GRANT ALL ON ALL TABLES IN SCHEMA ${schema} TO ${role}`
      ])
      const stores = yield* serve({ url, options: { schema }, layer: Postgres.layerStorage })
      const { write } = shard(stores, "row")
      const held = yield* open(stores.transactor.withTransaction, write(1n))
      yield* failsWith(
        write(2n),
        "OffsetStore.writeOffset",
        "Unavailable",
        /too many connections for role .*; use smaller pools/
      )
      yield* held.commit
      yield* write(2n)
      assert.strictEqual(yield* shard(owner, "row").read, 2n)
    })
  )
})

describe("a transaction that loses", () => {
  it.live.each(["SERIALIZABLE", "REPEATABLE READ"])("at %s is Contention, and succeeds when it is run again", (level) =>
    Effect.gen(function* () {
      const stores = yield* served()
      const { withTransaction } = stores.transactor
      const { id, read, write } = shard(stores, "row")
      const other = shard(yield* serve({ options: { schema: stores.schema } }), "row")
      yield* write(1n)
      const increment = <E>(seen: Effect.Effect<void, E>) =>
        Effect.gen(function* () {
          const value = yield* read
          yield* seen
          yield* stores.offsets.advanceOffset(id, { from: Option.some(value), to: value + 1n })
        }).pipe(withTransaction, Effect.provideService(SqlClient.BeginTransaction, `BEGIN ISOLATION LEVEL ${level}`))
      const error = yield* storeError(increment(other.write(10n)))
      assertStoreError(error, {
        at: "OffsetStore.advanceOffset",
        reason: "Contention",
        says: /could not serialize access .*; run the transaction again/
      })
      yield* Effect.retry(increment(Effect.void), {
        times: 3,
        while: (error) => error._tag === "StoreError" && error.isRetryable
      })
      assert.strictEqual(yield* read, 11n)
      yield* assertWhole(stores)
    })
  )

  it.live("only at its COMMIT is Contention of the transaction", () =>
    Effect.gen(function* () {
      const stores = yield* served()
      const { withTransaction } = stores.transactor
      const [a, b] = [shard(stores, "a"), shard(stores, "b")]
      const serializable = Effect.provideService(SqlClient.BeginTransaction, "BEGIN ISOLATION LEVEL SERIALIZABLE")
      yield* Effect.all([a.write(0n), b.write(0n)])
      // Each reads what the other writes: one of the two must fail, and the second to commit is the one.
      const first = yield* open((effect) => serializable(withTransaction(effect)), Effect.andThen(a.read, b.write(1n)))
      const begun = yield* Deferred.make<void>()
      const end = yield* Deferred.make<void>()
      const second = yield* b.read.pipe(
        Effect.andThen(a.write(1n)),
        Effect.andThen(Deferred.succeed(begun, undefined)),
        Effect.andThen(Deferred.await(end)),
        withTransaction,
        serializable,
        storeError,
        Effect.forkChild
      )
      yield* Deferred.await(begun)
      yield* first.commit
      yield* Deferred.succeed(end, undefined)
      const error = yield* Fiber.join(second)
      assertStoreError(error, {
        at: "Transactor.withTransaction",
        reason: "Contention",
        says: /could not serialize access/
      })
      assert.deepStrictEqual([yield* a.read, yield* b.read], [0n, 1n])
      yield* assertWhole(stores)
    })
  )

  it.live("a deadlock is Contention, and can be run again until it succeeds", () =>
    Effect.gen(function* () {
      const stores = yield* served({ client: { startupParameters: { deadlock_timeout: "50" } } })
      const [a, b] = [shard(stores, "a"), shard(stores, "b")]
      const lost: Array<string> = []
      const both = [yield* Deferred.make<void>(), yield* Deferred.make<void>()] as const
      const won = yield* Deferred.make<void>()
      const contend = (first: typeof a, second: typeof a, value: bigint, mine: 0 | 1) =>
        first.write(value).pipe(
          Effect.andThen(Deferred.succeed(both[mine], undefined)),
          Effect.andThen(Deferred.await(both[mine === 0 ? 1 : 0])),
          Effect.andThen(second.write(value)),
          stores.transactor.withTransaction,
          Effect.tapErrorTag("StoreError", ({ message, reason }) => {
            lost.push(`${reason._tag} ${message}`)
            // Run again at once, it could take its first row before the other one has got it, and lose once more.
            return Deferred.await(won)
          }),
          Effect.retry({
            schedule: Schedule.recurs(3),
            while: (error) => error._tag === "StoreError" && error.isRetryable
          }),
          Effect.andThen(Deferred.succeed(won, undefined))
        )
      yield* Effect.all([contend(a, b, 1n, 0), contend(b, a, 2n, 1)], { concurrency: 2 })
      assert.lengthOf(lost, 1)
      assert.match(lost.join(), /^Contention OffsetStore.writeOffset: .*deadlock detected; run the transaction again$/)
      assert.strictEqual(yield* a.read, yield* b.read)
      yield* assertWhole(stores)
    })
  )
})

describe("a server that cannot be reached", () => {
  it.live("is Unavailable, and named", () =>
    Effect.gen(function* () {
      const port = yield* freePort
      const closed = urlWith((url) => (url.host = `127.0.0.1:${port}`))
      const unresolvable = urlWith((url) => (url.hostname = "host.invalid"))
      for (const [url, says] of [
        [closed, new RegExp(`ECONNREFUSED 127.0.0.1:${port}; check that it runs and can be reached`)],
        [unresolvable, /(ENOTFOUND|EAI_AGAIN) host.invalid; check that it runs/]
      ] as const) {
        yield* failsWith(serve({ url }), "Postgres.migrate", "Unavailable", says)
        const { offsets } = yield* serve({ url, layer: Postgres.layerStorage })
        yield* failsWith(offsets.ping, "OffsetStore.ping", "Unavailable", says)
      }
    })
  )

  it.live("at any of the addresses of its host is Unavailable, and says why", () =>
    Effect.gen(function* () {
      const refused = ["::1", "127.0.0.1"].map((address) => new Error(`connect ECONNREFUSED ${address}:5432`))
      // The stream fails as `connect` does for a host with several addresses: the error itself has no message.
      const stream = () => {
        const duplex = new Duplex({ read: () => {}, write: (_chunk, _encoding, done) => done() })
        setImmediate(() => duplex.destroy(new AggregateError(refused)))
        return duplex
      }
      const { offsets } = yield* serve({ client: { stream }, layer: Postgres.layerStorage })
      yield* failsWith(offsets.ping, "OffsetStore.ping", "Unavailable", /: connect ECONNREFUSED ::1:5432; check/)
    })
  )
})

describe("a role", () => {
  it.live("with the wrong password, or unknown, is Denied", () =>
    Effect.gen(function* () {
      // A server of our own, as not every other asks for a password.
      const server = yield* PostgresServer.make()
      for (const change of [(url: URL) => (url.password = "wrong"), (url: URL) => (url.username = "strata_nobody")]) {
        const url = urlWith(change, server.url)
        const says =
          /the server refuses the login: password authentication failed for user "\w+"; check the user and the password/
        yield* failsWith(serve({ url }), "Postgres.migrate", "Denied", says)
        const { offsets } = yield* serve({ url, layer: Postgres.layerStorage })
        yield* failsWith(offsets.ping, "OffsetStore.ping", "Denied", says)
      }
    })
  )

  it.live("without a privilege is Denied, and works once it is granted", () =>
    Effect.gen(function* () {
      const { role, url } = yield* freshRole()
      const { schema } = yield* served()
      const stores = yield* serve({ url, options: { schema }, layer: Postgres.layerStorage })
      const { id, read, write } = shard(stores, "row")
      const table = `${schema}.offsets_store`
      const grants = {
        schema: `USAGE ON SCHEMA "${schema}"`,
        table: `SELECT, INSERT, UPDATE, DELETE ON "${schema}"."offsets_store"`
      }
      const denied = (call: Effect.Effect<unknown, unknown>, operation: string, what: "schema" | "table") =>
        failsWith(
          call,
          `OffsetStore.${operation}`,
          "Denied",
          new RegExp(
            `permission denied for ${what}.*: grant it to the role of this connection: GRANT ${grants[what]} TO "${role}"; ` +
              "strata grants ROLE prints all"
          )
        )

      yield* denied(read, "getCurrentOffset", "schema")
      yield* execute([`GRANT USAGE ON SCHEMA ${schema} TO ${role}`])
      yield* denied(read, "getCurrentOffset", "table")
      yield* denied(stores.offsets.ping, "ping", "table")
      yield* execute([`GRANT SELECT ON ${table} TO ${role}`])
      assert.strictEqual(yield* read, -1n)
      yield* stores.offsets.ping
      yield* denied(write(1n), "writeOffset", "table")
      yield* denied(stores.offsets.advanceOffset(id, { from: Option.some(1n), to: 2n }), "advanceOffset", "table")
      yield* denied(stores.offsets.resetOffset("row", 1n), "resetOffset", "table")
      yield* execute([`GRANT INSERT, UPDATE ON ${table} TO ${role}`])
      yield* write(1n)
      yield* denied(stores.offsets.deleteOffsets("row"), "deleteOffsets", "table")
      // What the message says is all that it takes.
      yield* execute([`GRANT ${grants.table} TO "${role}"`])
      assert.strictEqual(yield* stores.offsets.deleteOffsets("row"), 1)
      yield* assertWhole(stores)
    })
  )

  it.live("without a privilege on events, or on a function, is told the grant of an application", () =>
    Effect.gen(function* () {
      const { role, url } = yield* freshRole()
      const { schema } = yield* served()
      const { events } = yield* serve({ url, options: { schema }, layer: Postgres.layerStorage })
      yield* execute([`GRANT USAGE ON SCHEMA ${schema} TO ${role}`])
      const append = events.append({ aggregateId: "a", eventType: "b", data: 1 }, { expected: "none" })
      const grantIn = (error: { readonly message: string }) =>
        /role of this connection: (GRANT .*); strata grants/.exec(error.message)?.[1] ?? ""
      const columns = "id, aggregate_id, event_type, data, metadata"
      const first = grantIn(yield* Effect.flip(append))
      assert.strictEqual(first, `GRANT SELECT, INSERT (${columns}) ON "${schema}"."events" TO "${role}"`)
      yield* execute([first])
      yield* append
      yield* execute([`REVOKE EXECUTE ON FUNCTION ${schema}.events_append FROM public`])
      const second = grantIn(yield* Effect.flip(append))
      assert.strictEqual(second, `GRANT EXECUTE ON FUNCTION "${schema}"."events_append" TO "${role}"`)
      yield* execute([second])
      assert.strictEqual((yield* Effect.flip(append))._tag, "VersionConflict")
    })
  )

  it.live("whose sessions are read-only is Denied to write, and may read", () =>
    Effect.gen(function* () {
      const { schema } = yield* served()
      const client = { startupParameters: { default_transaction_read_only: "on" } }
      const stores = yield* serve({ client, options: { schema } })
      const { read, write } = shard(stores, "row")
      yield* failsWith(
        write(1n),
        "OffsetStore.writeOffset",
        "Denied",
        /the server or the session is read-only: cannot execute INSERT .*; connect to a server that can write/
      )
      assert.strictEqual(yield* read, -1n)
      yield* stores.offsets.ping
      const fresh = yield* freshSchema()
      yield* failsWith(
        serve({ client, options: { schema: fresh } }),
        "Postgres.migrate",
        "Denied",
        /read-only: .*CREATE/
      )
    })
  )
})

describe("what is not there", () => {
  it.live("(database, schema, table, column) is SchemaMissing, and the message says what to run", () =>
    Effect.gen(function* () {
      const { schema, sql } = yield* served()
      const says = (what: string) =>
        new RegExp(
          `${what}.* does not exist: run the migrations: strata migrate, Postgres.layer or Postgres.layerMigrations, or psql -f .*; ` +
            "where they have run in another schema, name it: the option schema of the layer, DB_SCHEMA or --schema"
        )
      const elsewhere = yield* serve({ options: { schema: "strata_nowhere" }, layer: Postgres.layerStorage })
      yield* failsWith(
        shard(elsewhere, "a").read,
        "OffsetStore.getCurrentOffset",
        "SchemaMissing",
        says("strata_nowhere")
      )

      const stores = yield* serve({ options: { schema }, layer: Postgres.layerStorage })
      const { read, write } = shard(stores, "a")
      yield* write(1n)
      yield* sql`ALTER TABLE ${sql(`${schema}.offsets_store`)} RENAME COLUMN current_offset TO value`
      yield* failsWith(write(2n), "OffsetStore.writeOffset", "SchemaMissing", says("current_offset"))
      yield* sql`ALTER TABLE ${sql(`${schema}.offsets_store`)} RENAME COLUMN value TO current_offset`
      yield* write(3n)
      yield* sql`ALTER TABLE ${sql(`${schema}.offsets_store`)} RENAME TO gone`
      for (const [operation, call] of [
        ["getCurrentOffset", read],
        ["writeOffset", write(4n)],
        ["ping", stores.offsets.ping],
        ["listOffsets", Stream.runDrain(stores.offsets.listOffsets())],
        ["deleteOffsets", stores.offsets.deleteOffsets("a")]
      ] as const) {
        yield* failsWith(call, `OffsetStore.${operation}`, "SchemaMissing", says("offsets_store"))
      }
      yield* sql`ALTER TABLE ${sql(`${schema}.gone`)} RENAME TO offsets_store`
      assert.strictEqual(yield* read, 3n)
      yield* assertWhole(stores)

      const url = urlWith((url) => (url.pathname = "/strata_nowhere"))
      const database = /database "strata_nowhere" does not exist: create it, or connect to another one/
      yield* failsWith(serve({ url }), "Postgres.migrate", "SchemaMissing", database)
    })
  )
})

describe("a row that another program wrote", () => {
  it.live("and that does not fit the model is a CorruptRow with table and key; all others can be read", () =>
    Effect.gen(function* () {
      const { schema, ...stores } = yield* served()
      const { read, write } = shard(stores, "mine")
      yield* write(5n)
      const list = (name?: string) => Stream.runCollect(stores.offsets.listOffsets(name))
      for (const [name, number, field] of [
        ["big", 2n ** 53n, "shardNumber"],
        ["negative", -1n, "shardNumber"],
        ["", 0n, "projectionName"]
      ] as const) {
        yield* execute([`INSERT INTO ${schema}.offsets_store VALUES ('${name}', ${number}, 1, 1)`])
        const error = yield* failsWith(
          list(),
          "OffsetStore.listOffsets",
          "CorruptRow",
          new RegExp(
            `row ${name}/${number} of offsets_store does not fit the model \\(${field}: Expected .*\\); mend or delete it`
          )
        )
        assert.deepInclude(error.reason, { table: "offsets_store", key: `${name}/${number}` })
        assert.strictEqual(yield* read, 5n)
        assert.lengthOf(yield* list("mine"), 1)
        yield* execute([`DELETE FROM ${schema}.offsets_store WHERE projection_name = '${name}'`])
        assert.lengthOf(yield* list(), 1)
      }
    })
  )

  it.live("in a column of another type is a CorruptRow by id too", () =>
    Effect.gen(function* () {
      const { schema, ...stores } = yield* served()
      const { read, write } = shard(stores, "mine", 3)
      yield* write(5n)
      yield* execute([`ALTER TABLE ${schema}.offsets_store ALTER COLUMN current_offset TYPE numeric(30, 1)`])
      yield* failsWith(
        Effect.retry(read, { times: 1 }),
        "OffsetStore.getCurrentOffset",
        "CorruptRow",
        /row mine\/3 of offsets_store does not fit the model \(value: Expected .*\)/
      )
    })
  )
})
