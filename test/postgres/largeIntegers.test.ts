import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import * as Postgres from "effect-strata/postgres"
import { succeeds, temporaryDirectory } from "../cli/harness.ts"
import { suite } from "../events/largeIntegers.ts"
import { postgresUrl, scratchDatabase } from "../support/database.ts"
import { execute, freshSchema, query } from "./harness.ts"

suite(
  "Postgres",
  Effect.gen(function* () {
    const schema = yield* freshSchema()
    const client = PgClient.layer({ url: Redacted.make(postgresUrl) })
    yield* Effect.scoped(Layer.build(Layer.provide(Postgres.layer({ schema }), client)))
    return {
      exact: Layer.provide(Postgres.layerStorage({ schema, largeIntegers: "bigint" }), client),
      plain: Layer.provide(Postgres.layerStorage({ schema }), client)
    }
  })
)

it.live("the command shows, takes, exports and imports them with all of their digits", () =>
  Effect.gen(function* () {
    const url = yield* scratchDatabase()
    const directory = yield* temporaryDirectory
    const data = `{"huge": -123456789012345678901234567890, "atNanos": 1764187200123456789}`
    const command = (...args: ReadonlyArray<string>) => succeeds(args, { url })
    yield* command("migrate")
    yield* command("events", "append", "--aggregate", "a", "--type", "Paid", "--data", data, "--metadata", data)
    yield* execute(
      [`INSERT INTO events (id, aggregate_id, event_type, data) VALUES ('go', 'a', 'Paid', '${data}')`],
      url
    )
    const stored = [[data], [data]]
    assert.deepStrictEqual(yield* query("SELECT data::text FROM events ORDER BY version", url), stored)
    const written = data.replaceAll(" ", "")
    const found = yield* command("events", "read", "--json", "--data", `{"atNanos":1764187200123456789}`)
    assert.lengthOf(found.split(`"data":${written}`), 3, found)
    assert.include(found, `"metadata":${written}`)
    assert.include(yield* command("events", "read"), written)
    assert.include(yield* command("events", "show", "go", "--json"), `"data":${written}`)

    const file = `${directory}/events.jsonl`
    yield* command("events", "export", file)
    const copy = yield* scratchDatabase()
    yield* succeeds(["migrate"], { url: copy })
    yield* succeeds(["events", "import", file], { url: copy })
    assert.deepStrictEqual(yield* query("SELECT data::text FROM events ORDER BY version", copy), stored)

    const payload = `{"units": 9223372036854775807}`
    yield* execute(
      [
        `INSERT INTO retryspool_messages (id, state, attempts, max_attempts, next_retry, created, updated, last_error, size,
          priority, headers, payload)
        VALUES ('m', 3, 0, 1, now(), now(), now(), '', 0, 5, '{}', '${payload}')`
      ],
      url
    )
    yield* execute([`INSERT INTO states_store VALUES ('s', 1, convert_to('${payload}', 'UTF8'), 'Units', 0, 0)`], url)
    assert.include(yield* command("states", "show", "s", "--json"), `"value":{"units":9223372036854775807}`)
    assert.include(yield* command("spool", "show", "m", "--json"), `"payload":{"units":9223372036854775807}`)
  })
)
