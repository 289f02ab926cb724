/** A database whose encoding is not UTF8 cannot keep every text: what it cannot keep is refused, and the error says why. */
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { withConnection } from "../support/connection.ts"
import { postgresUrl } from "../support/database.ts"
import { event } from "./events.harness.ts"
import { failsWith, serve, unique, urlWith } from "./harness.ts"

/** The DSN of a new database with this encoding, which is dropped with the scope. */
const databaseIn = (encoding: string) =>
  Effect.acquireRelease(
    Effect.tap(unique, (name) =>
      withConnection(postgresUrl, (sql) =>
        sql.unsafe(
          `CREATE DATABASE ${name} TEMPLATE template0 ENCODING ${encoding} LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'`
        )
      )
    ),
    (name) => Effect.orDie(withConnection(postgresUrl, (sql) => sql.unsafe(`DROP DATABASE ${name} WITH (FORCE)`)))
  ).pipe(
    Effect.map((name) =>
      urlWith((url) => {
        url.pathname = `/${name}`
      })
    )
  )

it.live("a text that the database's encoding lacks is refused, and what comes at the same time is stored", () =>
  Effect.gen(function* () {
    const { events, offsets } = yield* serve({ url: yield* databaseIn("LATIN1") })
    const says = /the encoding of the database lacks a character: .*LATIN1.*; use a database with the encoding UTF8/
    const append = (text: string) => events.append({ ...event("a"), data: text })
    yield* Effect.all(
      [append("Jörg"), failsWith(append("😀"), "EventStore.append", "Unexpected", says), append("Ærø")],
      { concurrency: "unbounded" }
    )
    const stored = yield* events.loadByAggregate("a")
    assert.deepStrictEqual(
      stored.map(({ data }) => data),
      ["Jörg", "Ærø"]
    )
    const offset = { projectionName: "😀", shardNumber: 0, value: 1n }
    yield* failsWith(offsets.writeOffset(offset), "OffsetStore.writeOffset", "Unexpected", says)
  }).pipe(Effect.scoped)
)
