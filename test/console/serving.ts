/** A console on a server of its own, in this process, and a Postgres inside the process for it. */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import type { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer, type Scope } from "effect"
import * as Console from "effect-strata/console"
import * as Pglite from "effect-strata/pglite"
import * as Postgres from "effect-strata/postgres"
import { FetchHttpClient, HttpClient, HttpClientRequest, HttpRouter, HttpServer } from "effect/http"
import { HttpApiClient } from "effect/http-api"
import { createServer } from "node:http"

export interface Place {
  readonly pool: Layer.Layer<PgClient.PgClient>
  readonly options: Postgres.Options
}

/** The same client for the stores and for the console, as an application has it. */
export const shared = Effect.fnUntraced(function* <E>(client: Layer.Layer<PgClient.PgClient, E>) {
  return Layer.succeedContext(yield* Effect.orDie(Layer.build(Layer.fresh(client))))
})

export const embedded: Effect.Effect<Place, never, Scope.Scope> = Effect.gen(function* () {
  return { pool: yield* shared(Pglite.layer()), options: {} }
})

/** The stores of a place, migrated, until the scope closes. */
export const storesOf = ({ options, pool }: Place) =>
  Effect.orDie(Layer.build(Layer.fresh(Layer.provide(Postgres.layer({ ...options, largeIntegers: "bigint" }), pool))))

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

/** A client that is derived of the API, as any program can. */
export const clientOf = (url: string) =>
  HttpApiClient.make(Console.Api, {
    transformClient: HttpClient.mapRequest(HttpClientRequest.prependUrl(url.replace(/\/$/, "")))
  }).pipe(Effect.provide(FetchHttpClient.layer))
