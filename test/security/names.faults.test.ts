/** Names of schemas and tables are data: whatever Postgres accepts as a name works, and nothing in it is run. */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Schema } from "effect"
import type * as Postgres from "effect-strata/postgres"
import { jsonLines, strata } from "../cli/harness.ts"
import { migrate, query, serve } from "../postgres/harness.ts"
import { scratchDatabase } from "../support/database.ts"
import { attackers, installPwn, useStores } from "./harness.ts"

/** What has a meaning in psql, SQL, PL/pgSQL, format(), a regular expression or a replacement, and code that would run. */
const fragments = (
  '" \' \'\' "" \\ \\\' $ $$ $1 $& $` $body$ $function$ $do$ $sql$ % %I %s %1$s %% : :: :" :\' :"events" :\'events\' :"spool" ' +
  ':"states_write" <events> <spool> . , ; -- /* */ ( ) [ ] { } ? | ^ + * é 😀 \u2028 \u202e A z _write _append _claim _lease ' +
  "E' U& NULL public pg_temp pwn() '||pwn()||' \"||pwn()||\""
)
  .split(" ")
  .concat([" ", "\t", "\n", "\r", "; SELECT pwn();", "\n-- next\nSELECT pwn()\n"])

/** Names of at most so many bytes: whole fragments, so that no character is cut in two. */
const nameOf = (parts: ReadonlyArray<string>, maxBytes: number): string =>
  parts.reduce((name, part) => (Buffer.byteLength(name + part) <= maxBytes ? name + part : name), "")

const bytesBefore = { schema: 63, events: 56, offsets: 63, spool: 57, messages: 57, states: 57, migrations: 63 }

const Fragments = Schema.Array(Schema.Literals(fragments))
const Names = Schema.Struct({
  schema: Fragments,
  events: Fragments,
  offsets: Fragments,
  spool: Fragments,
  messages: Fragments,
  states: Fragments,
  migrations: Fragments
})

/** The options that these fragments spell. The tables of a schema have to have different names. */
const optionsOf = (names: typeof Names.Type): Postgres.Options => {
  const of = (key: keyof typeof bytesBefore, prefix: string) => nameOf([prefix, ...names[key]], bytesBefore[key])
  return {
    schema: of("schema", ""),
    tables: {
      events: of("events", "e"),
      offsets: of("offsets", "o"),
      spool: of("spool", "m"),
      messages: of("messages", "q"),
      states: of("states", "s"),
      migrations: of("migrations", "r")
    },
    notify: "rows",
    index: "containment"
  }
}

const works = Effect.fnUntraced(function* (url: string, options: Postgres.Options) {
  yield* migrate(url, options)
  yield* Effect.flatMap(serve({ url, options }), useStores).pipe(Effect.scoped)
  assert.deepStrictEqual(yield* query("SELECT * FROM pwned", url), [])
})

describe("names of schemas and tables", () => {
  it.live.each(attackers)("the name %s of a schema and of each table", (name) =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      yield* installPwn(url)
      const names = Schema.decodeSync(Names)({
        schema: [],
        events: [],
        offsets: [],
        spool: [],
        messages: [],
        states: [],
        migrations: []
      })
      const { tables } = optionsOf(names)
      yield* works(url, { schema: name })
      yield* works(url, { schema: `${name} `, tables: tables ?? {}, notify: "rows" })
      const commands = [
        ["status"],
        ["doctor", "--json"],
        ["events", "read"],
        ["spool", "list", "incoming"],
        ["migrate"]
      ]
      for (const command of commands) {
        const ended = yield* strata([...command, "--schema", name], { url })
        // The server of the tests may run without fsync, which the doctor finds. It finds nothing else.
        const problems = jsonLines(command[0] === "doctor" ? ended.stdout : "").filter(
          ({ level }) => level === "problem"
        )
        assert.deepStrictEqual(
          problems.map(({ check }) => check).filter((check) => check !== "durability"),
          []
        )
        if (command[0] !== "doctor") assert.strictEqual(ended.status, 0, ended.stderr)
      }
      assert.deepStrictEqual(yield* query("SELECT * FROM pwned", url), [])
      for (const [key, bytes] of Object.entries(bytesBefore)) {
        if (key === "schema") continue
        yield* works(url, { schema: `table ${key}`, tables: { ...tables, [key]: nameOf([...name], bytes) } })
      }
    })
  )

  it.effect.prop(
    "every name that Postgres accepts, of the schema and of each table",
    [Arbitrary.schema(Names)],
    ([names]) =>
      Effect.gen(function* () {
        const options = optionsOf(names)
        if (options.schema === "" || options.schema?.startsWith("pg_")) return
        const url = yield* scratchDatabase()
        yield* installPwn(url)
        yield* works(url, options)
      }).pipe(Effect.scoped),
    { arbitrary: { runs: 50 } }
  )

  it.live("two sets of tables whose names are parts of each other's, and text that looks like a place to fill in", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      yield* installPwn(url)
      for (const events of ["events", "events_append", `:"events"`, `:'events'`, `a:"events"`]) {
        yield* works(url, { schema: `x:"events":'events'`, tables: { events } })
      }
    })
  )
})
