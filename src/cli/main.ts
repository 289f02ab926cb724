/** How the `strata` command runs: as a function of its arguments and of a process, and as the process itself. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { ConfigProvider, Console, Effect, Layer, Logger, References, Schema, Stdio } from "effect"
import { CliConfig, CliOutput, Command, GlobalFlag, TerminalCapabilities } from "effect/cli"
import { Console as NodeConsole } from "node:console"
import { fstatSync, readFileSync, writeFileSync } from "node:fs"
import { Writable } from "node:stream"
import { strata } from "./Strata.ts"
import { OutputUnread, untilClosed } from "./terminal/ClosedPipe.ts"
import { type ExitStatus, report } from "./terminal/CommandErrors.ts"
import { HostProcess, type Target } from "./terminal/HostProcess.ts"
import { say } from "./terminal/Printable.ts"

const Manifest = Schema.fromJsonString(Schema.Struct({ version: Schema.String }))
const { version } = Schema.decodeSync(Manifest)(readFileSync(new URL("../../package.json", import.meta.url), "utf8"))

type Host = HostProcess["Service"]

/** Writes to stderr what is wrong with the arguments, and which help explains them, instead of the whole help. */
const presenterOn = ({ stderr }: Host): CliOutput.Presenter => ({
  present: (event) => {
    if (event._tag !== "InvalidInvocation") return CliOutput.defaultPresenter.present(event)
    return Effect.sync(() => {
      // The library writes some messages in several lines.
      for (const { message } of event.errors) say(stderr, message.replaceAll(/\s+/g, " "))
      stderr.write(`Run ${event.commandPath.join(" ")} --help to see how it is used\n`)
    })
  }
})

/** Writes the log of the stores to stderr, since stdout is for the results. */
const loggerOn = ({ stderr }: Host) =>
  Logger.make(({ logLevel, message }) => {
    const text = (Array.isArray(message) ? message : [message]).map(String).join(" ")
    say(stderr, `${logLevel === "Warn" ? "warning: " : ""}${text}`)
  })

/** An argument that asks for the version, or for the completions of a shell. */
const asksOfProgram = /^(?:--version|-v|--completions)(?:=|$)/

const subcommands = new Set(strata.subcommands.flatMap(({ commands }) => commands.map(({ name }) => name)))

/**
 * What the program tells of itself instead of running a subcommand. Only alone: `strata projections reset --version 3` would
 * print the version of the program, end well, and reset nothing.
 */
const builtInsOf = (args: ReadonlyArray<string>) => {
  const asks = args.some((argument) => asksOfProgram.test(argument))
  const isAlone = args.length === (args[0] === "--completions" ? 2 : 1) && asksOfProgram.test(args[0] ?? "")
  const ofProgram = asks ? isAlone : !args.some((argument) => subcommands.has(argument))
  return [GlobalFlag.Help, ...(ofProgram ? [GlobalFlag.Version, GlobalFlag.Completions] : [])]
}

/** What the library for commands asks of the terminal, with the answers of the host. */
const capabilitiesOf = ({ stdin, stdout }: Host) =>
  TerminalCapabilities.layer.pipe(
    Layer.provide(
      Layer.effect(
        Stdio.Stdio,
        Effect.map(Stdio.Stdio, (stdio) => ({
          ...stdio,
          stdinIsTerminal: Effect.sync(() => stdin.isTTY === true),
          stdoutIsTerminal: Effect.sync(() => stdout.isTTY === true)
        }))
      )
    )
  )

const environmentOf = (args: ReadonlyArray<string>, host: Host, verbose: boolean) =>
  Layer.mergeAll(
    Layer.succeed(HostProcess, host),
    Layer.succeed(Console.Console, new NodeConsole(host.stdout, host.stderr)),
    Logger.layer([loggerOn(host)]),
    Layer.succeed(References.MinimumLogLevel, verbose ? "Debug" : "Warn"),
    CliConfig.layer({ builtIns: builtInsOf(args) }),
    CliOutput.layerPresenter(presenterOn(host)),
    capabilitiesOf(host)
  ).pipe(
    Layer.provideMerge(
      Layer.merge(
        NodeServices.layer,
        Layer.succeed(ConfigProvider.ConfigProvider, ConfigProvider.fromEnvRecord({ ...host.env }))
      )
    )
  )

/** Runs the command with these arguments in a process. Fails with the exit status, after it has said why on stderr. */
export const run = (args: ReadonlyArray<string>, host: Host): Effect.Effect<void, ExitStatus> => {
  const verbose = args.includes("--verbose")
  return Command.runWith(strata, { version })(args).pipe(
    Effect.provide(environmentOf(args, host, verbose)),
    Effect.catchCause((cause) => report(cause, { verbose, stderr: host.stderr }))
  )
}

/**
 * Where stdout is a file. Node's own stream leaves out the rest where the disk takes only a part of a text, as a disk does that
 * is nearly full, and says that all is written.
 */
const toFile = (fd: number): Target => {
  const stream = new Writable({
    write: (chunk: Buffer, _encoding, callback) => {
      try {
        writeFileSync(fd, chunk)
        callback()
      } catch (cause) {
        callback(cause instanceof Error ? cause : new Error(String(cause)))
      }
    }
  })
  return stream.on("error", () => {})
}

/** Runs the command as this process, which ends with its status. */
export const main = (): void => {
  const { env, stderr, stdin, stdout } = process
  // Once nobody reads the pipe any more, the next write fails, and its callback in `Output` gets the error. The stream also
  // emits the error, which ends a process without a listener.
  stdout.on("error", () => {})
  stderr.on("error", () => {})
  // The list of processes shows the arguments to all users of the machine, and a URL may have a password.
  if (process.argv.some((argument) => argument.includes("://"))) process.title = "strata"
  const output = !stdout.isTTY && fstatSync(stdout.fd).isFile() ? toFile(stdout.fd) : stdout
  const command = run(process.argv.slice(2), { env, stdin, stdout: output, stderr })
  // On a terminal a hangup is a signal.
  const unread = stdout.isTTY ? Effect.never : untilClosed(stdout.fd)
  NodeRuntime.runMain(Effect.provideService(command, OutputUnread, unread), { disableErrorReporting: true })
}
