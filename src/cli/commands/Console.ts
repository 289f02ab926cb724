/** `strata console`: all of it in a browser. */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { Effect, Layer, References } from "effect"
import { Command, Flag } from "effect/cli"
import { HttpRouter, HttpServer } from "effect/http"
import { createServer } from "node:http"
import { routes } from "../../console/Console.ts"
import * as Parameters from "../arguments/Parameters.ts"
import * as Database from "../connection/Database.ts"
import { whileRead } from "../terminal/ClosedPipe.ts"
import { CommandFailed } from "../terminal/CommandErrors.ts"
import { HostProcess } from "../terminal/HostProcess.ts"
import * as Output from "../terminal/Output.ts"

/** Other machines do not reach it: the console has no log-in. */
const hostname = "127.0.0.1"

/** Pages keep their stream open: the command does not wait for them when it ends. */
const gracefulShutdownTimeout = "100 millis"

const flags = {
  port: Parameters.count("port").pipe(
    Flag.withDefault(7878),
    Flag.withDescription("The port on 127.0.0.1: 7878 unless given, and with 0 one that is free")
  ),
  allowWrites: Parameters.toggle(
    "allow-writes",
    "Also change things, as far as the role of the database may: each change asks before, and is logged"
  ),
  hidePayloads: Parameters.toggle(
    "no-payloads",
    "Hide what the application has stored: data, metadata, payloads, states and errors"
  )
}

const serverOn = (port: number) =>
  NodeHttpServer.layer(createServer, { host: hostname, port, gracefulShutdownTimeout }).pipe(
    Layer.catchTag("ServeError", (error) =>
      Layer.effectContext(
        Effect.fail(
          new CommandFailed({
            message: `port ${port} of ${hostname} cannot be used; give another one with --port`,
            cause: error
          })
        )
      )
    )
  )

const serve = (options: { readonly allowWrites: boolean; readonly hidePayloads: boolean }) =>
  Effect.gen(function* () {
    const { address } = yield* HttpServer.HttpServer
    const { env } = yield* HostProcess
    const port = address._tag === "UnixPathAddress" ? 0 : address.port
    const name = env["USER"] ?? env["USERNAME"]
    const app = routes({
      path: "/",
      allowWrites: options.allowWrites,
      showPayloads: !options.hidePayloads,
      who: () => Effect.succeed(name),
      entities: [],
      hosts: [`${hostname}:${port}`, `localhost:${port}`]
    })
    // The log of changes is for whoever runs the command.
    yield* Layer.build(HttpRouter.serve(app, { disableLogger: true, disableListenLog: true }))
    const url = `http://${hostname}:${port}/`
    const what = options.allowWrites ? "which may change things" : "which only reads"
    yield* Output.done(`The console, ${what}, is at ${url} until Ctrl-C`, { url, allowsWrites: options.allowWrites })
    return yield* whileRead(Effect.never)
  })

export const console = Command.make("console", flags).pipe(
  Command.withDescription(
    "Serves a page on 127.0.0.1 that shows the log, projections and messages as they go on, until Ctrl-C"
  ),
  Command.withExamples([
    { command: "strata console", description: "Look, and change nothing" },
    { command: "strata console --allow-writes --port 8080", description: "Also requeue, pause and retry" },
    { command: "strata console --no-payloads", description: "For a look over somebody's shoulder" }
  ]),
  Command.withHandler(({ port, ...options }) =>
    Effect.scoped(Effect.provide(serve(options), serverOn(port))).pipe(
      Effect.updateService(References.MinimumLogLevel, (level) => (level === "Warn" ? "Info" : level))
    )
  ),
  Command.provide(Database.layer)
)
