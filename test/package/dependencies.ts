/**
 * The dependency rule: which room of `src` may import which other room, and which packages. A room is a folder, or a file
 * that has a rule of its own. Run by node, this file prints what breaks the rule and fails; `dependencies.test.ts` shows
 * that it finds what it should.
 */
import { readdirSync, readFileSync } from "node:fs"
import { posix } from "node:path"
import { parseAst } from "vitest/node"

interface Rule {
  /** The other rooms that this one may import. */
  readonly rooms: ReadonlyArray<string>
  /** The packages that it may import, with all their entry points. "node:" stands for what Node brings. */
  readonly packages: ReadonlyArray<string>
}

/** The files at the top of `src` that have no rule of their own: the services that everything else is about. */
const contracts = "contracts"

/** What a contract is made of, and so what every room above the contracts may import. */
const errors = ["StoreError", "InvalidInput"]
const models = [
  "EventQuery",
  "Event",
  "Offset",
  "DurableState",
  "SpoolMessage",
  "SpoolArguments",
  "SpoolErrors",
  "StateCodec",
  "Origin"
]
const upToInternal = [...errors, "internal"]
const upToModels = [...upToInternal, ...models]
const upToContracts = [...upToModels, "events", contracts]
const upToWakeups = [...upToContracts, "postgres/database", "postgres/wakeups"]
const upToPostgres = [
  ...upToWakeups,
  "postgres/connecting",
  "postgres/events",
  "postgres/offsets",
  "postgres/states",
  "postgres/spool",
  "postgres"
]
const upToConcepts = [...upToContracts, "Supervisor", "Entity", "Decision", "Projection", "Spool", "health", "Health"]

const upToConnection = [...upToPostgres, ...upToConcepts, "protobuf", "cli/arguments", "cli/terminal", "cli/connection"]

const upToConsole = [...upToPostgres, ...upToConcepts, "projection", "spool", "console/api", "doctor"]

const effect = ["effect"]
const driver = ["effect", "@effect/sql-pg", "node:"]
const command = ["effect", "@effect/platform-node", "@effect/sql-pg", "@bufbuild/protobuf", "node:"]

/** By path in `src`, from the ground up: a room may only import rooms that stand above it in this list. */
const rules: ReadonlyMap<string, Rule> = new Map<string, Rule>([
  ["StoreError", { rooms: [], packages: effect }],
  ["InvalidInput", { rooms: [], packages: effect }],
  ["internal", { rooms: errors, packages: effect }],
  ["EventQuery", { rooms: upToInternal, packages: effect }],
  ["Event", { rooms: [...upToInternal, "EventQuery"], packages: effect }],
  ["Offset", { rooms: upToInternal, packages: effect }],
  ["DurableState", { rooms: upToInternal, packages: effect }],
  ["SpoolMessage", { rooms: upToInternal, packages: effect }],
  ["SpoolArguments", { rooms: [...upToInternal, "SpoolMessage"], packages: effect }],
  ["SpoolErrors", { rooms: [...upToInternal, "SpoolMessage"], packages: effect }],
  ["StateCodec", { rooms: upToInternal, packages: effect }],
  ["Origin", { rooms: upToInternal, packages: effect }],
  ["events", { rooms: upToModels, packages: effect }],
  [contracts, { rooms: [...upToModels, "events"], packages: effect }],
  ["Supervisor", { rooms: upToInternal, packages: effect }],
  ["Entity", { rooms: upToContracts, packages: effect }],
  ["Decision", { rooms: upToContracts, packages: effect }],
  ["projection", { rooms: upToContracts, packages: effect }],
  ["projection/run", { rooms: [...upToContracts, "projection"], packages: effect }],
  ["projection/admin", { rooms: [...upToContracts, "projection", "projection/run"], packages: effect }],
  [
    "Projection",
    { rooms: [...upToContracts, "projection", "projection/run", "projection/admin", "Supervisor"], packages: effect }
  ],
  ["spool", { rooms: upToContracts, packages: effect }],
  ["Spool", { rooms: [...upToContracts, "spool", "Supervisor"], packages: effect }],
  ["health", { rooms: [...upToContracts, "projection"], packages: effect }],
  ["Health", { rooms: [...upToContracts, "projection", "health", "Supervisor"], packages: effect }],
  ["index", { rooms: upToConcepts, packages: [] }],
  ["cluster", { rooms: [], packages: ["effect", "@effect/platform-node"] }],
  ["protobuf", { rooms: upToContracts, packages: ["effect", "@bufbuild/protobuf"] }],
  ["memory", { rooms: upToContracts, packages: effect }],
  ["postgres/connecting", { rooms: [], packages: driver }],
  ["postgres/database", { rooms: [...upToContracts, "postgres/connecting"], packages: driver }],
  ["postgres/wakeups", { rooms: [...upToContracts, "postgres/database"], packages: driver }],
  ["postgres/events", { rooms: upToWakeups, packages: driver }],
  ["postgres/offsets", { rooms: upToWakeups, packages: driver }],
  ["postgres/states", { rooms: upToWakeups, packages: driver }],
  ["postgres/spool", { rooms: upToWakeups, packages: driver }],
  ["postgres", { rooms: upToPostgres, packages: driver }],
  ["pglite", { rooms: upToPostgres, packages: [...driver, "@electric-sql/pglite"] }],
  ["testing", { rooms: upToConcepts, packages: ["effect", "@effect/vitest"] }],
  // What the doctor checks is the same for the command and the console.
  ["doctor", { rooms: [...upToPostgres, ...upToConcepts], packages: driver }],
  ["console/api", { rooms: [], packages: effect }],
  ["console/page", { rooms: ["console/api"], packages: ["preact"] }],
  ["cli/arguments", { rooms: upToPostgres, packages: command }],
  ["cli/terminal", { rooms: [...upToPostgres, "cli/arguments"], packages: command }],
  ["cli/transfer", { rooms: [...upToPostgres, "cli/arguments", "cli/terminal"], packages: command }],
  ["cli/connection", { rooms: [...upToPostgres, "pglite", "cli/arguments", "cli/terminal"], packages: command }],
  ["cli/limits", { rooms: [...upToConnection, "doctor"], packages: command }],
  ["console", { rooms: upToConsole, packages: driver }],
  ["cli/commands/events", { rooms: [...upToConnection, "cli/transfer"], packages: command }],
  [
    "cli/commands",
    {
      rooms: [...upToConnection, "spool", "console", "doctor", "cli/limits", "cli/transfer", "cli/commands/events"],
      packages: command
    }
  ],
  ["cli", { rooms: [...upToConnection, "cli/commands", "cli/commands/events"], packages: command }]
])

/** The room that a file belongs to: the nearest one with a rule. Its path is relative to `src`. */
const roomOf = (file: string): string => {
  for (let path = file.replace(/\.tsx?$/, ""); path !== "."; path = posix.dirname(path))
    if (rules.has(path)) return path
  return file.includes("/") ? posix.dirname(file) : contracts
}

const packageOf = (specifier: string): string => {
  if (specifier.startsWith("node:")) return "node:"
  return specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/")
}

interface Import {
  /** Absent if it is computed. */
  readonly specifier: string | undefined
  readonly start: number
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null

/** What a syntax node of any kind imports from: `from "x"`, `import "x"`, `import("x")`, also in types, `require("x")`. */
const sourceOf = (node: Record<string, unknown>): unknown => {
  switch (node["type"]) {
    case "ImportDeclaration":
    case "ExportAllDeclaration":
    case "ExportNamedDeclaration":
    case "ImportExpression":
    case "TSImportType":
      return node["source"] ?? undefined
    case "TSExternalModuleReference":
      return node["expression"]
    default:
      return undefined
  }
}

/** Everything that a file imports, types as well, in any form. */
const importsOf = (file: string, text: string): ReadonlyArray<Import> => {
  const found: Array<Import> = []
  const visit = (node: unknown): void => {
    if (Array.isArray(node)) return node.forEach(visit)
    if (!isRecord(node)) return
    const source = sourceOf(node)
    if (isRecord(source)) {
      const { start, value } = source
      found.push({
        specifier: typeof value === "string" ? value : undefined,
        start: typeof start === "number" ? start : 0
      })
    }
    Object.values(node).forEach(visit)
  }
  visit(parseAst(text, { lang: file.endsWith(".tsx") ? "tsx" : "ts" }, file))
  return found
}

/** Why a file may not import this; nothing if it may. */
const objection = (file: string, specifier: string | undefined): string | undefined => {
  const room = roomOf(file)
  const rule = rules.get(room)
  if (rule === undefined) return `src/${room} has no rule yet: add it in test/package/dependencies.ts`
  if (specifier === undefined) return "imports something computed"
  if (!specifier.startsWith(".")) {
    const name = packageOf(specifier)
    return rule.packages.includes(name) ? undefined : `imports ${specifier}, but ${room} may not import ${name}`
  }
  const target = posix.join(posix.dirname(file), specifier)
  if (target.startsWith("..")) return `imports ${specifier}, which is not in src`
  const other = roomOf(target)
  return other === room || rule.rooms.includes(other)
    ? undefined
    : `imports ${specifier}, but ${room} may not import ${other}`
}

/** The circles among files that import each other, type imports included, each as the way around it. */
const circles = (imported: ReadonlyMap<string, ReadonlyArray<string>>): ReadonlyArray<ReadonlyArray<string>> => {
  const found: Array<ReadonlyArray<string>> = []
  const done = new Set<string>()
  const visit = (file: string, way: ReadonlyArray<string>): void => {
    const start = way.indexOf(file)
    if (start !== -1) return void found.push(way.slice(start))
    if (done.has(file)) return
    for (const next of imported.get(file) ?? []) visit(next, [...way, file])
    done.add(file)
  }
  for (const file of imported.keys()) visit(file, [])
  return found
}

/** What breaks the rule, one sentence each. Takes the text of each file by its path relative to `src`. */
export const violations = (files: Iterable<readonly [file: string, text: string]>): ReadonlyArray<string> => {
  const found: Array<string> = []
  const imported = new Map<string, ReadonlyArray<string>>()
  for (const [file, text] of files) {
    const imports = importsOf(file, text)
    for (const { specifier, start } of imports) {
      const reason = objection(file, specifier)
      if (reason !== undefined) found.push(`src/${file}:${text.slice(0, start).split("\n").length} ${reason}`)
    }
    const own = imports.flatMap(({ specifier }) => (specifier?.startsWith(".") === true ? [specifier] : []))
    imported.set(
      file,
      own.map((specifier) => posix.join(posix.dirname(file), specifier))
    )
  }
  for (const circle of circles(imported)) {
    found.push(`src/${circle[0]} imports itself by way of ${[...circle.slice(1), circle[0]].join(", ")}`)
  }
  return found
}

/** The rooms whose rule allows an import of a room that is not above it in the list: an import that runs upwards. */
export const upwardRules = (): ReadonlyArray<string> => {
  const floors = [...rules.keys()]
  return floors.filter((room, floor) =>
    rules.get(room)?.rooms.some((other) => other !== room && floors.indexOf(other) >= floor)
  )
}

/** The text of each file of `src`, by its path. */
export const sources = (): ReadonlyMap<string, string> => {
  const src = new URL("../../src/", import.meta.url)
  const files = readdirSync(src, { recursive: true, encoding: "utf8" }).map((file) => file.replaceAll("\\", "/"))
  return new Map(
    files.filter((file) => /\.tsx?$/.test(file)).map((file) => [file, readFileSync(new URL(file, src), "utf8")])
  )
}

if (import.meta.main) {
  const found = violations(sources())
  for (const violation of found) process.stderr.write(`${violation}\n`)
  process.exitCode = found.length === 0 ? 0 : 1
}
