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
