/** Databases of their own on a server, for which nothing of Vitest is needed. */
import type { PgClient } from "@effect/sql-pg"
import { Effect, type Scope } from "effect"
import type { SqlError } from "effect/sql"
import { randomBytes } from "node:crypto"
import { withConnection } from "./connection.ts"

/** A name that no other test has. */
export const uniqueName = Effect.sync(() => `strata_test_${randomBytes(6).toString("hex")}`)

/** The command itself fails where what it has terminated has not ended after five seconds, as on a busy machine. */
const drop = (sql: PgClient.PgClient, name: string) =>
  Effect.andThen(
    sql`SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = ${name}`,
    sql`DROP DATABASE ${sql(name)} WITH (FORCE)`
  )

/**
 * The DSN of a new database, which is dropped with the scope, even if clients are still connected to it. It is empty, unless
 * another one is given that it is to be like, to which nobody is connected. `more` is what else `CREATE DATABASE` is told.
 */
export const database = (
  server: string,
  template = "template0",
  more = ""
): Effect.Effect<string, SqlError.SqlError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.tap(uniqueName, (name) =>
      withConnection(server, (sql) => sql`CREATE DATABASE ${sql(name)} TEMPLATE ${sql(template)} ${sql.literal(more)}`)
    ),
    (name) => Effect.orDie(withConnection(server, (sql) => drop(sql, name)))
  ).pipe(
    Effect.map((name) => {
      const url = new URL(server)
      url.pathname = `/${name}`
      return url.href
    })
  )

/** An empty database that lacks most of the world's texts. */
export const latinDatabase = (server: string) =>
  database(server, "template0", "ENCODING LATIN1 LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'")

/**
 * A database for each of so many workers.
 *
 * **Details**
 *
 * Files that run at the same time share no database, as a transaction that is open in one of them would keep the server
 * from cleaning up what another one updates: statements that touch no index (HOT) would then have to touch it.
 */
export const databases = (server: string, workers: number) => Effect.replicateEffect(database(server), workers)
