import { assert, describe, it } from "@effect/vitest"
import { sources, upwardRules, violations } from "./dependencies.ts"

const violationsOf = (file: string, text: string) => violations([[file, text]])

describe("the dependency rule", () => {
  it("holds for src", () => {
    assert.isAbove(sources().size, 10)
    assert.deepStrictEqual(violations(sources()), [])
  })

  it("allows no import that runs upwards", () => {
    assert.deepStrictEqual(upwardRules(), [])
  })

  it.each([
    ["OffsetStore.ts", `import { Effect } from "effect"\nexport * from "effect/sql"`],
    ["OffsetStore.ts", `import type { StoreError } from "./StoreError.ts"`],
    ["Projection.ts", `export * from "./OffsetStore.ts"`],
    ["index.ts", `export * as Projection from "./Projection.ts"`],
    ["memory/OffsetStore.ts", `import * as OffsetStore from "../OffsetStore.ts"\nimport "./Table.ts"`],
    ["postgres/deep/Rows.ts", `import "../../OffsetStore.ts"\nimport { PgClient } from "@effect/sql-pg"`],
    ["pglite/index.ts", `import "../postgres/Migrations.ts"\nimport("@electric-sql/pglite")`],
    ["testing/Projection.ts", `import "../Projection.ts"\nimport "@effect/vitest"`],
    [
      "memory/Comments.ts",
      `/** import "../postgres/index.ts" */\n// import "../x.ts"\nexport const s = 'from "vitest"'`
    ]
  ])("lets src/%s have %j", (file, text) => {
    assert.deepStrictEqual(violationsOf(file, text), [])
  })

  it.each([
    ["contracts import no package but effect", "OffsetStore.ts", `import "@effect/sql-pg"`],
    ["contracts import no package whose name begins with effect", "OffsetStore.ts", `import "effectful"`],
    ["contracts import nothing of Node", "OffsetStore.ts", `import "node:fs"`],
    ["contracts import no implementation", "OffsetStore.ts", `import "./memory/index.ts"`],
    ["contracts import nothing that is built on them", "SpoolStore.ts", `import "./Spool.ts"`],
    ["contracts do not import the index", "OffsetStore.ts", `import "./index.ts"`],
    ["Projection imports no implementation", "Projection.ts", `import "./postgres/index.ts"`],
    ["Projection does not import Spool", "Projection.ts", `import "./Spool.ts"`],
    ["the index imports no implementation", "index.ts", `export * from "./memory/index.ts"`],
    ["memory does not import postgres", "memory/Table.ts", `import "../postgres/index.ts"`],
    ["memory imports no driver", "memory/Table.ts", `import "@effect/sql-pg"`],
    ["memory does not import Projection", "memory/Table.ts", `import "../Projection.ts"`],
    ["postgres does not import memory", "postgres/Rows.ts", `import "../memory/Table.ts"`],
    ["postgres does not import pglite", "postgres/Rows.ts", `import "../pglite/index.ts"`],
    ["testing imports no implementation", "testing/Spool.ts", `import "../memory/index.ts"`],
    ["nothing imports test", "testing/Spool.ts", `import "../support/server.ts"`],
    ["nothing imports its own package by name", "memory/Table.ts", `import "effect-strata"`],
    ["a new room needs a rule", "redis/index.ts", `import "effect"`],
    [
      "a contract's model does not import the contract",
      "events/TypedEvents.ts",
      `import type {} from "../EventStore.ts"`
    ],
    ["internal imports no contract", "internal/Operation.ts", `import "../Transactor.ts"`],
    ["the database imports no store", "postgres/database/Reasons.ts", `import "../events/EventRow.ts"`],
    ["wake-ups know no store", "postgres/wakeups/Wakeups.ts", `import "../spool/Claiming.ts"`],
    [
      "the parts of one store do not import another's",
      "postgres/spool/MessageRow.ts",
      `import "../events/EventRow.ts"`
    ],
    ["parts of a store do not import the store", "postgres/events/Tail.ts", `import "../EventStore.ts"`],
    [
      "postgres does not import the command",
      "postgres/events/Importing.ts",
      `import "../../cli/terminal/CommandErrors.ts"`
    ],
    [
      "what runs a projection does not import what administers it",
      "projection/run/ShardRunner.ts",
      `import "../admin/Retrying.ts"`
    ],
    ["the terminal does not import the commands", "cli/terminal/Output.ts", `import "../commands/Status.ts"`],
    ["the arguments do not import the terminal", "cli/arguments/Parameters.ts", `import "../terminal/Output.ts"`]
  ])("%s", (_, file, text) => {
    assert.lengthOf(violationsOf(file, text), 1)
  })

  it.each([
    `import { a } from "../postgres/index.ts"`,
    `import type { A } from '../postgres/index.ts'`,
    `import type A = require("../postgres/index.ts")`,
    `export { a } from "../postgres/index.ts"`,
    `export type * from "../postgres/index.ts"`,
    `export const a = () => import("../postgres/index.ts")`,
    `export const a = (path: string) => import(path)`,
    `export type A = import("../postgres/index.ts").A`,
    `export const a = /"/, b = await import(/* " */ "../postgres/index.ts")`
  ])("sees %s", (text) => {
    assert.lengthOf(violationsOf("memory/Table.ts", text), 1)
  })

  it.each([
    ["EventStore.ts", "events/TypedEvents.ts", "events/EventCodec.ts"],
    ["pglite/PgliteSession.ts", "pglite/PgliteSocket.ts"]
  ])("finds the circle of %s, also if it is of types", (...files) => {
    const found = violations(
      files.map((file, index) => {
        const next = `${file.includes("/") ? "../" : "./"}${files[(index + 1) % files.length] ?? ""}`
        return [file, `import type {} from "${next}"`]
      })
    )
    assert.lengthOf(
      found.filter((violation) => violation.includes("imports itself by way of")),
      1
    )
  })

  it("names the file, the line and the reason", () => {
    assert.deepStrictEqual(violationsOf("memory/Table.ts", `import "effect"\nimport "../postgres/index.ts"`), [
      "src/memory/Table.ts:2 imports ../postgres/index.ts, but memory may not import postgres"
    ])
  })
})
