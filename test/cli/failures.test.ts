/** When the command fails, it says in a line or two what has failed and what to do, and ends with 1 or 2. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { execute, freshRole, freshSchema, urlWith } from "../postgres/harness.ts"
import { postgresUrl } from "../support/database.ts"
import { freePort } from "../support/ports.ts"
import { fails, strata, succeeds, temporaryDirectory } from "./harness.ts"

describe("wrong usage ends with 2", () => {
  it.live("and says what is wrong, and where to read more", () =>
    Effect.gen(function* () {
      yield* fails(["evnts"], 2, /Unknown subcommand "evnts".*\nRun strata --help to see how it is used\n$/s)
      yield* fails(["events", "read", "--limit", "0"], 2, /--limit: "0".*\nRun strata events read --help/s)
      yield* fails(["events", "read", "--data", "{a}"], 2, /--data.*\nRun strata events read --help/s)
      yield* fails(["offsets", "get", "p", "1.5"], 2, /shard/)
      yield* fails(["events", "read", "--url", "http://localhost"], 2, /--url: Expected a postgres:\/\/ URL/)
      yield* fails(["events", "read"], 2, /DATABASE_URL: Expected a postgres:\/\/ URL/, { url: "http://localhost" })
      const directory = yield* temporaryDirectory
      const file = join(directory, "url")
      yield* Effect.promise(() => writeFile(file, "postgres://localhost/app?sslmode=never\n"))
      yield* fails(["events", "read", "--url-file", file], 2, /--url-file\.sslmode: Expected one of/)
      const env = { DATABASE_URL_FILE: file }
      yield* fails(["events", "read"], 2, /DATABASE_URL_FILE\.sslmode: Expected one of/, { env })
      yield* fails(["events", "read"], 2, /no database is named; give --url or --pglite DIR/)
      yield* fails(["events", "import"], 2, /give a file/, { url: postgresUrl })
      yield* fails(["offsets", "get", "p", "--url", postgresUrl, "--pglite", "x"], 2, /two databases/)
    }).pipe(Effect.scoped)
  )

  it.live("no flag of the program, and no flag without a value, takes what is the subcommand's", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
      yield* succeeds(["migrate"], options)
      yield* execute([
        `INSERT INTO ${schema}.offsets_store (projection_name, shard_number, current_offset, timestamp) VALUES ('1', 0, 5, 0)`
      ])
      const reset = ["projections", "reset", "totals", "--yes"]
      yield* fails(
        [...reset, "--version", "3"],
        2,
        /Unrecognized flag: --version in command strata projections reset/,
        options
      )
      yield* fails([...reset, "--version"], 2, /Unrecognized flag: --version/, options)
      yield* fails([...reset, "-v"], 2, /Unrecognized flag: -v/, options)
      yield* fails(["--version", ...reset], 2, /Unrecognized flag: --version/, options)
      yield* fails([...reset, "--completions", "bash"], 2, /Unrecognized flag: --completions/, options)
      yield* fails(["--version", "--json"], 2, /--version/, options)
      for (const args of [
        ["--version", "3"],
        ["--completions", "bash", "events"]
      ]) {
        const { status, stderr, stdout } = yield* strata(args)
        assert.deepStrictEqual([status, stdout], [2, ""])
        assert.match(stderr, /Unrecognized flag: --(version|completions)/)
      }
      for (const args of [["--version"], ["-v"]]) assert.match(yield* succeeds(args), /^strata v\d+\.\d+\.\d+\n$/)
      for (const args of [["--completions", "bash"], ["--completions=bash"]]) {
        assert.include(yield* succeeds(args), "strata")
      }
      assert.include(yield* succeeds(["--help"]), "--version")
      assert.notInclude(yield* succeeds(["projections", "reset", "--help"]), "--version")

      assert.include(yield* succeeds(["offsets", "get", "--json", "1", "0"], options), `"value":"5"`)
      assert.include(yield* succeeds(["offsets", "list", "--verbose", "1", "--json"], options), `"value":"5"`)
      yield* succeeds(["offsets", "delete", "--yes", "1"], options)
      assert.strictEqual(yield* succeeds(["offsets", "list", "--json"], options), "")
      yield* fails(["offsets", "list", "--json", "no", "more"], 2, /more/, options)
    }).pipe(Effect.scoped)
  )

  it.live("so does an argument that a store refuses", () =>
    fails(["offsets", "get", ""], 2, /projectionName: Expected a non-empty string/, { url: postgresUrl })
  )

  it.live("so does a question where there is no terminal", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
      yield* succeeds(["migrate"], options)
      yield* succeeds(["offsets", "set", "p", "0", "5", "--yes"], options)
      for (const args of [
        ["set", "p", "0", "1"],
        ["reset", "p"],
        ["delete", "p"]
      ]) {
        yield* fails(["offsets", ...args], 2, /There is no terminal to ask on; say --yes/, { ...options, input: "y\n" })
      }
      assert.include(yield* succeeds(["offsets", "list", "--json"], options), `"value":"5"`)
    }).pipe(Effect.scoped)
  )
})

describe("a failure that the user did not cause ends with 1", () => {
  it.live("no server", () =>
    Effect.gen(function* () {
      const port = yield* freePort
      yield* fails(["events", "read"], 1, /no connection to the server: .*ECONNREFUSED.*; check that it runs/, {
        url: `postgres://app@127.0.0.1:${port}/app`
      })
    })
  )

  it.live("a wrong password, which the message does not repeat", () =>
    Effect.gen(function* () {
      const { url } = yield* freshRole()
      const wrong = urlWith((parts) => (parts.password = "wrong-password"), url)
      const { stderr } = yield* fails(["events", "read"], 1, /refuses the login.*check the user and the password/, {
        url: wrong
      })
      assert.notInclude(stderr, "wrong-password")
      const verbose = yield* strata(["events", "read", "--verbose"], { url: wrong })
      assert.match(verbose.stderr, /^\s+at /m)
      assert.notInclude(verbose.stderr, "wrong-password")
    }).pipe(Effect.scoped)
  )

  it.live("missing tables, and pending migrations", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const options = { url: postgresUrl }
      const missing = /does not exist: .*strata migrate/
      yield* fails(["events", "read", "--schema", schema], 1, missing, options)
      yield* fails(["offsets", "list", "--schema", schema], 1, missing, options)
      yield* fails(["migrate", "status", "--schema", schema], 1, /migrations? pending; run: strata migrate/, options)
    }).pipe(Effect.scoped)
  )

  it.live("a role that may only read", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const { role, url } = yield* freshRole()
      yield* succeeds(["migrate", "--schema", schema], { url: postgresUrl })
      yield* execute([
        `GRANT USAGE ON SCHEMA ${schema} TO ${role}`,
        `GRANT SELECT ON ALL TABLES IN SCHEMA ${schema} TO ${role}`
      ])
      const options = { url, env: { DB_SCHEMA: schema } }
      assert.strictEqual(yield* succeeds(["events", "read", "--json"], options), "")
      assert.include(yield* succeeds(["migrate", "status"], options), "run at")
      assert.include(yield* succeeds(["migrate"], options), "Nothing is pending")
      yield* fails(["events", "append", "--aggregate", "a", "--type", "T"], 1, /permission denied.*grant it/, options)
      yield* fails(["offsets", "set", "p", "0", "1", "--yes"], 1, /permission denied.*grant it/, options)
    }).pipe(Effect.scoped)
  )

  it.live("an embedded database that does not exist, which only migrate makes", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const says = /there is no database in .*; make one with: strata migrate --pglite/
      yield* fails(["events", "read", "--pglite", directory], 1, says)
    }).pipe(Effect.scoped)
  )
})
