/** Databases of their own on a server, for which nothing of Vitest is needed. */
import { Effect, type Scope } from "effect"
import type { SqlError } from "effect/sql"
import { randomBytes } from "node:crypto"
import { withConnection } from "./connection.ts"

/** A name that no other test has. */
export const uniqueName = Effect.sync(() => `strata_test_${randomBytes(6).toString("hex")}`)

/**
 * The DSN of a new database, which is dropped with the scope, even if clients are still connected to it. It is empty, unless another
 * one is given that it is to be like, to which nobody is connected.
 */
export const database = (
  server: string,
  template = "template0"
): Effect.Effect<string, SqlError.SqlError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.tap(uniqueName, (name) =>
      withConnection(server, (sql) => sql`CREATE DATABASE ${sql(name)} TEMPLATE ${sql(template)}`)
    ),
    (name) => Effect.orDie(withConnection(server, (sql) => sql`DROP DATABASE ${sql(name)} WITH (FORCE)`))
  ).pipe(
    Effect.map((name) => {
      const url = new URL(server)
      url.pathname = `/${name}`
      return url.href
    })
  )

/**
 * A database for each of so many workers.
 *
 * **Details**
 *
 * Files that run at the same time share no database, as a transaction that is open in one of them would keep the server
 * from cleaning up what another one updates: statements that touch no index (HOT) would then have to touch it.
 */
export const databases = (server: string, workers: number) => Effect.replicateEffect(database(server), workers)
