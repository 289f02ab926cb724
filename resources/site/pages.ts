/** The pages of the reference, in Markdown, of what the declarations say. */
import { format } from "oxfmt"
import type { Export, Member, Module } from "./declarations.ts"

export interface Page {
  /** Its path in the site, without an extension. */
  readonly path: string
  readonly title: string
  readonly text: string
}

export const anchorOf = (name: string, member?: string): string => (member === undefined ? name : `${name}.${member}`)

export const pathOf = (module: Module): string => `reference/${module.name.replace(".", "/")}`

/** A declaration as this project formats code. It is no statement by itself, so it is made one and taken out again. */
const pretty = async (code: string): Promise<string> => {
  const [before, after] = code.startsWith("readonly ") ? ["interface X {\n", "\n}"] : ["declare ", ""]
  const options = { semi: false, printWidth: 76, trailingComma: "none" } as const
  const { code: formatted, errors } = await format("declaration.ts", `${before}${code}${after}`, options)
  if (errors.length > 0) return code
  const text = formatted.trimEnd()
  if (after === "") return text.replaceAll(/^declare /gm, "")
  return text
    .split("\n")
    .slice(1, -1)
    .map((line) => line.slice(2))
    .join("\n")
}

const block = async (code: string): Promise<string> => `\`\`\`ts\n${await pretty(code)}\n\`\`\``

const memberText = async (name: string, member: Member): Promise<ReadonlyArray<string>> => [
  `### ${member.name} {#${anchorOf(name, member.name)}}`,
  await block(member.code),
  member.comment
]

const exportText = async (each: Export): Promise<string> => {
  const members = await Promise.all(each.members.map((member) => memberText(each.name, member)))
  return [
    `## ${each.name} {#${anchorOf(each.name)}}`,
    `*${each.kind}*`,
    each.comment,
    each.kind === "service" ? "" : await block(each.code),
    ...members.flat()
  ]
    .filter((part) => part !== "")
    .join("\n\n")
}

/** What a reader looks for first: the service, what makes and runs things, then values, types, classes and errors. */
const order: ReadonlyArray<Export["kind"]> = ["service", "function", "value", "class", "type", "error"]

const inOrder = (exports: ReadonlyArray<Export>): ReadonlyArray<Export> =>
  order.flatMap((kind) => exports.filter((each) => each.kind === kind))

/** One page of a module. */
export const modulePage = async (module: Module): Promise<Page> => {
  const exports = await Promise.all(inOrder(module.exports).map(exportText))
  return {
    path: pathOf(module),
    title: module.name,
    text: [`# ${module.name} {#module}`, `\`\`\`ts\n${module.importing}\n\`\`\``, module.comment, ...exports].join(
      "\n\n"
    )
  }
}
