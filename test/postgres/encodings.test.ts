/** A database whose encoding is not UTF8 cannot keep every text: what it cannot keep is refused, and the error says why. */
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { postgresUrl } from "../support/database.ts"
import { latinDatabase } from "../support/databases.ts"
import { event } from "./events.harness.ts"
import { failsWith, serve } from "./harness.ts"

it.live("a text that the database's encoding lacks is refused, and what comes at the same time is stored", () =>
  Effect.gen(function* () {
    const { events, offsets } = yield* serve({ url: yield* latinDatabase(postgresUrl) })
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
