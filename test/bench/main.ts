/** What the stores cost, measured against the bare driver: `npm run bench -- --help` says how to run it. */
import { NodeRuntime } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Console, Effect, Layer, Redacted, Schema } from "effect"
import * as Postgres from "effect-strata/postgres"
import { readFile, writeFile } from "node:fs/promises"
import { parseArgs } from "node:util"
import { withConnection } from "../support/connection.ts"
import { acquire } from "../support/server.ts"
import * as Backends from "./backends.ts"
import * as Built from "./built.ts"
import * as Decisions from "./decisions.ts"
import * as Events from "./events.ts"
import * as Footprint from "./footprint.ts"
import { measureAny } from "./harness.ts"
import * as Idle from "./idle.ts"
import * as Importing from "./importing.ts"
import * as Memory from "./memory.ts"
import * as Offsets from "./offsets.ts"
import * as Peers from "./peers.ts"
import * as Printing from "./printing.ts"
import * as Processes from "./processes.ts"
import * as Progress from "./progress.ts"
import * as Projections from "./projection.ts"
import * as Queueing from "./queueing.ts"
import * as Reads from "./reads.ts"
import { compare, type Measurement, type Report, ReportFile } from "./report.ts"
import * as Restarts from "./restarts.ts"
import * as Settings from "./settings.ts"
import * as Sizes from "./sizes.ts"
import * as Spool from "./spool.ts"
import * as States from "./states.ts"
import * as Stress from "./stress.ts"
import * as Subscriptions from "./subscriptions.ts"
import * as Takeover from "./takeover.ts"
import * as Typed from "./typed.ts"
import * as Writers from "./writers.ts"

const usage = `What the stores cost, measured against the bare driver, in alternating rounds.

npm run bench -- [FLAGS]

  --only NAME      the figures with this name, or else those whose names contain it
  --quick          less of each: takes a few minutes without --peers
  --peers          installs what others have built for the same purpose, and measures it, too
  --url DSN        this server instead of that of the tests
  --json FILE      writes what was measured to this file
  --compare FILE   says which ratios have changed beyond the range of their rounds since --json has written this file;
                   refuses other settings
  --help           shows this

npm run measure    measures everything with --peers into test/bench/results.json, then:
npm run figures    makes the figures, tables and pictures of the guides of that file; -- --results FILE --into DIR
                   takes another file, and writes into another directory

The figures:
`

const { values: options } = parseArgs({
  options: {
    help: { type: "boolean", default: false },
    only: { type: "string" },
    quick: { type: "boolean", default: false },
    url: { type: "string" },
    compare: { type: "string" },
    json: { type: "string" },
    peers: { type: "boolean", default: false }
  }
})
const { quick } = options

// The figures of reads and sizes come last, because they fill the log.
const all = [
  ...Events.figures,
  ...Decisions.figures,
  ...Writers.figures,
  ...Offsets.figures,
  ...States.figures,
  ...Spool.figures,
  ...Queueing.latencies(quick),
  ...Subscriptions.figures,
  ...Subscriptions.latencies(quick),
  ...Stress.latencies,
  ...Restarts.latencies(quick),
  ...Takeover.figures(quick),
  ...Idle.figures(quick),
  ...Processes.figures(quick),
  ...Typed.figures,
  ...Backends.figures,
  ...Memory.figures,
  ...Footprint.figures,
  ...Projections.latencies(quick),
  ...Projections.figures(quick),
  ...Importing.figures(quick),
  ...(options.peers ? await Peers.load() : []),
  ...Reads.figures(quick),
  ...Sizes.figures(quick)
]

/** A run that cannot be, or a comparison that means nothing. */
class Refused extends Schema.TaggedError<Refused>("strata-bench/Refused")("Refused", { message: Schema.String }) {}

/** What is compared has to have been measured under the same settings. */
const changes = (earlier: Report, now: Report) =>
  Effect.mapError(
    Effect.fromResult(compare(earlier, now)),
    (different) =>
      new Refused({ message: [`${options.compare} was measured under other settings:`, ...different].join("\n  ") })
  )

const read = (file: string) =>
  Effect.tryPromise(() => readFile(file, "utf8")).pipe(
    Effect.flatMap(Schema.decodeEffect(ReportFile)),
    Effect.mapError(() => new Refused({ message: `${file} is no file that --json has written` }))
  )

const write = (file: string | undefined, text: string) =>
  file === undefined ? Effect.void : Effect.promise(() => writeFile(file, text))

const program = Effect.gen(function* () {
  const { only, compare: file } = options
  const named = all.filter(({ name }) => name === only)
  const figures = named.length > 0 ? named : all.filter(({ name }) => name.includes(only ?? ""))
  if (figures.length === 0) yield* new Refused({ message: `No figure is called ${only}` })
  const earlier = file === undefined ? undefined : yield* read(file)

  const server = options.url === undefined ? yield* acquire : { url: options.url, description: "--url" }
  const schema = `strata_bench_${process.pid}`
  yield* Effect.addFinalizer(() =>
    Effect.orDie(withConnection(server.url, (sql) => sql`DROP SCHEMA IF EXISTS ${sql(schema)} CASCADE`))
  )
  const client = PgClient.layer({
    url: Redacted.make(server.url),
    maxConnections: 25,
    startupParameters: { search_path: schema }
  })

  yield* Effect.gen(function* () {
    const library = yield* Settings.library
    const settings = yield* Settings.read(server.description, quick)
    if (earlier !== undefined) yield* changes(earlier, { library, settings, measurements: [] })
    yield* Console.log("Medians of alternating rounds. Settings:")
    yield* Console.log([...Printing.settings(library, settings), "", Printing.header].join("\n"))

    const measurements: Array<Measurement> = []
    const progress = yield* Progress.make(process.stderr)
    for (const [index, figure] of figures.entries()) {
      const { name } = figure
      const onRound = (round: number, rounds: number) =>
        progress.at({ name, figure: index, figures: figures.length, round, rounds })
      const measured = yield* Effect.ensuring(measureAny(figure, quick, onRound), progress.erase)
      measurements.push(...measured)
      yield* Console.log(measured.map(Printing.row).join("\n"))
    }

    const report: Report = { library, settings, measurements }
    yield* write(options.json, yield* Schema.encodeEffect(ReportFile)(report))
    if (earlier !== undefined) {
      yield* Console.log(`\nRatios then (${earlier.library}) and now (${library}):`)
      yield* Console.log(Printing.changes(yield* changes(earlier, report)).join("\n"))
    }
  }).pipe(Effect.provide(Layer.provideMerge(Layer.merge(Postgres.layer({ schema }), Built.layer), client)))
})

const help = Console.log(`${usage}${all.map(({ name }) => `  ${name}`).join("\n")}`)

NodeRuntime.runMain(options.help ? help : Effect.scoped(program))
