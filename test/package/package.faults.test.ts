import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { cp, readdir, readFile, rm, writeFile } from "node:fs/promises"
import { delimiter, dirname, join, posix } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll } from "vitest"
import { withDatabase } from "../support/database.ts"
import { install, manifest, pack, temporaryDirectory } from "./project.ts"
import { outcome, root, run, tsc } from "./run.ts"

const compilerOptions = {
  strict: true,
  exactOptionalPropertyTypes: true,
  skipLibCheck: false,
  target: "ES2023",
  // Effect's types mention the DOM's.
  lib: ["ES2023", "DOM", "DOM.Iterable"],
  module: "NodeNext",
  types: ["node"]
}

/** A directory with this package installed, and with a program that uses it, compiled. */
interface Project {
  readonly directory: string
  /** What the compiler said of the program, line by line. */
  readonly errors: ReadonlyArray<string>
}

/** `core` has no optional package, `full` has them all. */
let core: Project
let full: Project
let tarball: string
/** What the package holds. */
let files: ReadonlyArray<string>

const temporary: Array<string> = []

const filesIn = async (directory: string): Promise<ReadonlyArray<string>> =>
  (await readdir(directory, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) =>
      join(entry.parentPath, entry.name)
        .slice(directory.length + 1)
        .replaceAll("\\", "/")
    )
    .sort()

const project = async (tarball: string, packages: ReadonlyArray<string>, program: string): Promise<Project> => {
  const directory = await temporaryDirectory()
  temporary.push(directory)
  await install(directory, tarball, packages)
  await cp(fileURLToPath(new URL(`consumer/${program}`, import.meta.url)), join(directory, program))
  await writeFile(join(directory, "tsconfig.json"), JSON.stringify({ compilerOptions, files: [program] }))
  const { output } = await outcome(process.execPath, [tsc, "--pretty", "false"], { cwd: directory })
  return { directory, errors: output.split("\n").filter((line) => line !== "") }
}

const runCore = (node: string) => run(node, ["core.js"], { cwd: core.directory })
const runFull = (node: string) =>
  withDatabase((url) =>
    Effect.promise(() => run(node, ["full.js"], { cwd: full.directory, env: { DATABASE_URL: url } }))
  )

const coreOutput = "core: 15 4\n"
const fullOutput = "memory: 15 4\ninProcess: 15 4\nserver: 15 4\n"

beforeAll(async () => {
  const directory = await temporaryDirectory()
  temporary.push(directory)
  tarball = await pack(directory)
  core = await project(tarball, ["effect", "@types/node"], "core.ts")
  full = await project(tarball, [...Object.keys(manifest.peerDependencies), "vitest", "@types/node"], "full.ts")
  files = await filesIn(join(core.directory, "node_modules", manifest.name))
})

afterAll(() => Promise.all(temporary.map((directory) => rm(directory, { recursive: true, force: true }))))

interface Node {
  readonly path: string
  readonly version: string
}

const majorOf = (version: string) => Number.parseInt(version.replace(/^\D*/, ""))

/** The first major version of Node that the package supports, as its `engines` say. */
const oldestMajor = majorOf(manifest.engines["node"] ?? "")

/** The Node of each directory on the PATH, the dependency of this repository aside. */
const machineNodes = async (): Promise<ReadonlyArray<Node>> => {
  const nodes: Array<Node> = []
  for (const directory of (process.env["PATH"] ?? "").split(delimiter)) {
    if (directory === "" || directory.includes("node_modules")) continue
    const path = join(directory, "node")
    const { output, status } = await outcome(path, ["--print", "process.versions.node"], { cwd: root }).catch(() => ({
      output: "",
      status: "absent"
    }))
    if (status === 0) nodes.push({ path, version: output.trim() })
  }
  return nodes
}

/** The Node of this repository, and of the others on this machine the oldest one that the package supports. */
const nodes = async (): Promise<ReadonlyArray<Node>> => {
  const own = { path: process.execPath, version: process.versions.node }
  const others = (await machineNodes())
    .filter(({ version }) => majorOf(version) >= oldestMajor && majorOf(version) !== majorOf(own.version))
    .sort((one, other) => majorOf(one.version) - majorOf(other.version))
  return [own, ...others.slice(0, 1)]
}

const tested = await nodes()
process.stdout.write(`The package is tested on Node ${tested.map(({ version }) => version).join(" and ")}\n`)

describe("the package", () => {
  it("says that it needs Node 22", () => {
    assert.strictEqual(manifest.engines["node"], ">=22")
  })

  it("holds what is built, its sources with their map, the resources, and nothing else", async () => {
    const sources = (await filesIn(join(root, "src"))).filter((file) => !/\.(?:json|md)$/.test(file))
    const compiled = sources.filter((file) => !file.startsWith("console/page/"))
    const built = compiled.flatMap((file) =>
      [".js", ".js.map", ".d.ts", ".d.ts.map"].map((extension) => `dist/${file.replace(/\.ts$/, extension)}`)
    )
    const page = ["icon.svg", "index.html", "licenses.txt", "page.css", "page.js"]
    // What builds the page of the console and the site is not needed to use the package.
    const resources = (await filesIn(join(root, "resources"))).filter((file) => !/^(?:console|site)\//.test(file))
    const examples = await filesIn(join(root, "test", "examples"))
    const expected = [
      "CHANGELOG.md",
      "CONTRIBUTING.md",
      "LICENSE",
      "README.md",
      "package.json",
      ...built,
      ...page.map((file) => `dist/console/page/${file}`),
      ...sources.map((file) => `src/${file}`),
      "src/README.md",
      ...resources.map((file) => `resources/${file}`),
      ...examples.map((file) => `test/examples/${file}`)
    ]
    assert.include(resources, "postgres/0001_offsets.sql")
    assert.deepStrictEqual(files, expected.sort())
  })

  // ES modules alone: CommonJS can load them by import().
  it.each([
    ["publint", ["run", "--strict"], /All good!/],
    ["attw", ["--profile", "esm-only"], /"effect-strata\/testing"/]
  ] as const)("has nothing that %s finds", async (tool, args, says) => {
    const { output, status } = await outcome(join(root, "node_modules", ".bin", tool), [...args, tarball], {
      cwd: root
    })
    assert.strictEqual(status, 0, output)
    assert.match(output, says)
  })

  it("has declarations without any", async () => {
    const installed = join(core.directory, "node_modules", manifest.name)
    for (const file of files.filter((file) => file.endsWith(".d.ts"))) {
      const text = await readFile(join(installed, file), "utf8")
      const code = text.replaceAll(/\/\*[^]*?\*\/|\/\/.*|"(?:[^"\\]|\\.)*"|`[^`]*`/g, "")
      assert.notMatch(code, /\bany\b/, file)
      // Its types need others that it does not bring.
      assert.notInclude(text.replaceAll(/\/\*[^]*?\*\//g, ""), "@electric-sql/pglite", file)
    }
  })

  it("refuses arguments of other types", async () => {
    const program = `
      import { Projection } from "${manifest.name}"
      export const right = [Projection.reset("x"), Projection.reset("x", 7n)]
      // @ts-expect-error
      export const wrong = Projection.reset("x", "seven")`
    await writeFile(join(core.directory, "wrong.ts"), program)
    const args = [
      "--noEmit",
      "--pretty",
      "false",
      "--ignoreConfig",
      "--skipLibCheck",
      "--module",
      "NodeNext",
      "wrong.ts"
    ]
    assert.strictEqual(
      (await outcome(process.execPath, [tsc, "--strict", ...args], { cwd: core.directory })).output,
      ""
    )
  })

  it("has documents whose links lead to what it holds", async () => {
    const installed = join(core.directory, "node_modules", manifest.name)
    const documents = files.filter((file) => file.endsWith(".md"))
    assert.isAtLeast(documents.length, 4)
    for (const document of documents) {
      const text = await readFile(join(installed, document), "utf8")
      const headings = [...text.matchAll(/^#+ (.*)$/gm)].map(([, title = ""]) =>
        title
          .toLowerCase()
          .replaceAll(/[^\p{L}\p{N} _-]/gu, "")
          .replaceAll(" ", "-")
      )
      for (const [, link = ""] of text.replaceAll(/^```[^]*?^```/gm, "").matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^[a-z]+:/.test(link)) continue
        const [path = "", anchor] = link.split("#")
        const target = posix.normalize(posix.join(posix.dirname(document), path)).replace(/\/$/, "")
        const isThere = path === "" || files.some((file) => file === target || file.startsWith(`${target}/`))
        assert.isTrue(isThere, `${document} leads to ${link}`)
        if (path === "" && anchor !== undefined) assert.include(headings, anchor, `${document} leads to ${link}`)
      }
    }
  })

  it("has source maps that lead to its sources", async () => {
    const installed = join(core.directory, "node_modules", manifest.name)
    const maps = files.filter((file) => file.endsWith(".map"))
    for (const map of maps) {
      const [, source = ""] = /"sources":\["([^"]+)"\]/.exec(await readFile(join(installed, map), "utf8")) ?? []
      assert.include(files, join(dirname(map), source), map)
    }
  })
})

describe("a project with effect alone", () => {
  it("has no optional package", async () => {
    assert.sameMembers(
      (await readdir(join(core.directory, "node_modules"))).filter((name) => !name.startsWith(".")),
      ["@types", "effect", "effect-strata", "undici-types"]
    )
  })

  it("type-checks, with all types it depends on", () => {
    assert.deepStrictEqual(core.errors, [])
  })

  it.each(tested)("runs on the stores in memory, with Node $version", async ({ path }) => {
    assert.strictEqual(await runCore(path), coreOutput)
  })
})

describe("a project with the optional packages", () => {
  it("type-checks, with all types it depends on", () => {
    assert.deepStrictEqual(full.errors, [])
  })

  it("loads every entry point", async () => {
    const entries = Object.keys(manifest.exports).filter((entry) => entry !== "./package.json")
    const program = entries
      .map((entry) => entry.replace(/^\./, manifest.name))
      .map((name) => `console.log("${name}", Object.keys(await import("${name}")).length > 0)`)
    const output = await run(process.execPath, ["--input-type=module", "--eval", program.join("\n")], {
      cwd: full.directory
    })
    assert.deepStrictEqual(
      output.trim().split("\n"),
      entries.map((entry) => `${entry.replace(/^\./, manifest.name)} true`)
    )
  })

  it.live.each(tested)(
    "runs on memory, and on Postgres with the migrations of the package, with Node $version",
    ({ path }) =>
      Effect.gen(function* () {
        assert.strictEqual(yield* runFull(path), fullOutput)
      })
  )
})

describe("the command", () => {
  const strata = ({ directory }: Project, args: ReadonlyArray<string>, env: Readonly<Record<string, string>> = {}) =>
    outcome(join(directory, "node_modules", ".bin", "strata"), args, { cwd: directory, env })

  it.live("runs, with the migrations of the package", () =>
    withDatabase((url) =>
      Effect.promise(async () => {
        const env = { DATABASE_URL: url }
        const migrated = await strata(full, ["migrate"], env)
        assert.deepInclude(migrated, { status: 0 })
        assert.match(migrated.output, /^Run: 0001_offsets\.sql/)
        const checked = await strata(full, ["migrate", "status", "--json"], env)
        assert.match(checked.output, /^\{"file":"0001_offsets\.sql","appliedAt":"2/)
      })
    )
  )

  it("says what to install where its packages are missing", async () => {
    const { output, status } = await strata(core, ["--version"])
    assert.strictEqual(status, 1)
    assert.match(output, /^strata: @effect\/[\w-]+ is not installed; run: npm install [^\n]*\n$/)
  })
})
