/**
 * Runs the shop on the server of DATABASE_URL, in as many processes as you start:
 *
 *     PORT=3000 node main.ts server
 *     MAIL_URL=http://localhost:8025/send node main.ts worker
 */
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Config, Effect, Layer } from "effect"
import { Supervisor } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { FetchHttpClient, HttpClient, HttpClientRequest } from "effect/http"
import { createServer } from "node:http"
import { Mailer, MailError, Sales, Server, Worker } from "./shop.ts"

const Http = NodeHttpServer.layerConfig(createServer, { port: Config.withDefault(Config.Port("PORT"), 3000) })

/** Hands receipts to a mail service, as JSON. */
const Mails = Layer.effect(
  Mailer,
  Effect.gen(function* () {
    const client = HttpClient.filterStatusOk(yield* HttpClient.HttpClient)
    const url = yield* Config.String("MAIL_URL")
    return {
      send: (receipt) =>
        HttpClientRequest.post(url).pipe(
          HttpClientRequest.bodyJsonUnsafe(receipt),
          client.execute,
          Effect.mapError(({ message }) => new MailError({ message }))
        )
    }
  })
).pipe(Layer.provide(FetchHttpClient.layer))

const App = process.argv.includes("worker") ? Layer.provide(Worker, Mails) : Layer.provide(Server, Http)

const Stores = Layer.provideMerge(Sales.layer, Postgres.layerConfig())

NodeRuntime.runMain(Supervisor.launch(Layer.provide(App, Stores)))
