/** The numbered files of `resources/postgres`, and psql's notation in them. */
import { Effect } from "effect"
import { readdir, readFile } from "node:fs/promises"
import { Unexpected } from "../../StoreError.ts"
import { quote } from "../database/Identifier.ts"

/** Where the files are. */
export const directory = new URL("../../../resources/postgres/", import.meta.url)

/** One statement of a file, in psql's notation: `:"offsets"` stands for the name of that table, `:'offsets'` for it as a text. */
export interface Statement {
  readonly text: string
  /** Whether its rows are statements, which run after it: psql calls that `\gexec`. */
  readonly makesStatements: boolean
}

/** One numbered file. */
export interface Migration {
  readonly id: number
  readonly file: string
  /** The table that the file is about: a key of the option `tables`. */
  readonly table: string
  /** What the file makes beside the table: a function (`append`), or something optional (`notify_rows`). */
  readonly part: string
  readonly statements: ReadonlyArray<Statement>
}

/**
 * The text of a file without psql's commands: `\ir` includes another file, the others give the names their defaults. Only
 * `\gexec` stays.
 */
const read = async (file: string): Promise<string> => {
  const text = await readFile(new URL(file, directory), "utf8")
  const lines = text.split("\n").map((line) => {
    const [, included] = /^\\ir (\S+)$/.exec(line) ?? []
    return included === undefined ? (line.startsWith("\\") && line !== gexec ? "" : line) : read(included)
  })
  return (await Promise.all(lines)).join("\n")
}

const gexec = "\\gexec"

const statementOf = (text: string): Statement => {
  const trimmed = text.trimEnd()
  return trimmed.endsWith(`\n${gexec}`)
    ? { text: trimmed.slice(0, -gexec.length), makesStatements: true }
    : { text, makesStatements: false }
}

// The driver refuses several statements in one string, so a line of its own stands between them.
const statementsIn = async (file: string): Promise<ReadonlyArray<Statement>> =>
  (await read(file)).split(/^-- next$/m).map(statementOf)

const unreadable = (cause: unknown) =>
  new Unexpected({ message: "the files of resources/postgres cannot be read", cause })

/** The statements of a file that has no number. */
export const loadFile = (file: string): Effect.Effect<ReadonlyArray<Statement>, Unexpected> =>
  Effect.tryPromise({ try: () => statementsIn(file), catch: unreadable })

/** All files, in the order of their numbers. */
export const load: Effect.Effect<ReadonlyArray<Migration>, Unexpected> = Effect.tryPromise({
  try: async () => {
    const migrations: Array<Migration> = []
    for (const file of (await readdir(directory)).toSorted()) {
      const [, id, table, part = ""] = /^(\d+)_([a-z]+)(?:_(\w+?))?(?:_concurrently)?\.sql$/.exec(file) ?? []
      if (id === undefined || table === undefined) continue
      migrations.push({ id: Number(id), file, table, part, statements: await statementsIn(file) })
    }
    return migrations
  },
  catch: unreadable
})

/** Where psql replaces nothing, a comment or a quoted text; or else the name of a table, or of a function beside it. */
const quotedOrName = /--.*|:'([a-z]+)'|'(?:[^']|'')*'|\$(\w*)\$[^]*?\$\2\$|(?<!:):"([a-z]+)(_[a-z]+)?"/g

const quoteText = (text: string) => `'${text.replaceAll("'", "''")}'`

/** Puts the names of the tables and their functions into a statement in psql's notation, where psql would. */
export const withNames = (names: ReadonlyMap<string, string>, { text }: Statement): string =>
  text.replaceAll(quotedOrName, (found: string, asText = "", _tag: string, table = "", ending = "") => {
    const name = names.get(asText === "" ? table : asText)
    if (name === undefined) return found
    return asText === "" ? quote(name + ending) : quoteText(name)
  })

/** Whether a statement that a file has made holds up no writer while it runs, and so runs outside of a transaction. */
export const isConcurrent = (statement: string): boolean =>
  /^(?:CREATE|DROP) INDEX CONCURRENTLY |^ALTER TABLE \S.* VALIDATE CONSTRAINT /.test(statement)
