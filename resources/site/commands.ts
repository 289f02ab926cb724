/** The page of the command: the help that it prints, of each subcommand. */
import { Effect } from "effect"
import { PassThrough } from "node:stream"
import { text } from "node:stream/consumers"
import { run } from "../../src/cli/main.ts"
import type { Page } from "./pages.ts"

const helpOf = async (words: ReadonlyArray<string>): Promise<string> => {
  const stdout = new PassThrough()
  const { stdin, stderr } = process
  const help = run([...words, "--help"], { env: { NO_COLOR: "1" }, stdin, stdout, stderr })
  const [shown] = await Promise.all([text(stdout), Effect.runPromise(help).finally(() => stdout.end())])
  return shown.trim()
}

const subcommandsIn = (help: string): ReadonlyArray<string> => {
  const section = /^SUBCOMMANDS\n((?: {2}.*\n?)+)/m.exec(help)?.[1] ?? ""
  return section.split("\n").flatMap((line) => /^ {2}([a-z][\w-]*)/.exec(line)?.slice(1) ?? [])
}

/** What the help of each subcommand says again. */
const globalFlags = /^GLOBAL FLAGS\n(?: {2}.*\n)+\n?/m

const sections = async (words: ReadonlyArray<string>): Promise<ReadonlyArray<string>> => {
  const help = await helpOf(words)
  const shown = words.length === 0 ? help : help.replace(globalFlags, "").trim()
  const heading = `${"#".repeat(words.length + 1)} ${["strata", ...words].join(" ")}`
  const children: Array<string> = []
  for (const name of subcommandsIn(help)) children.push(...(await sections([...words, name])))
  return [`${heading}\n\n\`\`\`text\n${shown}\n\`\`\``, ...children]
}

export const commandsPage = async (): Promise<Page> => ({
  path: "reference/command",
  title: "The command",
  text: (await sections([])).join("\n\n")
})
