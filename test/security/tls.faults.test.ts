/** Who answers in the place of the server gets no password, unless a plain connection has been asked for by name. */
import { PgConnection } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Layer, Redacted } from "effect"
import * as Postgres from "effect-strata/postgres"
import { createServer, type Server, type Socket } from "node:net"
import { fails } from "../cli/harness.ts"
import { postgresUrl } from "../support/database.ts"
import * as PostgresServer from "../support/PostgresServer.ts"

const password = "hunter2"

/** Another name of this machine, which nobody can know to be one. */
const elsewhere = "0.0.0.0"

/** The request for TLS. */
const request = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])

/** A server that says it has no TLS, asks for the password in plain text, and keeps what it is sent. */
const impostor = Effect.gen(function* () {
  const received: Array<Buffer> = []
  const sockets = new Set<Socket>()
  const server = yield* Effect.acquireRelease(
    Effect.callback<Server>((resume) => {
      const server = createServer((socket) => {
        sockets.add(socket.on("error", () => {}))
        socket.on("data", (chunk: Buffer) => {
          received.push(chunk)
          // AuthenticationCleartextPassword
          socket.write(chunk.equals(request) ? "N" : Buffer.from([0x52, 0, 0, 0, 8, 0, 0, 0, 3]))
          if (chunk.includes(password)) socket.destroy()
        })
      })
      server.listen(0, elsewhere, () => resume(Effect.succeed(server)))
    }),
    (server) =>
      Effect.sync(() => {
        for (const socket of sockets) socket.destroy()
        server.close()
      })
  )
  const address = server.address()
  return {
    port: typeof address === "object" && address !== null ? address.port : 0,
    /** What it has been sent since the last look. */
    received: () => Buffer.concat(received.splice(0))
  }
})

/** The error of the layer in an environment that has these variables and no others, all in one text. */
const failure = (env: Record<string, string>) =>
  Layer.build(Postgres.layerConfig({ acquireTimeout: "1 minute" })).pipe(
    Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env })),
    Effect.scoped,
    Effect.flip
  )

/** A URL, parts of one, and libpq's variables, which all name the same server. */
const places = (host: string, port: number, sslmode: string | undefined): ReadonlyArray<Record<string, string>> => {
  const mode = (name: string): Record<string, string> => (sslmode === undefined ? {} : { [name]: sslmode })
  const url = `postgres://someone:${password}@${host}:${port}/x`
  return [
    { DATABASE_URL: sslmode === undefined ? url : `${url}?sslmode=${sslmode}` },
    { DATABASE_URL: url, ...mode("DB_SSLMODE") },
    { DATABASE_URL: url, ...mode("PGSSLMODE") },
    { DATABASE_URL: `postgres://someone:${password}@127.0.0.1:1,${host}:${port}/x`, ...mode("PGSSLMODE") },
    {
      DB_HOST: host,
      DB_PORT: `${port}`,
      DB_USER: "someone",
      DB_PASSWORD: password,
      DB_NAME: "x",
      ...mode("DB_SSLMODE")
    },
    { PGHOST: host, PGPORT: `${port}`, PGUSER: "someone", PGPASSWORD: password, PGDATABASE: "x", ...mode("PGSSLMODE") }
  ]
}

describe("a server that is not this machine", () => {
  it.live("is sent no password unless it shows a certificate, whatever the mode but disable", () =>
    Effect.gen(function* () {
      const { port, received } = yield* impostor
      for (const mode of [undefined, "require", "verify-ca", "verify-full"]) {
        for (const env of places(elsewhere, port, mode)) {
          const error = yield* failure(env)
          assert.match(
            error.message,
            /does not support TLS; check its setting ssl, or ask for a plain connection by sslmode=disable/
          )
          const sent = received()
          assert.isAbove(sent.length, 0)
          for (let at = 0; at < sent.length; at += request.length) {
            assert.deepStrictEqual(sent.subarray(at, at + request.length), request, JSON.stringify(env))
          }
        }
      }
      const url = `postgres://someone:${password}@${elsewhere}:${port}/x`
      yield* fails(["migrate", "--url", url], 1, /does not support TLS/)
      const client = Effect.flatMap(Postgres.PostgresConfig.fromUrl(Redacted.make(url)), (config) =>
        PgConnection.make(config)
      )
      yield* Effect.flip(client)
      assert.strictEqual(received().length % request.length, 0)
    })
  )

  it.live("is sent it where disable asks for a plain connection by name", () =>
    Effect.gen(function* () {
      const { port, received } = yield* impostor
      for (const env of places(elsewhere, port, "disable")) {
        yield* failure(env)
        assert.include(received().toString(), password)
      }
    })
  )

  it.live("is sent nothing with allow and prefer: they are refused, by the name of the setting", () =>
    Effect.gen(function* () {
      const { port, received } = yield* impostor
      for (const mode of ["allow", "prefer"]) {
        for (const env of places(elsewhere, port, mode)) {
          const error = yield* failure(env)
          assert.strictEqual(error._tag, "ConfigError")
          assert.match(
            error.message,
            /sent the password: write verify-full, or disable[^]*(sslmode|_SSLMODE|PGSSLMODE)/
          )
        }
        yield* fails(
          ["migrate", "--url", `postgres://someone:${password}@${elsewhere}:${port}/x?sslmode=${mode}`],
          2,
          /--url\.sslmode: .*write verify-full, or disable/
        )
      }
      assert.lengthOf(received(), 0)
    })
  )
})

describe("this machine", () => {
  it.live(
    "is connected to without TLS unless it is asked for, and where it is only preferred, with what there is",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make({ settings: { ssl: "off" } })
        for (const host of ["localhost", "127.0.0.1", "LOCALHOST"]) {
          for (const parameters of ["", "?sslmode=prefer", "?sslmode=allow", "?sslmode=disable"]) {
            const url = new URL(`${server.url}${parameters}`)
            url.hostname = host
            for (const DATABASE_URL of [url.href, url.href.replace(`${host}:`, `127.0.0.1:1,${host}:`)]) {
              yield* Layer.build(Postgres.layerConfig()).pipe(
                Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env: { DATABASE_URL } })),
                Effect.scoped
              )
            }
          }
        }
      })
  )
})

describe("a setting of security", () => {
  it.live("is refused by its name where it would be ignored, wherever it stands", () =>
    Effect.gen(function* () {
      for (const parameter of [
        "SSLMODE=require",
        "sslMode=verify-full",
        "sslmode=maybe",
        "sslmode=",
        "ssl=false",
        "ssl=no-verify",
        "ssl=true&sslmode=disable",
        "require_auth=scram-sha-256",
        "channel_binding=require",
        "channelBinding=require",
        "gssencmode=require",
        "sslnegotiation=direct",
        "sslcrl=/nowhere",
        "sslpassword=x",
        "sslrootcert=/nowhere/ca.pem",
        "sslrootcert=/nowhere/ca.pem&sslmode=prefer",
        "requirepeer=postgres",
        "requiressl=1",
        "ssl_min_protocol_version=TLSv1.3",
        "sslaccept=strict",
        "uselibpqcompat=true",
        "hostaddr=192.0.2.1",
        "service=production",
        "tls=true"
      ]) {
        const [name = ""] = parameter.split("=")
        for (const hosts of ["127.0.0.1", "127.0.0.1:1,db.example:2"]) {
          const error = yield* failure({ DATABASE_URL: `postgres://someone:${password}@${hosts}/x?${parameter}` })
          assert.strictEqual(error._tag, "ConfigError", parameter)
          assert.include(error.message, `["DATABASE_URL"]`, parameter)
          assert.match(error.message, new RegExp(`\\["(${name}|sslmode)"\\]`), parameter)
          assert.notInclude(error.message, password)
        }
      }
      for (const [name, value] of [
        ["PGREQUIREAUTH", "scram-sha-256"],
        ["PGCHANNELBINDING", "require"],
        ["PGSSLMODE", "maybe"],
        ["PGSSLCRL", "/nowhere"],
        ["PGSSLROOTCERT", "/nowhere"],
        ["PGGSSENCMODE", "require"],
        ["DB_SSLMODE", "maybe"],
        ["DB_SSLROOTCERT", "/nowhere"]
      ] as const) {
        const error = yield* failure({ DATABASE_URL: "postgres://someone@127.0.0.1/x", [name]: value })
        assert.strictEqual(error._tag, "ConfigError", name)
        assert.include(error.message, `["${name}"]`)
      }
      yield* fails(
        ["migrate", "--url", "postgres://someone@127.0.0.1/x?SSLMODE=require"],
        2,
        /SSLMODE: .*written sslmode/
      )
    })
  )

  it.live("in the URL counts before one in a variable", () =>
    Effect.gen(function* () {
      for (const [parameter, env, isPlain] of [
        ["sslmode=disable", { PGSSLMODE: "verify-full", PGSSLROOTCERT: "/nowhere/ca.pem" }, true],
        ["ssl=true", { PGSSLMODE: "disable", DB_SSLMODE: "prefer" }, false],
        ["sslmode=require", { DB_SSLMODE: "disable" }, false],
        ["", { DB_SSLMODE: "disable", PGSSLMODE: "verify-full" }, true]
      ] as const) {
        const DATABASE_URL = `postgres://someone@db.example/x?${parameter}`
        const { ssl } = yield* Effect.provideService(
          Postgres.PostgresConfig.pool,
          ConfigProvider.ConfigProvider,
          ConfigProvider.fromEnv({ env: { DATABASE_URL, ...env } })
        )
        assert.strictEqual(ssl === false, isPlain, parameter)
      }
    })
  )

  it.live("is taken where it asks for what is done anyway", () =>
    Effect.gen(function* () {
      const harmless =
        "channel_binding=prefer&gssencmode=disable&sslnegotiation=postgres&ssl_min_protocol_version=TLSv1.2"
      for (const parameters of [harmless, "ssl=true", "sslrootcert=system"]) {
        const config = yield* Postgres.PostgresConfig.fromUrl(Redacted.make(`${postgresUrl}?${parameters}`))
        assert.strictEqual(config.ssl === false, parameters === harmless)
      }
    })
  )
})
