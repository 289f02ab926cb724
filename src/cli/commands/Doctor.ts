/** `strata doctor`: is this server fit, and is all well with the tables? */
import { Effect } from "effect"
import { Command, Flag } from "effect/cli"
import { Settings } from "../arguments/GlobalFlags.ts"
import * as Parameters from "../arguments/Parameters.ts"
import * as Database from "../Database.ts"
import { prove } from "../doctor/Proof.ts"
import * as TableChecks from "../doctor/TableChecks.ts"
import { Failed } from "../terminal/Failure.ts"
import * as Output from "../terminal/Output.ts"

const colours = { ok: "green", warning: "yellow", problem: "red" } as const

const show = Effect.fnUntraced(function* (name: string, { level, remedy, says }: TableChecks.Finding) {
  if (yield* Settings.json) return yield* Output.json({ check: name, level, says, remedy: remedy ?? null })
  const line = `${Output.paint(level.padEnd(8), colours[level])} ${name.padEnd(13)} ${Output.printable(says)}\n`
  const advice = remedy === undefined ? "" : `${" ".repeat(23)}-> ${Output.printable(remedy)}\n`
  return yield* Output.write(line + advice)
})

/** Runs checks one after another, shows what they find, and returns it. */
const run = (checks: ReadonlyArray<TableChecks.Check>) =>
  Effect.map(
    Effect.forEach(checks, ({ name, run }) =>
      Effect.tap(run, (findings) => Effect.forEach(findings, (finding) => show(name, finding)))
    ),
    (findings) => findings.flat()
  )

/** Where tables are missing, that is all there is to say of them. */
const examine = Effect.gen(function* () {
  const { missing, server, tables } = yield* TableChecks.make
  const onServer = yield* run(server)
  const absent = yield* run([missing])
  return [...onServer, ...absent, ...(absent.length === 0 ? yield* run(tables) : [])]
})

const flags = {
  prove: Flag.Boolean("prove").pipe(
    Flag.withDefault(false),
    Flag.withoutNegation,
    Flag.withDescription(
      "Then let writers and a subscriber run in a schema made for that, and see that no event is lost"
    )
  ),
  for: Parameters.duration("for").pipe(
    Flag.withDefault(10_000),
    Flag.withDescription("How long the proof runs; 10s unless given")
  )
}

export const doctor = Command.make("doctor", flags, (input) =>
  Effect.gen(function* () {
    const findings = yield* examine
    const proof = input.prove ? [yield* prove(input.for)] : []
    yield* Effect.forEach(proof, (finding) => show("proof", finding))
    const problems = [...findings, ...proof].filter(({ level }) => level === "problem").length
    if (problems > 0) return yield* new Failed({ message: `${Output.count(problems, "problem")} found` })
  }).pipe(Effect.provide(Database.layerTables()))
).pipe(
  Command.withDescription("Checks the server and the tables, each with its remedy. Fails if there is a problem"),
  Command.withExamples([
    { command: "strata doctor", description: "Is all well?" },
    { command: "strata doctor --prove --for 60s", description: "Does this server keep every event, with many writers?" }
  ])
)
