/**
 * The dependency rule: which part of `src` may import which other part, and which packages. Run by node it prints what
 * breaks the rule and fails; `dependencies.test.ts` shows that it does.
 */
import { readdirSync, readFileSync } from "node:fs"
import { posix } from "node:path"
import { parseAst } from "vitest/node"

/** The contracts: every file at the top of `src` that has no rule of its own. */
const contracts = "contracts"

interface Rule {
  /** The other parts of `src` that it may import. */
  readonly parts: ReadonlyArray<string>
  /** Packages with all their entry points. "node:" stands for what Node brings. */
  readonly packages: ReadonlyArray<string>
}

/** By folder of `src`, or by file at its top. */
const rules: ReadonlyMap<string, Rule> = new Map<string, Rule>([
  [contracts, { parts: [], packages: ["effect"] }],
  ["Projection", { parts: [contracts, "projection"], packages: ["effect"] }],
  ["projection", { parts: [contracts], packages: ["effect"] }],
  ["Spool", { parts: [contracts, "spool"], packages: ["effect"] }],
  ["spool", { parts: [contracts], packages: ["effect"] }],
  ["index", { parts: [contracts, "Projection", "Spool"], packages: [] }],
  ["protobuf", { parts: [contracts], packages: ["effect", "@bufbuild/protobuf"] }],
  ["memory", { parts: [contracts], packages: ["effect"] }],
  ["postgres", { parts: [contracts], packages: ["effect", "@effect/sql-pg", "node:"] }],
  [
    "pglite",
    { parts: [contracts, "postgres"], packages: ["effect", "@effect/sql-pg", "@electric-sql/pglite", "node:"] }
  ],
  ["testing", { parts: [contracts, "Projection", "Spool"], packages: ["effect", "@effect/vitest"] }],
  [
    "cli",
    {
      parts: [contracts, "Projection", "Spool", "postgres", "pglite", "protobuf"],
      packages: ["effect", "@effect/platform-node", "@effect/sql-pg", "@bufbuild/protobuf", "node:"]
    }
  ]
])

/** The part of `src` that a file belongs to; its path is relative to `src`. */
const partOf = (file: string): string => {
  const [first = "", ...rest] = file.split("/")
  if (rest.length > 0) return first
  const name = first.replace(/\.ts$/, "")
  return rules.has(name) ? name : contracts
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
  visit(parseAst(text, { lang: "ts" }, file))
  return found
}

/** Why a file may not import this; nothing if it may. */
const objection = (file: string, specifier: string | undefined): string | undefined => {
  const part = partOf(file)
  const rule = rules.get(part)
  if (rule === undefined) return `src/${part} has no rule yet: add it in test/package/dependencies.ts`
  if (specifier === undefined) return "imports something computed"
  if (!specifier.startsWith(".")) {
    const name = packageOf(specifier)
    return rule.packages.includes(name) ? undefined : `imports ${specifier}, but ${part} may not import ${name}`
  }
  const target = posix.join(posix.dirname(file), specifier)
  if (target.startsWith("..")) return `imports ${specifier}, which is not in src`
  const other = partOf(target)
  return other === part || rule.parts.includes(other)
    ? undefined
    : `imports ${specifier}, but ${part} may not import ${other}`
}

/** What breaks the rule, one sentence each. Takes the text of each file by its path relative to `src`. */
export const violations = (files: Iterable<readonly [file: string, text: string]>): ReadonlyArray<string> => {
  const found: Array<string> = []
  for (const [file, text] of files) {
    for (const { specifier, start } of importsOf(file, text)) {
      const reason = objection(file, specifier)
      if (reason !== undefined) found.push(`src/${file}:${text.slice(0, start).split("\n").length} ${reason}`)
    }
  }
  return found
}

/** The text of each file of `src`, by its path. */
export const sources = (): ReadonlyMap<string, string> => {
  const src = new URL("../../src/", import.meta.url)
  const files = readdirSync(src, { recursive: true, encoding: "utf8" }).map((file) => file.replaceAll("\\", "/"))
  return new Map(
    files.filter((file) => file.endsWith(".ts")).map((file) => [file, readFileSync(new URL(file, src), "utf8")])
  )
}

if (import.meta.main) {
  const found = violations(sources())
  for (const violation of found) process.stderr.write(`${violation}\n`)
  process.exitCode = found.length === 0 ? 0 : 1
}
