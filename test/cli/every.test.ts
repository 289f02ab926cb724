/** Every subcommand: on a terminal and a server, and piped and on PGlite; and the help of each. */
import { assert, describe, it, layer } from "@effect/vitest"
import { Context, Effect, Layer, type Scope } from "effect"
import type { Command } from "effect/cli"
import { join } from "node:path"
import { strata as strataCommand } from "../../src/cli/Strata.ts"
import { begin, beginOnTerminal, succeeds, temporaryDirectory } from "./harness.ts"
import { embedded, onServer, type Place, prepared } from "./places.ts"

/** The words after `strata` that name a command, and those that name each command below it. */
const pathsOf = (command: Command.Command.Any, path = ""): ReadonlyArray<string> => [
  path,
  ...command.subcommands.flatMap(({ commands }) =>
    commands.flatMap((child) => pathsOf(child, `${path} ${child.name}`.trim()))
  )
]
const paths = pathsOf(strataCommand)
/** The commands that do something. */
const doing = paths.filter(
  (path) => path === "migrate" || (path !== "" && !paths.some((other) => other.startsWith(`${path} `)))
)

interface Use {
  readonly path: string
  readonly args?: ReadonlyArray<string>
  readonly says: RegExp
  /** 0 unless given. */
  readonly status?: number
}

const yes = "--yes"
/** In the folder of the place. */
const file = "events.jsonl"

/** One use of each command, in an order in which each finds what it needs. */
const uses: ReadonlyArray<Use> = [
  { path: "migrate", says: /^Nothing is pending$/m },
  { path: "grants", args: ["pg_monitor"], says: /^GRANT SELECT, INSERT \(id, .*\) ON .*events TO "pg_monitor";$/m },
  { path: "schema", says: /^ +aggregate_id +text +What the event happened to$/m },
  { path: "migrate status", says: /^0001_offsets\.sql +run at/m },
  { path: "events append", args: ["--aggregate", "a", "--type", "T", "--id", "e1"], says: /^ +\d+ .* a +T +null$/m },
  { path: "events read", args: ["--limit", "1"], says: /^ +1 .* anna +Paid +1$/m },
  { path: "events show", args: ["e1"], says: /^aggregateId +a$/m },
  { path: "events tag", args: ["--tag", "account:{@aggregateId}"], says: /^3 events got 3 tags; 3 events looked at$/m },
  { path: "events stats", says: /^events +3$/m },
  { path: "events export", args: [file], says: /3 events in / },
  { path: "events import", args: [file], says: /0 events imported from .*, 3 were there already/ },
  { path: "archives", says: /^(nothing is archived)?$/m },
  {
    path: "archive",
    args: ["--before", "2026-01-31", "--dir", "archive"],
    says: /only a log with partitions is archived/,
    status: 1
  },
  { path: "restore", args: ["--dir", "archive"], says: /only a log with partitions is archived/, status: 1 },
  { path: "events tail", args: ["--after", "start"], says: /^VERSION/m, status: 130 },
  { path: "offsets set", args: ["p", "0", "7", yes], says: /^.*"p".* 7$/m },
  { path: "offsets get", args: ["p"], says: /^p +0 +7/m },
  { path: "offsets list", args: ["p"], says: /^p +0 +7/m },
  { path: "offsets reset", args: ["p", "3", yes], says: /^1 shard of .* set to 3$/m },
  { path: "offsets delete", args: ["p", yes], says: /"p"/ },
  { path: "states list", args: ["--shard", "7"], says: /^s1 +1 +7/m },
  { path: "states show", args: ["s1"], says: /^persistenceId +s1$/m },
  { path: "states delete", args: ["s1", yes], says: /^The state of "s1" is deleted$/m },
  { path: "spool stats", says: /^incoming +1$/m },
  { path: "spool list", args: ["incoming"], says: /^ID +QUEUE +STATE .*\nm1 +incoming /m },
  { path: "spool show", args: ["m1"], says: /^id +m1$/m },
  { path: "spool hold", args: ["m1"], says: /^Message "m1" is hold$/m },
  { path: "spool release", args: ["m1"], says: /^Message "m1" is incoming$/m },
  { path: "spool bounce", args: ["m1"], says: /^Message "m1" is bounce$/m },
  { path: "spool requeue", args: ["m1"], says: /^Message "m1" is incoming$/m },
  { path: "spool delete", args: ["m1", yes], says: /^Message "m1" is deleted$/m },
  { path: "spool recover", says: /^(no lease has run out)?$/m },
  { path: "spool preview", args: ["fixed", "--attempts", "1"], says: /^ +1 +15m +15m$/m },
  { path: "projections list", says: /^balances +2 +idle /m },
  { path: "projections status", args: ["balances"], says: /^ +1 +idle /m },
  { path: "projections processes", says: /^(no process runs a projection)?$/m },
  { path: "projections parked", args: ["balances"], says: /^bert +2 +Paid .*Error: no account bert/m },
  { path: "projections retry", args: ["balances", "--timeout", "10ms"], says: /^bert +waiting/m, status: 1 },
  { path: "projections skipped", args: ["balances"], says: /^(nothing was skipped)?$/m },
  {
    path: "projections rebuild",
    args: ["balances", "--timeout", "10ms", yes],
    says: /no process runs "balances"; start one/,
    status: 1
  },
  { path: "projections pause", args: ["balances"], says: /^"balances" is paused$/m },
  { path: "projections resume", args: ["balances"], says: /^"balances" goes on$/m },
  { path: "projections reset", args: ["balances", yes], says: /^"balances" goes on after version 0$/m },
  {
    path: "projections accept",
    args: ["balances"],
    says: /^"balances" has read this log: there is nothing to accept$/m
  },
  { path: "projections remove", args: ["balances", yes], says: /^"balances" is removed$/m },
  { path: "console", args: ["--port", "0"], says: /^The console, which only reads, is at http:/m, status: 130 },
  { path: "status", says: /^tail +nobody is appending$/m },
  { path: "doctor", says: /^ok +triggers +no foreign triggers$/m }
]

/** A place with events, of which some were handled, a state, a message, and a folder for files. */
class Used extends Context.Service<
  Used,
  Pick<Effect.Success<ReturnType<typeof prepared>>, "flags" | "options"> & { readonly directory: string }
>()("strata-test/cli/Used") {
  static readonly layer = (place: Effect.Effect<Place, never, Scope.Scope>) =>
    Layer.effect(
      Used,
      Effect.gen(function* () {
        const { flags, once, options, pay, rows, schema } = yield* prepared(yield* place)
        yield* pay("anna", 1)
        yield* pay("bert", 2)
        yield* once
        yield* rows(`INSERT INTO ${schema}.states_store VALUES ('s1', 1, '{}'::text::bytea, 'json', 0, 7)`)
        yield* rows(
          `INSERT INTO ${schema}.retryspool_messages (id, state, attempts, max_attempts, next_retry, created, updated, last_error, headers)
           VALUES ('m1', 0, 0, 5, now(), now(), now(), '', '{}')`
        )
        return { flags, options, directory: yield* temporaryDirectory }
      })
    )
}

const ways = [
  ["on a terminal, on a server", onServer, beginOnTerminal],
  ["piped, on PGlite", embedded, begin]
] as const

for (const [way, place, launch] of ways) {
  // One after the other, as each finds what it needs.
  layer(Used.layer(place), { excludeTestServices: true })(`every subcommand ${way}`, (it) => {
    for (const { args = [], path, says, status = 0 } of uses) {
      it.effect(path, () =>
        Effect.gen(function* () {
          const { directory, flags, options } = yield* Used
          const given = args.map((arg) => (arg === file ? join(directory, file) : arg))
          const running = yield* launch([...path.split(" "), ...given, ...flags], options)
          if (status === 130) {
            yield* running.says(says)
            yield* running.interrupt
          }
          const ended = yield* running.ended
          // The progress of long work is on stderr.
          assert.match((ended.stdout + ended.stderr).replaceAll("\r", ""), says)
          // The doctor may fail, as the server of the tests may run without fsync.
          if (path !== "doctor") assert.strictEqual(ended.status, status)
        })
      )
    }
  })
}

describe("every subcommand", () => {
  it("that does something is used here", () => {
    assert.deepStrictEqual(uses.map(({ path }) => path).toSorted(), doing.toSorted())
  })

  it.live.each(paths)("%s has help with an example of it", (path) =>
    Effect.map(succeeds([...path.split(" ").filter(Boolean), "--help"]), (help) => {
      const [, examples = ""] = help.split("EXAMPLES")
      assert.include(examples, `strata ${path}`.trim())
    })
  )
})
