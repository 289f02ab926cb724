import { assert, describe, it } from "@effect/vitest"
import { readFileSync } from "node:fs"
import { posix } from "node:path"
import { sources } from "./dependencies.ts"

const map = readFileSync(new URL("../../src/README.md", import.meta.url), "utf8")

/** The drawing of the rooms, without what it says of them in prose, where names of types and methods are in backquotes. */
const tree = /```\n(src\/\n[^]*?)```/.exec(map)?.[1]?.replaceAll(/`[^`]*`/g, "") ?? ""

const files = [...sources().keys()].filter((file) => !file.startsWith("testing/"))
const nameOf = (file: string) => posix.basename(file).replace(/\.tsx?$/, "")
const names = new Set(files.map(nameOf))

describe("the map of src", () => {
  it("names each file", () => {
    const missing = [...names].filter((name) => name !== "index" && !new RegExp(`\\b${name}\\b`).test(tree))
    // `cli/commands` has a file for each subcommand: the map says so, and does not list them.
    const commands = new Set(files.filter((file) => file.startsWith("cli/commands/")).map(nameOf))
    assert.deepStrictEqual(
      missing.filter((name) => !commands.has(name)),
      []
    )
  })

  it("draws no file that is not there", () => {
    const drawn = tree.split("\n").flatMap((line) => /^ {2,}((?:[A-Z]\w+(?:, )?)+)(?: {2}|$)/.exec(line)?.[1] ?? [])
    const unknown = drawn.flatMap((line) => line.split(", ")).filter((name) => name !== "" && !names.has(name))
    assert.isAbove(drawn.length, 20)
    assert.deepStrictEqual(unknown, [])
  })

  it("walks through files that are there", () => {
    const walks = map.slice(map.indexOf("## Five walks"), map.indexOf("## Where something belongs"))
    const paths = [...walks.matchAll(/`((?:src\/)?[\w/]*[A-Z]\w+)(?:\.ts)?`/g)].map(([, path = ""]) => path)
    const unknown = paths.filter((path) => {
      const end = `${path.replace(/^src\//, "")}.ts`
      return !files.some((file) => file === end || file.endsWith(`/${end}`))
    })
    assert.isAbove(paths.length, 40)
    assert.deepStrictEqual(unknown, [])
  })
})
