/** How the `strata` command runs as a process. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect, Layer, Logger, References, Schema } from "effect"
import { CliConfig, CliOutput, Command, GlobalFlag } from "effect/cli"
import { readFileSync } from "node:fs"
import { strata } from "./Strata.ts"
import { report } from "./terminal/Failure.ts"

const Manifest = Schema.fromJsonString(Schema.Struct({ version: Schema.String }))
const { version } = Schema.decodeSync(Manifest)(readFileSync(new URL("../../package.json", import.meta.url), "utf8"))

/** What is wrong with the arguments goes to stderr, with where to read more, instead of the whole help. */
const presenter: CliOutput.Presenter = {
  present: (event) => {
    if (event._tag !== "InvalidInvocation") return CliOutput.defaultPresenter.present(event)
    const errors = event.errors.map(({ message }) => `strata: ${message.replaceAll(/\s+/g, " ")}\n`).join("")
    return Effect.sync(
      () => void process.stderr.write(`${errors}Run ${event.commandPath.join(" ")} --help to see how it is used\n`)
    )
  }
}

const args = process.argv.slice(2)
const verbose = args.includes("--verbose")

/** What the stores have to say, to stderr: stdout has the results. */
const logger = Logger.make(({ logLevel, message }) => {
  const text = (Array.isArray(message) ? message : [message]).map(String).join(" ")
  process.stderr.write(`strata: ${logLevel === "Warn" ? "warning: " : ""}${text}\n`)
})

const environment = Layer.mergeAll(
  NodeServices.layer,
  Logger.layer([logger]),
  Layer.succeed(References.MinimumLogLevel, verbose ? "Debug" : "Warn"),
  CliConfig.layer({ builtIns: [GlobalFlag.Help, GlobalFlag.Version, GlobalFlag.Completions] }),
  CliOutput.layerPresenter(presenter)
)

// A pipe whose reader has gone fails the write that finds out, which `Output` waits for. Without a listener it would also
// end the process.
process.stdout.on("error", () => {})
process.stderr.on("error", () => {})

Command.runWith(strata, { version })(args).pipe(
  Effect.provide(environment),
  Effect.catchCause((cause) => report(cause, { verbose })),
  NodeRuntime.runMain({ disableErrorReporting: true })
)
