/** The description of the environment: each variable that is read is in it, and what it says of defaults is so. */
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect } from "effect"
import { PostgresConfig } from "effect-strata/postgres"
import { environment } from "../../src/postgres/EnvironmentReference.ts"
import { sources } from "../package/dependencies.ts"

const described = environment.map(({ name }) => name).toSorted()
const ofCommand = environment.flatMap(({ name, reader }) => (reader === "command" ? [name] : []))

const read = Effect.all([
  PostgresConfig.pool,
  PostgresConfig.options,
  PostgresConfig.owner,
  PostgresConfig.listen,
  PostgresConfig.replica,
  PostgresConfig.archive
])

/** What the layers read in an environment that has these variables and no others. */
const readIn = (env: Readonly<Record<string, string>>, effect: Effect.Effect<unknown, unknown> = read) =>
  Effect.provideService(effect, ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env }))

/** The settings without functions, which are other ones each time. */
const plain = (settings: unknown): unknown =>
  JSON.parse(JSON.stringify(settings, (_, value: unknown) => (typeof value === "function" ? "a function" : value)))

describe("the description of the environment", () => {
  it.effect("has every variable that the layers read, and no other", () =>
    Effect.gen(function* () {
      const asked = new Set<string>()
      const provider = ConfigProvider.make((path) => {
        asked.add(path.join("."))
        return Effect.undefined
      })
      yield* Effect.provideService(read, ConfigProvider.ConfigProvider, provider)
      assert.deepStrictEqual([...asked, ...ofCommand].toSorted(), described)
    })
  )

  it("has every variable that the code of the command names", () => {
    const names = [...sources()].flatMap(([file, text]) =>
      file.startsWith("cli/")
        ? Array.from(text.matchAll(/(?:\benv(?:\.|\[")|Config\.\w+\([^"]*")([A-Z][A-Z_]+)\b/g), ([, name = ""]) => name)
        : []
    )
    assert.includeMembers(described, names)
    assert.sameMembers([...new Set(names)], ofCommand)
  })

  it.effect.each(
    environment.flatMap(({ default: standard, name }) => (standard === undefined ? [] : [[name, standard]]))
  )("tells the default of %s", ([name = "", standard = ""]) =>
    Effect.gen(function* () {
      // TLS and the choice among hosts have their defaults for a server elsewhere.
      const env = name.startsWith("DB_SSL") ? { DB_HOST: "db.example" } : {}
      assert.deepStrictEqual(plain(yield* readIn({ ...env, [name]: standard })), plain(yield* readIn(env)))
      const other = { DB_HOST: "other", DB_PREPARE: "false", DB_SSLMODE: "disable", DB_TARGET_SESSION_ATTRS: "primary" }
      const different = Object.entries(other).find(([key]) => key === name)?.[1] ?? standard.replace(/^\d/, "9")
      assert.notDeepEqual(plain(yield* readIn({ ...env, [name]: different })), plain(yield* readIn(env)))
    })
  )
})
