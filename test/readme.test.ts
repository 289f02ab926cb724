/**
 * README.md, the guides and the doc comments are right: their TypeScript type-checks, the programs of README.md and of the
 * guides run, commands write what is shown, and links lead to something that the package has.
 *
 * `resources/guides/README.md` says how blocks belong together. The blocks of a document run in their order, on one empty
 * database, in an empty directory: programs that follow each other in one process. Vitest runs those that import it.
 * A block that begins with "no-run" says there why it is not run.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises"
import { dirname, join, posix } from "node:path"
import { afterAll, beforeAll } from "vitest"
import { filesOf as figuresOf, missing, readResults, toldIn, unexplained } from "./guides/figures.ts"
import { sources } from "./package/dependencies.ts"
import { runDocument } from "./package/documents.ts"
import {
  docExamplesIn,
  type Example,
  examplesIn,
  filesOf,
  isTest,
  isTypeScript,
  type SourceFile,
  where,
  whyNotRun
} from "./package/examples.ts"
import { anchorsOf, linksOf } from "./package/links.ts"
import { manifest, temporaryDirectory } from "./package/project.ts"
import { outcome, root, run, tsc, vitest } from "./package/run.ts"
import { withDatabase } from "./support/database.ts"

const read = async (file: string) => ({ file, text: await readFile(join(root, file), "utf8") })

const guides = (await readdir(join(root, "resources", "guides"))).filter((file) => file.endsWith(".md"))
const documents = await Promise.all(["README.md", ...guides.map((name) => `resources/guides/${name}`)].map(read))
const others = await Promise.all(
  [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "src/README.md",
    "resources/postgres/README.md",
    ...(await readdir(join(root, "resources", "reference"))).map((name) => `resources/reference/${name}`)
  ].map(read)
)

const results = await readResults()
const figures = await figuresOf(results)

const examples = documents.flatMap(({ file, text }) => examplesIn(file, text))
const docExamples = [...sources()].flatMap(([file, text]) => docExamplesIn(`src/${file}`, text)).filter(isTypeScript)

/** Where the files of a document are, below the directory of all. */
const folderOf = (file: string) => file.replace(/\.md$/, "").replaceAll("/", ".")
// `tutorial.faults.test.ts` follows the tutorial.
const documented = documents
  .filter(({ file }) => file !== "resources/guides/tutorial.md")
  .map(({ file, text }) => ({ file, blocks: examplesIn(file, text) }))
  .filter(({ blocks }) => blocks.length > 0)
  .map(({ blocks, file }) => ({ file, blocks, sources: filesOf(blocks) }))

/** Inside the repository, so that examples find its packages, and itself by name. */
let directory: string
const pathOf = (file: string, { name }: SourceFile) => join(directory, folderOf(file), name)
const docPathOf = ({ file, line }: Example) => join(directory, "docs", `${file.replaceAll("/", ".")}.L${line}.ts`)

beforeAll(async () => {
  await mkdir(join(root, ".strata"), { recursive: true })
  directory = await mkdtemp(join(root, ".strata", "examples-"))
  const files = [
    ...documented.flatMap(({ file, sources }) => sources.map((source) => [pathOf(file, source), source.text] as const)),
    ...docExamples.map((example) => [docPathOf(example), "\n".repeat(example.line) + example.code] as const)
  ]
  for (const [path, text] of files) {
    await mkdir(dirname(path), { recursive: true })
    await writeFile(path, text)
  }
  // An example may define what it does not use.
  const compilerOptions = { noUnusedLocals: false, noUnusedParameters: false }
  await writeFile(
    join(directory, "tsconfig.json"),
    JSON.stringify({ extends: "../../tsconfig.json", compilerOptions, files: files.map(([path]) => path), include: [] })
  )
  await writeFile(
    join(directory, "vitest.config.ts"),
    `import config from "../../vitest.config.ts"
     const { resolve, ssr } = config
     export default { root: import.meta.dirname, resolve, ssr, test: { include: ["**/*.ts"], testTimeout: 300_000 } }`
  )
})

afterAll(() => rm(directory, { recursive: true, force: true }))

describe("the code of README.md, of the guides and of the doc comments", () => {
  it("type-checks", async () => {
    assert.isNotEmpty(docExamples)
    assert.isNotEmpty(documented)
    const { output } = await outcome(process.execPath, [tsc, "--pretty", "false", "-p", "tsconfig.json"], {
      cwd: directory
    })
    assert.deepStrictEqual(
      output.split("\n").filter((line) => line !== ""),
      []
    )
  })

  it("says why, where it is not run", () => {
    const silent = examples.filter((example) => {
      const why = whyNotRun(example)
      return why === "" || (example.language === "bash" && why === undefined)
    })
    assert.deepStrictEqual(silent.map(where), [])
  })

  it("is in languages that are checked", () => {
    const languages = ["ts", "json", "console", "bash", "text", "sql", "scene"]
    assert.deepStrictEqual(examples.filter(({ language }) => !languages.includes(language)).map(where), [])
  })

  const tests = documented.flatMap(({ file, sources }) =>
    sources.filter(({ example }) => isTest(example)).map((source) => ({ file, source }))
  )

  it.live("that is for Vitest, passes", () =>
    withDatabase((DATABASE_URL) =>
      Effect.promise(() => {
        assert.isNotEmpty(tests)
        const paths = tests.map(({ file, source }) => pathOf(file, source))
        const args = [vitest, "run", "--config", join(directory, "vitest.config.ts"), ...paths]
        return run(process.execPath, args, { cwd: root, env: { DATABASE_URL } })
      })
    )
  )
})

describe("the blocks that can run", () => {
  it.concurrent.each(documented.map((document) => [document.file, document] as const))(
    "of %s do",
    async (_, document) => {
      const cwd = await temporaryDirectory()
      try {
        const runIt = withDatabase((url) =>
          Effect.promise(() =>
            runDocument({ ...document, pathOf: (source) => pathOf(document.file, source) }, { cwd, url })
          )
        )
        assert.deepStrictEqual(await Effect.runPromise(runIt), [])
      } finally {
        await rm(cwd, { recursive: true, force: true })
      }
    }
  )
})

describe("README.md", () => {
  const [readme] = documents
  const commands = examplesIn("README.md", readme?.text ?? "").filter(({ language }) => language === "bash")

  it("is short", () => {
    assert.isAtMost(readme?.text.split("\n").length ?? 0, 250)
  })

  it("says how to start it and how to test it", () => {
    const lines = commands.flatMap(({ code }) => code.split("\n"))
    assert.includeMembers(lines, ["npm install && npm start", "npm install && npm test"])
  })
})

describe("the figures of the documents", () => {
  it.each(figures)("are the results of the bench: %s, which npm run figures writes anew", async (file, text) => {
    assert.strictEqual(await readFile(join(root, file), "utf8"), text)
  })

  it("are all there", () => {
    assert.deepStrictEqual(missing(results), [])
    assert.isAbove(toldIn(results), 40)
  })

  it("say why the other side wins, where it does", () => {
    assert.deepStrictEqual(unexplained(results), [])
  })
})

describe("the documents", () => {
  const all = [...documents, ...others]

  it("lead to files and headings that the package has", async () => {
    const shipped = [...manifest.files, "README.md", "LICENSE", "package.json"]
    const wrong: Array<string> = []
    for (const { file, text } of all) {
      for (const { anchor, link, path } of linksOf(text)) {
        const target = path === "" ? file : posix.normalize(posix.join(posix.dirname(file), path)).replace(/\/$/, "")
        const isShipped = shipped.some((name) => target === name || target.startsWith(`${name}/`))
        const there = isShipped
          ? await readFile(join(root, target), "utf8").catch(() => readdir(join(root, target)).catch(() => undefined))
          : undefined
        const isRight =
          typeof there === "string" && anchor !== undefined ? anchorsOf(there).includes(anchor) : there !== undefined
        if (!isRight) wrong.push(`${file} leads to ${link}`)
      }
    }
    assert.deepStrictEqual(wrong, [])
  })

  it("name only scripts that there are", () => {
    const named = all.flatMap(({ text }) => Array.from(text.matchAll(/\bnpm (?:run ([\w:-]+)|(test|start)\b)/g)))
    assert.includeMembers(
      Object.keys(manifest.scripts),
      named.map(([, script, shorthand]) => script ?? shorthand)
    )
  })

  it("name a test or a run for each guarantee", () => {
    const guaranteed = documents.flatMap(({ file, text }) =>
      (text.match(/^\|.*\| shown by \|\n(?:\|.*\n)+/gm) ?? []).flatMap((table) =>
        table
          .trimEnd()
          .split("\n")
          .slice(2)
          .map((row) => ({ file, row, shownBy: row.split(" | ").at(-1) ?? "" }))
      )
    )
    assert.deepStrictEqual(
      [...new Set(guaranteed.map(({ file }) => file))],
      ["README.md", "resources/guides/deploying.md", "resources/guides/guarantees.md"]
    )
    assert.isAbove(guaranteed.length, 30)
    assert.deepStrictEqual(
      guaranteed.filter(({ shownBy }) => !/`(?:test|src)\/[\w./-]+\.ts`|`npm run chaos/.test(shownBy)),
      []
    )
  })

  it("name only files and tests that there are", async () => {
    const named = all.flatMap(({ file, text }) =>
      Array.from(text.matchAll(/`((?:test|src)\/[\w./-]+\.ts)`(?: "([^"]+)")?/g), ([, path = "", title = ""]) => ({
        file,
        path,
        title
      }))
    )
    const wrong = await Promise.all(
      named.map(async ({ file, path, title }) => {
        const text = await readFile(join(root, path), "utf8").catch(() => undefined)
        return text?.includes(title) === true ? [] : [`${file}: ${path} ${title}`]
      })
    )
    assert.isNotEmpty(named)
    assert.deepStrictEqual(wrong.flat(), [])
  })
})
