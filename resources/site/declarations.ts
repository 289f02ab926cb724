/** What each public module exports, read from the declarations that are published. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import ts from "typescript"

/** A member of a service. */
export interface Member {
  readonly name: string
  readonly comment: string
  /** Its declaration, without the comment. */
  readonly code: string
}

export interface Export {
  readonly name: string
  readonly kind: "service" | "error" | "class" | "type" | "function" | "value"
  readonly comment: string
  /** Its declaration: of a service, without its members. */
  readonly code: string
  /** Those of a service. */
  readonly members: ReadonlyArray<Member>
  /** Those of a type that is an interface. */
  readonly fields: ReadonlyArray<Member>
}

export interface Module {
  /** How a program names it: `EventStore`, or of an entry point that is not the main one `postgres.EventStore`. */
  readonly name: string
  /** How a program imports it. */
  readonly importing: string
  readonly comment: string
  readonly exports: ReadonlyArray<Export>
}

/** An entry point of the package: what follows its name in an import, and its declarations. */
export interface EntryPoint {
  readonly path: string
  /** In the folder of the declarations. */
  readonly file: string
}

export interface Places {
  readonly declarations: string
  /** The files of which the declarations were made. */
  readonly sources: string
}

const unindent = (text: string): string => {
  const [first = "", ...rest] = text.split("\n")
  const indents = rest.filter((line) => line.trim() !== "").map((line) => line.length - line.trimStart().length)
  const indent = Math.min(...indents)
  return [first, ...rest.map((line) => line.slice(Math.min(indent, line.length)))].join("\n")
}

/** The text of a comment, as it was written: Markdown. */
const commentText = (comment: string): string =>
  comment
    .replace(/^\/\*\*\s?/, "")
    .replace(/\s*\*\/$/, "")
    .split("\n")
    .map((line) => line.replace(/^\s*\*( |$)/, ""))
    .join("\n")
    .trim()

const commentBefore = (node: ts.Node, file: ts.SourceFile): string => {
  const ranges = ts.getLeadingCommentRanges(file.text, node.getFullStart()) ?? []
  const last = ranges.findLast(({ pos }) => file.text.startsWith("/**", pos))
  return last === undefined ? "" : commentText(file.text.slice(last.pos, last.end))
}

/**
 * The comment at the top of a source file that has one of its own. The compiler leaves it out of the declarations together
 * with an import that they do not need.
 */
const sourceComment = (file: string, { declarations, sources }: Places): string => {
  const source = readFileSync(file.replace(declarations, sources).replace(/\.d\.ts$/, ".ts"), "utf8")
  const [comment] = /^\/\*\*[\s\S]*?\*\/(?=\s+(?:import|export) )/.exec(source) ?? []
  return comment === undefined ? "" : commentText(comment)
}

const textOf = (node: ts.Node): string => unindent(node.getText()).replace(/^export (declare )?/, "")

const membersOf = (nodes: ReadonlyArray<ts.TypeElement>): ReadonlyArray<Member> =>
  nodes.flatMap((node) =>
    node.name === undefined
      ? []
      : [
          {
            name: node.name.getText(),
            comment: commentBefore(node, node.getSourceFile()),
            code: unindent(node.getText())
          }
        ]
  )

/** The declaration that a class's heritage clause names: TypeScript declares `class X extends X_base`. */
const baseOf = (node: ts.ClassDeclaration, checker: ts.TypeChecker): ts.TypeReferenceNode | undefined => {
  const [clause] = node.heritageClauses ?? []
  const [base] = clause?.types ?? []
  const declaration = base === undefined ? undefined : checker.getSymbolAtLocation(base.expression)?.valueDeclaration
  const type = declaration !== undefined && ts.isVariableDeclaration(declaration) ? declaration.type : undefined
  return type !== undefined && ts.isTypeReferenceNode(type) ? type : undefined
}

interface Declared {
  readonly kind: Export["kind"]
  readonly code: string
  readonly members?: ReadonlyArray<Member>
  readonly fields?: ReadonlyArray<Member>
}

const ofClass = (node: ts.ClassDeclaration, checker: ts.TypeChecker): Declared => {
  const base = baseOf(node, checker)
  if (base === undefined) return { kind: "class", code: textOf(node) }
  const heading = `class ${node.name?.text ?? ""} extends`
  const shape = base.typeArguments?.at(-1)
  if (base.typeName.getText() === "Context.ServiceClass" && shape !== undefined && ts.isTypeLiteralNode(shape)) {
    return { kind: "service", code: `${heading} Context.Service`, members: membersOf(shape.members) }
  }
  const type = unindent(base.getText()).replaceAll(/import\("effect\/(\w+)"\)/g, "$1")
  const kind = type.includes("YieldableError") ? "error" : "class"
  return { kind, code: `${heading} ${type} {}` }
}

const ofDeclaration = (node: ts.Declaration, checker: ts.TypeChecker): Declared => {
  if (ts.isClassDeclaration(node)) return ofClass(node, checker)
  if (ts.isInterfaceDeclaration(node)) return { kind: "type", code: textOf(node), fields: membersOf(node.members) }
  if (ts.isTypeAliasDeclaration(node)) return { kind: "type", code: textOf(node) }
  if (ts.isFunctionDeclaration(node)) return { kind: "function", code: textOf(node) }
  const type = ts.isVariableDeclaration(node) ? node.type : undefined
  const isFunction = type !== undefined && ts.isFunctionTypeNode(type)
  return { kind: isFunction ? "function" : "value", code: `const ${textOf(node)}` }
}

/** A variable's comment stands before its statement. */
const statementOf = (node: ts.Declaration): ts.Node => (ts.isVariableDeclaration(node) ? node.parent.parent : node)

const exportOf = (name: string, symbol: ts.Symbol, checker: ts.TypeChecker): Export => {
  const declarations = symbol.declarations ?? []
  const declared = declarations.map((node) => ofDeclaration(node, checker))
  const comments = declarations.map((node) => commentBefore(statementOf(node), node.getSourceFile()))
  return {
    name,
    kind: declared[0]?.kind ?? "value",
    comment: comments.find((comment) => comment !== "") ?? "",
    code: declared.map(({ code }) => code).join("\ndeclare "),
    members: declared.flatMap(({ members }) => members ?? []),
    fields: declared.flatMap(({ fields }) => fields ?? [])
  }
}

/** The public modules, in the order of the entry points, and of their names. */
export const modules = (places: Places, entryPoints: ReadonlyArray<EntryPoint>): ReadonlyArray<Module> => {
  const files = entryPoints.map(({ file }) => join(places.declarations, file))
  const program = ts.createProgram(files, {
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    target: ts.ScriptTarget.ES2024,
    allowImportingTsExtensions: true,
    noEmit: true,
    strict: true,
    skipLibCheck: true
  })
  const checker = program.getTypeChecker()
  const resolved = (symbol: ts.Symbol) =>
    symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol
  const exportsOf = (module: ts.Symbol) =>
    checker
      .getExportsOfModule(module)
      .map((symbol) => ({ name: symbol.name, symbol: resolved(symbol) }))
      .toSorted((a, b) => a.name.localeCompare(b.name))
  const isModule = ({ symbol }: { readonly symbol: ts.Symbol }) => (symbol.flags & ts.SymbolFlags.ValueModule) !== 0

  const moduleOf = (name: string, importing: string, module: ts.Symbol): Module => ({
    name,
    importing,
    comment: (module.declarations ?? []).map((node) => sourceComment(node.getSourceFile().fileName, places)).join(""),
    exports: exportsOf(module)
      .filter((each) => !isModule(each))
      .map(({ name, symbol }) => exportOf(name, symbol, checker))
  })

  return entryPoints.flatMap(({ path, file }) => {
    const source = program.getSourceFile(join(places.declarations, file))
    const entry = source === undefined ? undefined : checker.getSymbolAtLocation(source)
    if (entry === undefined) return []
    const from = `"effect-strata${path === "" ? "" : `/${path}`}"`
    const whole = moduleOf(path, `import * as ${path} from ${from}`, entry)
    const namespaces = exportsOf(entry)
      .filter(isModule)
      .map(({ name, symbol }) =>
        moduleOf(path === "" ? name : `${path}.${name}`, `import { ${name} } from ${from}`, symbol)
      )
    return [...(whole.exports.length === 0 ? [] : [whole]), ...namespaces]
  })
}
