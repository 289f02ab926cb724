/**
 * The tutorial, followed to the letter: a script reads it, writes its files and types its commands in an empty folder, with
 * the tarball of this package, and compares what each command prints. That is in memory, on PGlite and on a server.
 *
 * npm installs what the tutorial says, in the versions of this repository. The server is the tests' one.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { spawn } from "node:child_process"
import { mkdir, readFile, rm, writeFile } from "node:fs/promises"
import { delimiter, dirname, join } from "node:path"
import { commandsOf, compared, type ConsoleCommand } from "./package/consoles.ts"
import { type Example, examplesIn, fileNameOf, where } from "./package/examples.ts"
import { install, manifest, pack, temporaryDirectory } from "./package/project.ts"
import { root } from "./package/run.ts"
import { withDatabase } from "./support/database.ts"

const file = "resources/guides/tutorial.md"
const blocks = examplesIn(file, await readFile(join(root, file), "utf8"))

/** Where the reader is: the folder, and what is set and installed there. */
interface Desk {
  directory: string
  readonly env: Record<string, string>
  readonly packages: Set<string>
  readonly tarball: string
  readonly url: string
}

/** The lines of a text, in any order. */
const inAnyOrder = (text: string) => text.split("\n").sort().join("\n")

/** Types a command, and gives what it printed. It is interrupted once it has printed as many lines as there are before "^C". */
const type = ({ args: [program = "", ...args], output }: ConsoleCommand, { directory, env }: Desk): Promise<string> =>
  new Promise((resolve, reject) => {
    const isInterrupted = /^\^C$/m.test(output)
    const wanted = output.replace(/^\^C$/m, "")
    const child = spawn(program, args, {
      cwd: directory,
      env: {
        ...process.env,
        PATH: `${dirname(process.execPath)}${delimiter}${process.env["PATH"] ?? ""}`,
        NO_COLOR: "1",
        FORCE_COLOR: undefined,
        DATABASE_URL: undefined,
        ...env
      },
      stdio: ["ignore", "pipe", "pipe"]
    })
    let written = ""
    let isAsked = false
    const collect = (chunk: string) => {
      written += chunk
      if (!isInterrupted || isAsked) return
      // Once it has printed as much as is shown. Whether that is the same is compared afterwards.
      const { shown, wrote } = compared(inAnyOrder(wanted), inAnyOrder(written))
      isAsked = wrote.trim().split("\n").length >= shown.trim().split("\n").length && written.endsWith("\n")
      if (isAsked) child.kill("SIGINT")
    }
    child.stdout.setEncoding("utf8").on("data", collect)
    child.stderr.setEncoding("utf8").on("data", collect)
    child.once("error", reject)
    child.once("close", (code) => {
      const isRight = isInterrupted ? isAsked : code === 0
      if (isRight) resolve(written)
      else reject(new Error(`${[program, ...args].join(" ")} ended with ${code}:\n${written}`))
    })
  })

const follow = async (command: ConsoleCommand, desk: Desk): Promise<string> => {
  const { args, output, text } = command
  const [program, first = "", ...rest] = args
  if (program === "mkdir") await mkdir(join(desk.directory, first))
  else if (program === "cd") desk.directory = join(desk.directory, first)
  else if (program === "export") {
    const [name = "", value = ""] = first.split(/=(.*)/s)
    desk.env[name] = name === "DATABASE_URL" ? desk.url : value
  } else if (program === "npm" && first === "install") {
    for (const name of rest) if (!name.startsWith("-") && name !== manifest.name) desk.packages.add(name)
    await install(desk.directory, desk.tarball, [...desk.packages])
  } else {
    const { shown, wrote } = compared(output.replace(/^\^C$/m, ""), await type(command, desk))
    const isUnordered = /^\^C$/m.test(output)
    assert.strictEqual(isUnordered ? inAnyOrder(wrote) : wrote, isUnordered ? inAnyOrder(shown) : shown, text)
  }
  return text
}

const write = async (block: Example, { directory }: Desk) => {
  const { how, name } = fileNameOf(block)
  if (name === undefined) throw new Error(`${where(block)} is no file`)
  const before = await readFile(join(directory, name), "utf8").catch(() => undefined)
  assert.strictEqual(before !== undefined, how !== undefined, `${where(block)} ${name} is there already, or is not`)
  await writeFile(join(directory, name), `${how === "continued" ? before : ""}${block.code}\n`)
}

describe("the tutorial", () => {
  it.live(
    "does what it says",
    () =>
      withDatabase((url) =>
        Effect.promise(async () => {
          const directory = await temporaryDirectory()
          const packed = await temporaryDirectory()
          const typed: Array<string> = []
          try {
            const desk: Desk = { directory, env: {}, packages: new Set(), tarball: await pack(packed), url }
            for (const block of blocks) {
              if (block.language !== "console") await write(block, desk)
              else for (const command of commandsOf(block.code)) typed.push(await follow(command, desk))
            }
          } finally {
            await Promise.all([directory, packed].map((path) => rm(path, { recursive: true, force: true })))
          }
          assert.includeMembers(typed, ["node main.ts", "npx vitest run", "npx tsc"])
        })
      ),
    // npm installs, and builds, which takes minutes where others do so, too.
    1_200_000
  )
})
