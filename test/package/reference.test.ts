/** The reference in the package is what the code says, and leaves nothing out. */
import { assert, describe, it } from "@effect/vitest"
import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import type { Module } from "../../resources/site/declarations.ts"
import { publicModules } from "../../resources/site/publicModules.ts"
import { fileOf, fileTextOf, references } from "../../resources/site/reference.ts"
import { options } from "../../resources/site/settings.ts"
import { root } from "./run.ts"

let directory: string
let modules: ReadonlyArray<Module>

beforeAll(async () => {
  await mkdir(join(root, ".strata"), { recursive: true })
  directory = await mkdtemp(join(root, ".strata", "declarations-"))
  modules = await publicModules(root, directory)
})

afterAll(() => rm(directory, { recursive: true, force: true }))

describe("the reference", () => {
  it("is what the code says: npm run reference writes it anew", async () => {
    const pages = await references(modules)
    for (const page of pages) {
      assert.strictEqual(await readFile(join(root, fileOf(page)), "utf8"), fileTextOf(page), fileOf(page))
    }
    assert.sameMembers(
      (await readdir(join(root, "resources/reference"))).map((name) => `resources/reference/${name}`),
      pages.map(fileOf)
    )
  })

  it("says a meaning of each option, and what takes it", () => {
    const all = options(modules)
    assert.includeMembers(
      all.map(([{ name }, each]) => `${name}.${each.name}`),
      ["postgres.Options", "memory.Options", "pglite.Options", "Projection.Options", "Spool.RunOptions"]
    )
    const silent = all.flatMap(([module, { comment, fields, name }]) =>
      [{ name, comment }, ...fields].flatMap((each) =>
        each.comment === "" ? [`${module.name}.${name} ${each.name}`] : []
      )
    )
    assert.deepStrictEqual(silent, [])
  })

  it("says a remedy for each error", () => {
    const errors = modules.flatMap((module) =>
      module.exports.flatMap(({ comment, kind, name }) =>
        kind === "error" ? [{ name: `${module.name}.${name}`, comment }] : []
      )
    )
    assert.isAbove(errors.length, 30)
    const without = errors.filter(({ comment }) => !/\*\*Remedy\*\*\n\n\S/.test(comment))
    assert.deepStrictEqual(
      without.map(({ name }) => name),
      []
    )
  })
})
