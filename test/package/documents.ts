/** Runs the blocks of a document in their order: its programs, its SQL, and the commands of its console blocks. */
import { Effect, Exit, Logger, Scope } from "effect"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { strata } from "../cli/harness.ts"
import { type Place, scenes } from "../guides/scenes.ts"
import { execute } from "../support/connection.ts"
import { commandsOf, compared } from "./consoles.ts"
import { type Example, isTest, type SourceFile, where, whyNotRun } from "./examples.ts"
import { outcome } from "./run.ts"

const programs = fileURLToPath(new URL("programs.process.ts", import.meta.url))

/** A document whose files are written. */
export interface Document {
  readonly blocks: ReadonlyArray<Example>
  readonly sources: ReadonlyArray<SourceFile>
  readonly pathOf: (source: SourceFile) => string
}

/** What a block shows, and what was written instead. */
export interface Difference {
  readonly where: string
  readonly shown: string
  readonly wrote: string
}

const differences = (where: string, output: string, written: string): ReadonlyArray<Difference> => {
  const { shown, wrote } = compared(output, written)
  return shown === wrote ? [] : [{ where, shown, wrote }]
}

/** What each program wrote, by its path. They run one after the other, in one process. */
const writtenBy = async (paths: ReadonlyArray<string>, { cwd, url }: Place) => {
  const args = ["--conditions=@effect-strata/source", programs, ...paths]
  const { output, status } = await outcome(process.execPath, args, { cwd, env: { DATABASE_URL: url } })
  if (status !== 0) throw new Error(`ended with ${status}:\n${output.replaceAll("\u0001", "")}`)
  return new Map(
    output
      .split("\u0001")
      .slice(1)
      .map((part) => {
        const end = part.indexOf("\n")
        return [part.slice(0, end), part.slice(end + 1)] as const
      })
  )
}

/** Runs programs that follow each other, and compares what they print. */
const runPrograms = async (document: Document, group: ReadonlyArray<Example>, place: Place) => {
  const pathOf = (block: Example | undefined) => {
    const source = document.sources.find(({ example, isProgram }) => isProgram && example === block)
    return source === undefined ? undefined : document.pathOf(source)
  }
  const paths = group.map(pathOf).filter((path) => path !== undefined)
  const written = await writtenBy(paths, place)
  return group.flatMap((block, index) => {
    if (block.language !== "text") return []
    return differences(where(block), block.code, written.get(pathOf(group[index - 1]) ?? "") ?? "")
  })
}

/** A file among the arguments of a command, which is in the document's directory. */
const fileIn = (cwd: string) => (argument: string) =>
  /^(?:[\w-]+\.(?:jsonl|db)|[\w-]+-events)$/.test(argument) ? join(cwd, argument) : argument

/** Runs the commands of a console block, and compares what they write. */
const runCommands = async (block: Example, { cwd, url }: Place) => {
  const found: Array<Difference> = []
  for (const { args, output, text } of commandsOf(block.code)) {
    const [command, ...rest] = args
    if (command === "export") continue
    if (command !== "strata") throw new Error(`${where(block)} has a command that is not run: ${text}`)
    const { stderr, stdout } = await Effect.runPromise(strata(rest.map(fileIn(cwd)), { url }))
    found.push(...differences(`${where(block)} ${text}`, output, (stdout + stderr).replaceAll(join(cwd, "/"), "")))
  }
  return found
}

/** Runs the statements of a block of SQL, as the owner of the tables. */
const runStatements = async ({ code }: Example, { url }: Place): Promise<ReadonlyArray<Difference>> => {
  const statements = code.replaceAll(/--.*/g, "").split(";")
  await Effect.runPromise(
    execute(
      url,
      statements.map((text) => text.trim()).filter((text) => text !== "")
    )
  )
  return []
}

/** Programs that follow each other are a group, with what they print, and each other block is one. */
const groupsOf = ({ blocks, sources }: Document) => {
  const groups: Array<Array<Example>> = []
  const isProgram = (block: Example) => sources.some((source) => source.isProgram && source.example === block)
  const isAlone = ({ language }: Example) => ["console", "sql", "scene"].includes(language)
  for (const block of blocks) {
    const isOutput = block.language === "text" && block.flags.includes("prints")
    if (whyNotRun(block) !== undefined || !(isAlone(block) || isOutput || (isProgram(block) && !isTest(block))))
      continue
    const last = groups.at(-1)
    if (isAlone(block) || last?.[0] === undefined || isAlone(last[0])) groups.push([block])
    else last.push(block)
  }
  return groups
}

/** Runs all blocks of a document that can run, and returns where something else is written than shown. */
export const runDocument = async (document: Document, place: Place): Promise<ReadonlyArray<Difference>> => {
  const found: Array<Difference> = []
  let stage = await Effect.runPromise(Scope.make())
  try {
    for (const group of groupsOf(document)) {
      const [first] = group
      if (first?.language === "console") found.push(...(await runCommands(first, place)))
      else if (first?.language === "sql") found.push(...(await runStatements(first, place)))
      else if (first?.language === "scene") {
        await Effect.runPromise(Scope.close(stage, Exit.void))
        stage = await Effect.runPromise(Scope.make())
        const scene = scenes[first.code]
        if (scene === undefined) throw new Error(`${where(first)} names no scene`)
        // What goes wrong in a scene is meant to, and logged.
        const silent = Effect.provide(scene(place), Logger.layer([]))
        await Effect.runPromise(Effect.provideService(silent, Scope.Scope, stage))
      } else found.push(...(await runPrograms(document, group, place)))
    }
  } finally {
    await Effect.runPromise(Scope.close(stage, Exit.void))
  }
  return found
}
