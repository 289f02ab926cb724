/**
 * The examples of README.md and of the doc comments are right: all type-check, and those of README.md run.
 *
 * A `ts` block of README.md is a program of its own, which ends by itself. It runs in an empty directory, and DATABASE_URL
 * is the DSN of an empty database. One that imports Vitest or the conformance suites is run by Vitest. A block that begins
 * with "ts no-run" is only type-checked.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import { sources } from "./package/dependencies.ts"
import { docExamplesIn, type Example, examplesIn } from "./package/examples.ts"
import { manifest, temporaryDirectory } from "./package/project.ts"
import { outcome, root, run, tsc, vitest } from "./package/run.ts"
import { withDatabase } from "./support/database.ts"

const isTypeScript = ({ language }: Example) => language === "ts" || language === "typescript"
const isTest = ({ code }: Example) => /from "(vitest|@effect\/vitest|effect-strata\/testing)"/.test(code)
const where = ({ file, line }: Example) => `${file}:${line}`
const fileName = ({ file, line }: Example) => `${file.replaceAll("/", ".")}.L${line}.ts`

const blocks = examplesIn("README.md", await readFile(join(root, "README.md"), "utf8"))
const examples = blocks.filter(isTypeScript)
const docExamples = [...sources()].flatMap(([file, text]) => docExamplesIn(`src/${file}`, text)).filter(isTypeScript)
const commands = blocks.filter(({ language }) => ["bash", "sh", "shell"].includes(language)).map(({ code }) => code)

/** Inside the repository, so that examples find its packages, and itself by name. */
let directory: string
/** Where programs run, so that the files they make are not in the repository. */
let scratch: string

beforeAll(async () => {
  await mkdir(join(root, ".strata"), { recursive: true })
  directory = await mkdtemp(join(root, ".strata", "examples-"))
  scratch = await temporaryDirectory()
  for (const example of [...examples, ...docExamples]) {
    // The code follows as many lines as are before it in its own file, so that messages name its lines.
    await writeFile(join(directory, fileName(example)), "\n".repeat(example.line) + example.code)
  }
  await writeFile(
    join(directory, "vitest.config.ts"),
    `import config from "../../vitest.config.ts"
     const { resolve, ssr } = config
     export default { root: import.meta.dirname, resolve, ssr, test: { include: ["*.L*.ts"], testTimeout: 300_000 } }`
  )
})

afterAll(() => Promise.all([directory, scratch].map((path) => rm(path, { recursive: true, force: true }))))

/** What the compiler objects to. An example may define what it does not use. */
const typeErrors = async (name: string, checked: ReadonlyArray<Example>): Promise<ReadonlyArray<string>> => {
  const project = join(directory, `tsconfig.${name}.json`)
  const compilerOptions = { noUnusedLocals: false, noUnusedParameters: false }
  const files = checked.map(fileName)
  await writeFile(project, JSON.stringify({ extends: "../../tsconfig.json", compilerOptions, files, include: [] }))
  const { output } = await outcome(process.execPath, [tsc, "--pretty", "false", "-p", project], { cwd: directory })
  return output.split("\n").filter((line) => line !== "")
}

const execute = (example: Example, env: Readonly<Record<string, string>>) => {
  const file = join(directory, fileName(example))
  return isTest(example)
    ? run(process.execPath, [vitest, "run", "--config", join(directory, "vitest.config.ts"), file], { cwd: root, env })
    : run(process.execPath, ["--conditions=@effect-strata/source", file], { cwd: scratch, env })
}

describe("README.md", () => {
  it("has examples, which type-check", async () => {
    assert.isNotEmpty(examples)
    assert.deepStrictEqual(await typeErrors("readme", examples), [])
  })

  const programs = examples.filter(({ flags }) => !flags.includes("no-run"))

  it.live.each(programs.map((example) => [where(example), example] as const))("%s runs", ([, example]) =>
    withDatabase((url) => Effect.promise(() => execute(example, { DATABASE_URL: url })))
  )

  it("says how to start it and how to test it", () => {
    const lines = commands.flatMap((code) => code.split("\n"))
    assert.includeMembers(lines, ["npm install && npm start", "npm install && npm test"])
  })

  it("names only scripts that there are", () => {
    const named = commands.flatMap((code) => Array.from(code.matchAll(/\bnpm (?:run ([\w:-]+)|(test|start)\b)/g)))
    assert.includeMembers(
      Object.keys(manifest.scripts),
      named.map(([, script, shorthand]) => script ?? shorthand)
    )
  })
})

describe("the doc comments", () => {
  it("have examples, which type-check", async () => {
    assert.isNotEmpty(docExamples)
    assert.deepStrictEqual(await typeErrors("docs", docExamples), [])
  })
})
