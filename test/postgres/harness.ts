/** What the tests of this directory share: stores on pools of their own, and the checks that nothing leaks. */
import { PgClient } from "@effect/sql-pg"
import { assert } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Option, Redacted } from "effect"
import { DurableStateStore, EventStore, OffsetStore, SpoolStore, StoreError, Transactor } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { randomBytes } from "node:crypto"
import { chown, readFile, stat, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Connection from "../support/connection.ts"
import { withConnection } from "../support/connection.ts"
import { postgresUrl, scratchDatabase, waitForBackends } from "../support/database.ts"
import type * as PostgresServer from "../support/PostgresServer.ts"

/** A name that no other test has, of a schema, a role or an application. */
export const unique = Effect.sync(() => `strata_test_${randomBytes(6).toString("hex")}`)

/** Statements of the superuser, one by one. */
export const execute = (statements: ReadonlyArray<string>, server: string = postgresUrl) =>
  Connection.execute(server, statements)

/** Rows that the superuser reads. */
export const query = (statement: string, server: string = postgresUrl) =>
  withConnection(server, (sql) => sql.unsafe(statement).values)

/** A name for a schema, which is dropped with the scope if something has made it. */
export const freshSchema = (server: string = postgresUrl) =>
  Effect.acquireRelease(unique, (name) => Effect.orDie(execute([`DROP SCHEMA IF EXISTS ${name} CASCADE`], server)))

/** A role that may log in, dropped with the scope together with what it owns. */
export const freshRole = Effect.fnUntraced(function* (options = "") {
  const role = yield* Effect.acquireRelease(
    Effect.tap(unique, (name) => execute([`CREATE ROLE ${name} LOGIN PASSWORD 'secret' ${options}`])),
    (name) => Effect.orDie(execute([`DROP OWNED BY ${name}`, `DROP ROLE ${name}`]))
  )
  const url = new URL(postgresUrl)
  url.username = role
  url.password = "secret"
  return { role, url: url.href }
})

/** Lets a server speak TLS, and gives the certificate to trust. It is for `localhost` and `127.0.0.1`, or for one of them. */
export const encrypt = Effect.fnUntraced(function* (
  server: PostgresServer.PostgresServer,
  prefix: "" | "localhost-" | "loopback-" = ""
) {
  const fixture = (name: string) =>
    Effect.promise(() => readFile(new URL(`fixtures/${prefix}${name}`, import.meta.url)))
  const [certificate, key] = [yield* fixture("certificate.pem"), yield* fixture("key.pem")]
  yield* Effect.promise(async () => {
    const { gid, uid } = await stat(server.dataDir)
    for (const [name, content] of [
      ["server.crt", certificate],
      ["server.key", key]
    ] as const) {
      const path = join(server.dataDir, name)
      await writeFile(path, content, { mode: 0o600 })
      await chown(path, uid, gid)
    }
  })
  yield* execute(["ALTER SYSTEM SET ssl = on"], server.url)
  yield* server.restart("fast")
  return certificate
})

/** The DSN with parts of it changed. */
export const urlWith = (change: (url: URL) => void, server: string = postgresUrl): string => {
  const url = new URL(server)
  change(url)
  return url.href
}

export interface Settings {
  readonly url?: string
  readonly client?: PgClient.PgPoolConfig
  readonly options?: Postgres.Options
  /** Which layer: `Postgres.layer` unless another is given. */
  readonly layer?: typeof Postgres.layer
}

/** The stores on a pool of their own, built once, until the scope closes. */
export const serve = Effect.fnUntraced(function* ({
  client,
  layer = Postgres.layer,
  options = {},
  url = postgresUrl
}: Settings = {}) {
  const applicationName = yield* unique
  const pool = PgClient.layer({ url: Redacted.make(url), applicationName, maxConnections: 4, ...client })
  const context = yield* Layer.build(Layer.provideMerge(layer(options), pool))
  const sql = Context.get(context, PgClient.PgClient)
  return {
    applicationName,
    maxConnections: client?.maxConnections ?? 4,
    events: Context.get(context, EventStore.EventStore),
    offsets: Context.get(context, OffsetStore.OffsetStore),
    spool: Context.get(context, SpoolStore.SpoolStore),
    states: Context.get(context, DurableStateStore.DurableStateStore),
    transactor: Context.get(context, Transactor.Transactor),
    sql
  }
})

export type Served = Effect.Success<ReturnType<typeof serve>>

/** One shard of a projection, its value in short: -1n where there is none. */
export const shard = ({ offsets }: Pick<Served, "offsets">, projectionName: string, shardNumber = 0) => ({
  id: { projectionName, shardNumber },
  write: (value: bigint) => offsets.writeOffset({ projectionName, shardNumber, value }),
  read: Effect.map(
    offsets.getCurrentOffset({ projectionName, shardNumber }),
    Option.match({ onNone: () => -1n, onSome: ({ value }) => value })
  )
})

/** The `StoreError` with which the effect fails. A success, a defect or another error fails the test. */
export const storeError = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Effect.exit(effect), (exit) => {
    const error = Option.getOrUndefined(Exit.findErrorOption(exit))
    return error instanceof StoreError.StoreError && Exit.isFailure(exit) && exit.cause.reasons.length === 1
      ? Effect.succeed(error)
      : Effect.die(new Error("This is no StoreError", { cause: exit }))
  })

/** Checks the whole of a `StoreError`: who failed, why, whether to try again, and in which words. */
export const assertStoreError = (
  error: StoreError.StoreError,
  expected: { readonly at: string; readonly reason: StoreError.Reason["_tag"]; readonly says: RegExp }
) => {
  assert.strictEqual(`${error.store}.${error.operation}`, expected.at)
  assert.strictEqual(error.reason._tag, expected.reason, error.message)
  assert.strictEqual(error.isRetryable, ["Unavailable", "Timeout", "Contention"].includes(expected.reason))
  assert.isTrue(error.message.startsWith(`${expected.at}: `), error.message)
  assert.match(error.message, expected.says)
  // One plain sentence: on one line, of a length that can be read.
  assert.match(error.message, /^[^\n]{20,400}[^\n.]$/)
}

/** Fails as expected, and nothing but that. */
export const failsWith = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  at: string,
  reason: StoreError.Reason["_tag"],
  says: RegExp
) => Effect.tap(storeError(effect), (error) => Effect.sync(() => assertStoreError(error, { at, reason, says })))

/** A transaction that stays open until the returned effect commits it; the fiber ends with the scope of the test. */
export const open = <A, E, R>(
  withTransaction: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | StoreError.StoreError, R>,
  effect: Effect.Effect<A, E, R>
) =>
  Effect.gen(function* () {
    const begun = yield* Deferred.make<void, E | StoreError.StoreError>()
    const end = yield* Deferred.make<void>()
    const fiber = yield* effect.pipe(
      Effect.andThen(Deferred.succeed(begun, undefined)),
      Effect.andThen(Deferred.await(end)),
      withTransaction,
      Effect.tapCause((cause) => Deferred.failCause(begun, cause)),
      Effect.forkScoped
    )
    yield* Deferred.await(begun)
    return { commit: Effect.andThen(Deferred.succeed(end, undefined), Fiber.join(fiber)), fiber }
  })

/**
 * The store works, and nothing has leaked: every connection of the pool can be had at the same time, the server knows no
 * more of them than the pool may have, and all of them are idle, so outside of a transaction and without a lock.
 */
export const assertWhole = (served: Served, server: string = postgresUrl) =>
  Effect.gen(function* () {
    const { applicationName, maxConnections, transactor } = served
    const name = `whole ${yield* unique}`
    const shards = Array.from({ length: maxConnections }, (_, number) => shard(served, name, number))
    const transactions = yield* Effect.forEach(shards, ({ write }) => open(transactor.withTransaction, write(7n)))
    yield* Effect.forEach(transactions, ({ commit }) => commit)
    assert.deepStrictEqual(
      yield* Effect.forEach(shards, ({ read }) => read),
      shards.map(() => 7n)
    )
    const settled = yield* waitForBackends(
      applicationName,
      (all) => all.length <= maxConnections && all.every(({ state }) => state === "idle"),
      server
    )
    assert.isAtMost(settled.length, maxConnections)
    assert.deepStrictEqual(
      settled.filter(({ state }) => state !== "idle"),
      []
    )
  }).pipe(Effect.scoped)

/** Runs the migrations alone, as a deployment step does. */
export const migrate = (url: string, options?: Postgres.Options, client?: PgClient.PgPoolConfig) =>
  Layer.build(
    Layer.provide(Postgres.layerMigrations(options), PgClient.layer({ url: Redacted.make(url), ...client }))
  ).pipe(Effect.scoped, Effect.asVoid)

/** A database as an earlier version has left it: see the first lines of the fixture. */
export const restore = Effect.fnUntraced(function* (fixture: string) {
  const url = yield* scratchDatabase()
  const text = yield* Effect.promise(() => readFile(new URL(`fixtures/${fixture}`, import.meta.url), "utf8"))
  yield* execute(text.split(/^-- next$/m), url)
  return url
})

/** What a table is made of: columns, defaults, constraints, indexes, and its identity. */
export const shape = (url: string, table: string) =>
  query(
    `SELECT attname::text, format_type(atttypid, atttypmod), attnotnull::text, attrelid::text FROM pg_attribute
     WHERE attrelid = '${table}'::regclass AND attnum > 0
     UNION ALL SELECT conname::text, pg_get_constraintdef(oid), '', oid::text FROM pg_constraint WHERE conrelid = '${table}'::regclass
     UNION ALL SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), '', indexrelid::text FROM pg_index
     WHERE indrelid = '${table}'::regclass ORDER BY 1, 2`,
    url
  )
