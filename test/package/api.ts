/**
 * The names that the package exports: `node test/package/api.ts` writes them to `api.txt`, which `api.test.ts` compares.
 *
 * Each line is a name as a program writes it, and what it is. A name that appears there by accident is one that has to be kept.
 */
import { readFileSync, writeFileSync } from "node:fs"
import { dirname, join, relative } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("../../", import.meta.url))
export const reportFile = join(root, "test/package/api.txt")

type Kind = "class" | "const" | "function" | "interface" | "namespace" | "type" | "let"

/** What a module exports: kinds by names. A class is a value and a type, and so is a constant with a type of its name. */
type Exports = ReadonlyMap<string, Kind | { readonly namespace: string }>

const cache = new Map<string, Exports>()

/** The exports of a source file, by its own statements. */
const exportsOf = (file: string): Exports => {
  const known = cache.get(file)
  if (known !== undefined) return known
  const found = new Map<string, Kind | { readonly namespace: string }>()
  cache.set(file, found)
  const text = readFileSync(file, "utf8").replaceAll(/\/\*[^]*?\*\/|^\s*\/\/.*$/gm, "")
  const from = (path: string) => join(dirname(file), path)
  for (const [, kind, name] of text.matchAll(
    /^export (?:declare )?(?:abstract )?(class|const|function|interface|type|let) (\w+)/gm
  )) {
    // A type beside a constant of its name is the type of that.
    if (name !== undefined && !(kind === "type" && found.has(name))) found.set(name, kindOf(kind))
  }
  for (const [, name, path = ""] of text.matchAll(/^export \* as (\w+) from "(\.[^"]+)"/gm)) {
    if (name !== undefined) found.set(name, { namespace: from(path) })
  }
  for (const [, path = ""] of text.matchAll(/^export \* from "(\.[^"]+)"/gm)) {
    for (const [name, kind] of exportsOf(from(path))) found.set(name, kind)
  }
  for (const [, isType, names = "", path] of text.matchAll(/^export (type )?\{([^}]*)\}(?: from "([^"]+)")?/gm)) {
    for (const part of names.split(",")) {
      const [, onlyType, name, alias] = /^\s*(type )?(\w+)(?: as (\w+))?\s*$/.exec(part) ?? []
      if (name === undefined) continue
      const kind = path?.startsWith(".") ? exportsOf(from(path)).get(name) : undefined
      const asType = isType !== undefined || onlyType !== undefined
      found.set(alias ?? name, asType && kind !== "interface" ? "type" : (kind ?? "const"))
    }
  }
  return found
}

const kindOf = (word: string | undefined): Kind => {
  switch (word) {
    case "class":
    case "function":
    case "interface":
    case "type":
    case "let":
      return word
    default:
      return "const"
  }
}

const linesOf = (file: string, prefix: string): ReadonlyArray<string> =>
  [...exportsOf(file)]
    .toSorted(([one], [other]) => (one < other ? -1 : 1))
    .flatMap(([name, kind]) =>
      typeof kind === "string" ? [`${prefix}${name} ${kind}`] : linesOf(kind.namespace, `${prefix}${name}.`)
    )

/** The report: for each entry point of the package its names. */
export const report = (): string => {
  const manifest: {
    readonly exports: Readonly<Record<string, string | { readonly "@effect-strata/source": string }>>
  } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))
  return Object.entries(manifest.exports)
    .flatMap(([entry, target]) => {
      if (typeof target === "string") return []
      const name = entry.replace(/^\./, "effect-strata")
      return [[`# ${name}`], linesOf(join(root, target["@effect-strata/source"]), ""), [""]].flat()
    })
    .join("\n")
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(reportFile, report())
  process.stdout.write(`Written: ${relative(root, reportFile)}\n`)
}
