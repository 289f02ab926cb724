/** A console on a server of its own, in this process. */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import type { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer } from "effect"
import * as Console from "effect-strata/console"
import { HttpRouter, HttpServer } from "effect/http"
import { createServer } from "node:http"

/** Serves the console of a database until the scope closes, and returns its address, which ends with a slash. */
export const serve = Effect.fnUntraced(function* (
  client: Layer.Layer<PgClient.PgClient, unknown>,
  options: Console.Options = {}
) {
  const app = HttpRouter.serve(Layer.provide(Console.layer(options), client), {
    disableLogger: true,
    disableListenLog: true
  })
  const server = NodeHttpServer.layer(createServer, {
    host: "127.0.0.1",
    port: 0,
    gracefulShutdownTimeout: "100 millis"
  })
  const context = yield* Effect.orDie(Layer.build(Layer.fresh(Layer.provideMerge(app, server))))
  const { address } = Context.get(context, HttpServer.HttpServer)
  const port = address._tag === "UnixPathAddress" ? 0 : address.port
  return `http://127.0.0.1:${port}${options.path ?? ""}/`
})
