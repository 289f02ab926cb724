/** `strata doctor`: is this server fit, and is all well with the tables? */
import { Duration, Effect } from "effect"
import { Command, Flag } from "effect/cli"
import { proveArchive } from "../../doctor/ArchiveChecks.ts"
import type { Finding } from "../../doctor/Check.ts"
import * as Checks from "../../doctor/Checks.ts"
import { Limits } from "../../doctor/HealthChecks.ts"
import { type Thorough, Thoroughly } from "../../doctor/LogChecks.ts"
import { prove } from "../../doctor/Proof.ts"
import { ShowQueries } from "../../doctor/TransactionChecks.ts"
import { Settings } from "../arguments/GlobalFlags.ts"
import * as Parameters from "../arguments/Parameters.ts"
import * as Database from "../connection/Database.ts"
import { limitsOf, projectionFlags, queueFlags } from "../limits/Limits.ts"
import { CommandFailed } from "../terminal/CommandErrors.ts"
import { HostProcess } from "../terminal/HostProcess.ts"
import * as Output from "../terminal/Output.ts"
import { printable } from "../terminal/Printable.ts"
import * as Progress from "../terminal/Progress.ts"

const colours = { ok: "green", warning: "yellow", problem: "red" } as const

const show = Effect.fnUntraced(function* (name: string, { level, remedy, says }: Finding) {
  if (yield* Settings.json) return yield* Output.json({ check: name, level, says, remedy: remedy ?? null })
  const shownLevel = yield* Output.paint(level.padEnd(8), colours[level])
  const line = `${shownLevel} ${name.padEnd(13)} ${printable(says)}\n`
  const advice = remedy === undefined ? "" : `${" ".repeat(23)}-> ${printable(remedy)}\n`
  return yield* Output.write(line + advice)
})

const showAll = (name: string, findings: ReadonlyArray<Finding>) =>
  Effect.forEach(findings, (finding) => show(name, finding))

/** Shows how far it is what looks at all events. */
const showingProgress = HostProcess.useSync(
  (host): Thorough =>
    (total, run) =>
      Progress.during({ verb: "looked at", total }, ({ advance }) => run(advance)).pipe(
        Effect.provideService(HostProcess, host)
      )
)

const flags = {
  ...projectionFlags,
  ...queueFlags,
  queries: Parameters.toggle(
    "queries",
    "Also show the last statement of a transaction that readers wait for: it may have secrets in it"
  ),
  exact: Parameters.toggle("exact", "Look at all events where a part of a large log is looked at otherwise"),
  prove: Parameters.toggle(
    "prove",
    "Then run writers and a subscriber in a temporary schema, compare what was stored with what was delivered, and read all archived files"
  ),
  owners: Flag.String("owner").pipe(
    Flag.atLeast(0),
    Flag.withMetavar("ROLE"),
    Flag.withDescription(
      "A role whose tables and functions you trust, such as a Go service's; give it again for others"
    )
  ),
  for: Parameters.duration("for").pipe(
    Flag.withDefault(Duration.seconds(10)),
    Flag.withDescription("How long the writers of --prove run; 10s unless given")
  )
}

export const doctor = Command.make("doctor", flags).pipe(
  Command.withDescription(
    "Checks the server and the tables, and names a remedy for each problem. Fails if there is one"
  ),
  Command.withExamples([
    { command: "strata doctor", description: "Is all well?" },
    {
      command: "strata doctor --max-behind 1m --max-bounced 100",
      description: "By other limits of projections and queues"
    },
    { command: "strata doctor --prove --for 60s", description: "Does this server keep every event, with many writers?" }
  ]),
  Command.withHandler((input) =>
    Effect.gen(function* () {
      const findings = yield* Checks.examine(showAll).pipe(
        Effect.provideService(ShowQueries, input.queries),
        Effect.provideService(Thoroughly, input.exact ? yield* showingProgress : undefined),
        Effect.provideService(Limits, limitsOf(input))
      )
      const proof = input.prove ? [yield* prove(input.for)] : []
      yield* showAll("proof", proof)
      const files = input.prove ? yield* proveArchive : []
      yield* showAll("archive proof", files)
      const problems = [...findings, ...proof, ...files].filter(({ level }) => level === "problem").length
      if (problems > 0) return yield* new CommandFailed({ message: `${Output.count(problems, "problem")} found` })
    })
  ),
  Command.provide(({ owners }) => Database.layerStores({ owners }))
)
