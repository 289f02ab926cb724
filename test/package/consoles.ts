/** Console blocks: the commands in them, and whether what a command wrote is what a document shows. */

/** A command of a block, and what the block shows of its output. */
export interface ConsoleCommand {
  readonly args: ReadonlyArray<string>
  readonly text: string
  readonly output: string
}

/** The words of a line of a shell, with quotes and without anything else that a shell knows. */
const wordsOf = (line: string): ReadonlyArray<string> =>
  [...line.matchAll(/(?:[^\s'"]+|'[^']*'|"[^"]*")+/g)].map(([word]) =>
    word.replaceAll(/'([^']*)'|"([^"]*)"/g, (_, single?: string, double?: string) => single ?? double ?? "")
  )

/** The commands of a block: the lines that begin with "$ ". */
export const commandsOf = (code: string): ReadonlyArray<ConsoleCommand> =>
  `\n${code}`
    .split("\n$ ")
    .slice(1)
    .map((part) => {
      const [text = "", ...output] = part.split("\n")
      return { text, args: wordsOf(text), output: output.join("\n") }
    })

/** What differs from run to run, and what is shown instead. Longer forms first. */
const masks: ReadonlyArray<readonly [RegExp, string]> = [
  [/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, "<id>"],
  [/\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d(?::?\d\d)?)?/g, "<time>"],
  [/\b\d{4}-\d\d-\d\d \d\d:\d\d\b/g, "<time>"],
  [/\bpostgres(?:ql)?:\/\/\S+/g, "<url>"],
  [/\bPostgreSQL \d+(?:\.\d+)?/g, "PostgreSQL <version>"],
  [/\bdatabase \w+, role \w+/g, "database <name>, role <name>"],
  [/\bsystem \d+, timeline \d+/g, "system <id>, timeline <n>"],
  [/\b(pid|process) \d+/g, "$1 <pid>"],
  [/\bpg_terminate_backend\(\d+\)/g, "pg_terminate_backend(<pid>)"],
  [/migration \d+, this version knows none above \d+/g, "migration <n>, this version knows none above <n>"],
  [/[\d,]+ events of (\d+) writers, [\d,]+ versions/g, "<n> events of $1 writers, <n> versions"],
  // The tests' server has no fsync, which is a problem, and others may be connected to it.
  [/^strata: \d+ problems? found/g, "strata: <n> problems found"],
  [/\b\d+ connections?\b/g, "<n> connections"],
  [/\b\d[\d,.]*( ?)(bytes|kB|MB|GB|B)\b/g, "<size>"],
  [/\b\d[\d,.]*( ?)(ms|s|m|h|seconds?|minutes?|hours?|days?)\b(?: \d+(ms|s|m|h)\b)*/g, "<duration>"]
]

/** A line without what differs, and without the width of columns, which depends on that. */
const masked = (line: string) =>
  masks
    .reduce((text, [pattern, instead]) => text.replaceAll(pattern, instead), line)
    .replaceAll(/ {2,}/g, "  ")
    .trimEnd()

/** How far work has come, which a command says where it takes long, as it does on a busy machine. */
const progress = /, \d+%$/

const linesOf = (text: string) =>
  text
    .split("\n")
    .map(masked)
    .filter((line) => line !== "" && !progress.test(line))

/**
 * What a document shows and a command wrote, so that they can be compared: masked, and without the lines for which the
 * document has "..".
 */
export const compared = (shown: string, wrote: string): { readonly shown: string; readonly wrote: string } => {
  const expected = linesOf(shown)
  const actual = linesOf(wrote)
  const kept: Array<string> = []
  let at = 0
  for (const [index, line] of expected.entries()) {
    if (line !== "..") {
      kept.push(actual[at] ?? "")
      at++
      continue
    }
    kept.push("..")
    const next = expected[index + 1]
    while (at < actual.length && actual[at] !== next) at++
  }
  return { shown: expected.join("\n"), wrote: [...kept, ...actual.slice(at)].join("\n") }
}
