/** A fenced code block. */
export interface Example {
  /** The file it is in. */
  readonly file: string
  /** The line of its fence, from 1. */
  readonly line: number
  readonly language: string
  /** The words after the language. */
  readonly flags: ReadonlyArray<string>
  readonly code: string
}

const fence = /^(\s*)(`{3,})(\w*)(.*)$/

/** The fenced code blocks of a Markdown text. */
export const examplesIn = (file: string, markdown: string): ReadonlyArray<Example> => {
  const found: Array<Example> = []
  const lines = markdown.split("\n")
  for (let start = 0; start < lines.length; start++) {
    const [, indent = "", ticks, language = "", info = ""] = fence.exec(lines[start] ?? "") ?? []
    if (ticks === undefined) continue
    const length = lines.slice(start + 1).findIndex((line) => line.trim() === ticks)
    if (length === -1) throw new Error(`${file}:${start + 1} the code block has no end`)
    const code = lines.slice(start + 1, start + 1 + length).map((line) => line.replace(indent, ""))
    found.push({
      file,
      line: start + 1,
      language,
      flags: info.split(/\s+/).filter((flag) => flag !== ""),
      code: code.join("\n")
    })
    start += length + 1
  }
  return found
}

/** The fenced code blocks in the doc comments of a TypeScript file. */
export const docExamplesIn = (file: string, source: string): ReadonlyArray<Example> => {
  let inside = false
  const markdown = source.split("\n").map((line) => {
    inside ||= /^\s*\/\*\*/.test(line)
    const text = inside ? line.replace(/^\s*(\/\*\*|\*(?!\/)) ?/, "") : ""
    if (line.includes("*/")) inside = false
    return text
  })
  return examplesIn(file, markdown.join("\n"))
}

export const where = ({ file, line }: Example): string => `${file}:${line}`

export const isTypeScript = ({ language }: Example): boolean => language === "ts" || language === "typescript"

/** Whether a block is for Vitest to run. */
export const isTest = ({ code }: Example): boolean =>
  /from "(vitest|@effect\/vitest|effect-strata\/testing)"/.test(code)

/** Why a block is not run: the words after "no-run". `undefined` for a block that is. */
export const whyNotRun = ({ flags: [first, ...reason] }: Example): string | undefined =>
  first === "no-run" ? reason.join(" ") : undefined

const naming = /^\/\/ ([\w./-]+\.ts)(, continued)?$/

/** The name of the file that a block is, if its first line says so: `// shop.ts`, or `// shop.ts, continued`. */
const nameOf = ({ code }: Example): { readonly name?: string; readonly continues: boolean } => {
  const [, name, continued] = naming.exec(code.split("\n", 1)[0] ?? "") ?? []
  return { ...(name === undefined ? {} : { name }), continues: continued !== undefined }
}

/** A file that the TypeScript blocks of a document make. */
export interface SourceFile {
  readonly name: string
  readonly text: string
  /** The block that it is, or the first of those that make it. */
  readonly example: Example
  /** Whether it is a block without a name of its own: a program, or a test. */
  readonly isProgram: boolean
}

/**
 * The files that the TypeScript blocks of a document make.
 *
 * A block that names a file in its first line is that file, and the blocks after it can import it. Any other block is a
 * program by itself. Code stands at the lines at which the document has it, so that messages name these.
 */
export const filesOf = (examples: ReadonlyArray<Example>): ReadonlyArray<SourceFile> => {
  const files = new Map<string, SourceFile>()
  for (const example of examples.filter(isTypeScript)) {
    const { continues, name = `L${example.line}.ts` } = nameOf(example)
    const before = files.get(name)
    if (continues !== (before !== undefined)) {
      throw new Error(
        `${where(example)} ${continues ? "continues a file that is not there" : "makes a file again"}: ${name}`
      )
    }
    const text = before?.text ?? ""
    const missing = example.line - (text.split("\n").length - 1)
    files.set(name, {
      name,
      text: `${text}${"\n".repeat(missing)}${example.code}\n`,
      example: before?.example ?? example,
      isProgram: nameOf(example).name === undefined
    })
  }
  return [...files.values()]
}
