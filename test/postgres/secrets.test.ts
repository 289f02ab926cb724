/** Neither a password nor a DSN gets into errors, logs or spans, whichever way the connection fails. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Cause, ConfigProvider, Context, Effect, Exit, Layer, Logger, Option, Redacted, Stream, Tracer } from "effect"
import { OffsetStore, Transactor } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { inspect } from "node:util"
import { freePort } from "../support/ports.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { urlWith } from "./harness.ts"

const password = "hunter2-%24ecret"

/** The password in each of the ways in which it could be written. */
const forms = [password, decodeURIComponent(password), encodeURIComponent(password), btoa(password), "hunter2"]

const show = (value: unknown) =>
  inspect(value, { depth: Infinity, showHidden: true, getters: true, maxArrayLength: null, maxStringLength: null })

const json = (value: unknown) => {
  const seen = new WeakSet<object>()
  return JSON.stringify(value, (_, part: unknown) => {
    if (typeof part === "bigint") return `${part}`
    if (typeof part !== "object" || part === null) return part
    if (seen.has(part)) return "(again)"
    seen.add(part)
    // JSON leaves out what is not enumerable, such as the message of an error.
    return part instanceof Error
      ? { ...part, name: part.name, message: part.message, stack: part.stack, cause: part.cause }
      : part
  })
}

/** Every message of the chain of causes. */
const chain = (error: unknown): string =>
  error instanceof Error
    ? `${error.name} ${error.message} ${error.stack} ${String(error)}\n${chain(error.cause)}`
    : show(error)

/** All that a program could print of a failure, and whatever it logs and traces on its own, while it logs that failure. */
const leaks = Effect.fnUntraced(function* <A, E>(program: Effect.Effect<A, E>) {
  const lines: Array<string> = []
  const spans: Array<Tracer.Span> = []
  const logger = Logger.make((options) => {
    lines.push(
      Logger.formatJson.log(options),
      Logger.formatLogFmt.log(options),
      show(options.message),
      Cause.pretty(options.cause)
    )
  })
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  const exit = yield* program.pipe(
    Effect.tapCause((cause) => Effect.logError("it failed", cause)),
    Effect.tapError((error) => Effect.logError("it failed", error)),
    Effect.tapError((error) => Effect.annotateCurrentSpan("error", String(error))),
    Effect.withSpan("program"),
    Effect.provide(Logger.layer([logger, Logger.tracerLogger])),
    Effect.withTracer(tracer),
    Effect.exit
  )
  assert.isTrue(Exit.isFailure(exit), "the program must fail")
  if (Exit.isSuccess(exit)) return []
  const error = Option.getOrUndefined(Exit.findErrorOption(exit))
  assert.isDefined(error)
  assert.isAbove(lines.length, 0)
  assert.isAbove(spans.length, 0)
  const traced = spans.map(
    ({ attributes, name, status }) => show([name, [...attributes], status]) + json([...attributes])
  )
  const events = spans.map((span) => show(span))
  return [
    show(exit),
    json(exit),
    json(error),
    String(error),
    chain(error),
    Cause.pretty(exit.cause),
    ...lines,
    ...traced,
    ...events
  ]
})

const assertNoLeak = (what: string, texts: ReadonlyArray<string>, dsn: string) => {
  for (const form of [...forms, dsn]) {
    assert.isUndefined(
      texts.find((text) => text.includes(form)),
      what
    )
  }
}

/** Each operation, on layers that are built for it: the layer itself fails, or the operation does. */
const programs: ReadonlyArray<
  readonly [string, (pool: Layer.Layer<PgClient.PgClient, unknown>) => Effect.Effect<void, unknown>]
> = [
  ["the migrations", (pool) => Effect.scoped(Effect.asVoid(Layer.build(Layer.provide(Postgres.layer(), pool))))],
  ...(
    [
      ["an operation", ({ offsets }) => offsets.writeOffset({ projectionName: "a", shardNumber: 0, value: 1n })],
      ["a stream", ({ offsets }) => Stream.runDrain(offsets.listOffsets())],
      ["a transaction", ({ transactor }) => transactor.withTransaction(Effect.void)]
    ] satisfies ReadonlyArray<readonly [string, (stores: Stores) => Effect.Effect<void, unknown>]>
  ).map(
    ([name, use]) =>
      [
        name,
        (pool: Layer.Layer<PgClient.PgClient, unknown>) =>
          Layer.build(Layer.provide(Postgres.layerStorage(), pool)).pipe(
            Effect.flatMap((context) =>
              use({
                offsets: Context.get(context, OffsetStore.OffsetStore),
                transactor: Context.get(context, Transactor.Transactor)
              })
            ),
            Effect.scoped
          )
      ] as const
  )
]

interface Stores {
  readonly offsets: OffsetStore.OffsetStore["Service"]
  readonly transactor: Transactor.Transactor["Service"]
}

/** DSNs that hold the password, each wrong in another way. */
const dsns = Effect.gen(function* () {
  const server = yield* PostgresServer.make()
  const port = yield* freePort
  const wrong = urlWith((url) => (url.password = password), server.url)
  return {
    "a wrong password": wrong,
    "a wrong password as a parameter": `${urlWith((url) => (url.password = ""), server.url)}?password=${password}`,
    "a closed port": urlWith((url) => (url.port = `${port}`), wrong),
    "an unknown host": urlWith((url) => (url.hostname = "host.invalid"), wrong),
    "a server without TLS": `${wrong}?sslmode=require`,
    "a port that is none": `postgres://postgres:${password}@127.0.0.1:99999/postgres`,
    "a host that is none": `postgres://postgres:${password}@[::/postgres`,
    "an unescaped password": `postgres://postgres:${password}@#/@127.0.0.1/postgres`,
    "a broken escape": `postgres://postgres:${password}%ZZ@127.0.0.1/postgres`,
    "a wrong mode of TLS": `${wrong}?sslmode=maybe`,
    "another protocol": `mysql://postgres:${password}@127.0.0.1/postgres`,
    "no URL": `host=127.0.0.1 password=${password}`,
    "only the password": password
  }
})

describe("a password", () => {
  it.live("is in no error, no log line and no span, whatever is wrong with the DSN of the application's client", () =>
    Effect.gen(function* () {
      for (const [what, dsn] of Object.entries(yield* dsns)) {
        const pool = PgClient.layer({ url: Redacted.make(dsn) })
        for (const [name, program] of programs) {
          assertNoLeak(`${what}, ${name}`, yield* leaks(program(pool)), dsn)
        }
      }
    })
  )

  it.live("is in none of these, whatever is wrong with the configuration", () =>
    Effect.gen(function* () {
      const { port } = new URL((yield* PostgresServer.make()).url)
      const parts = {
        DB_HOST: "127.0.0.1",
        DB_PORT: port,
        DB_USER: "postgres",
        DB_NAME: "postgres",
        DB_PASSWORD: password
      }
      const environments: ReadonlyArray<Record<string, string>> = [
        ...Object.values(yield* dsns).map((DATABASE_URL) => ({ DATABASE_URL })),
        parts,
        { ...parts, DB_PORT: "none" },
        { ...parts, DB_SSLMODE: "maybe" },
        { ...parts, DB_SSLMODE: "require" },
        { ...parts, DB_POOL_SIZE: "many" },
        { ...parts, DB_SCHEMA: "" },
        { ...parts, DATABASE_URL: `postgres://postgres:${password}@127.0.0.1:1/postgres`, DB_STATEMENT_TIMEOUT: "soon" }
      ]
      for (const env of environments) {
        const program = Effect.scoped(Layer.build(Postgres.layerConfig())).pipe(
          Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env }))
        )
        assertNoLeak(Object.keys(env).join(), yield* leaks(program), env["DATABASE_URL"] ?? password)
      }
    })
  )
})
