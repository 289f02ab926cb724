/** What the tests of several hosts share: URLs with lists, and the environment of `layerConfig`. */
import { PgClient } from "@effect/sql-pg"
import { ConfigProvider, Context, Effect, Layer } from "effect"
import { EventStore, OffsetStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { createServer, type Server, type Socket } from "node:net"

/** The DSN of a server with these hosts, each with its port, and with parameters. */
export const urlTo = (server: string, hosts: ReadonlyArray<string>, parameters: Record<string, string> = {}) => {
  const { password, pathname, username } = new URL(server)
  return `postgres://${username}:${password}@${hosts.join(",")}${pathname}?${new URLSearchParams(parameters)}`
}

/** `Postgres.layerConfig` in an environment that has these variables and no others. */
export const configured = Effect.fnUntraced(function* (env: Record<string, string>, options?: Postgres.Options) {
  const context = yield* Layer.build(Postgres.layerConfig({ schema: "public", ...options })).pipe(
    Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env }))
  )
  const sql = Context.get(context, PgClient.PgClient)
  return {
    sql,
    events: Context.get(context, EventStore.EventStore),
    offsets: Context.get(context, OffsetStore.OffsetStore),
    /** The port of the server that answers. */
    port: Effect.map(sql<{ readonly port: string }>`SELECT current_setting('port') AS port`, ([row]) =>
      Number(row?.port)
    )
  }
})

/** A host on 127.0.0.1 that accepts connections, answers the first packet of each in this way, and counts them. */
export const fakeHost = Effect.fnUntraced(function* (answer: (socket: Socket) => void) {
  const connections = new Set<Socket>()
  const server = yield* Effect.acquireRelease(
    Effect.callback<Server>((resume) => {
      const server = createServer((socket) => {
        connections.add(socket.on("error", () => {}))
        socket.once("data", () => answer(socket))
      })
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
    }),
    (server) =>
      Effect.sync(() => {
        for (const socket of connections) socket.destroy()
        server.close()
      })
  )
  const address = server.address()
  const port = typeof address === "object" && address !== null ? address.port : 0
  return { host: `127.0.0.1:${port}`, connections: () => connections.size }
})

/** The same on tables that are there: also on a standby. */
export const connected = Effect.fnUntraced(function* (env: Record<string, string>) {
  const context = yield* Layer.build(Layer.unwrap(Effect.map(Postgres.PostgresConfig.pool, PgClient.layer))).pipe(
    Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env }))
  )
  const sql = Context.get(context, PgClient.PgClient)
  return {
    sql,
    port: Effect.map(sql<{ readonly port: string }>`SELECT current_setting('port') AS port`, ([row]) =>
      Number(row?.port)
    )
  }
})
