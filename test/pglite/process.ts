import { Console, Effect } from "effect"
import { SqlClient } from "effect/sql"
import * as Pglite from "../../src/pglite/index.ts"

// What the tests run as a process of its own: `process.ts once|forever <directory>`. Each number printed is committed.

const [, , mode, dataDir] = process.argv

const commit = (n: number) =>
  SqlClient.SqlClient.use((sql) =>
    Effect.andThen(sql.withTransaction(sql`INSERT INTO numbers VALUES (${n}, repeat('x', 2000))`), Console.log(n))
  )

await Effect.runPromise(
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    yield* sql`CREATE TABLE IF NOT EXISTS numbers (n int PRIMARY KEY, filler text)`
    const last = mode === "forever" ? Infinity : 3
    for (let n = 1; n <= last; n++) {
      yield* commit(n)
      if (n % 50 === 0) yield* Effect.sleep(1)
    }
  }).pipe(Effect.provide(Pglite.layer({ dataDir })))
)
