/** What is wrong with a value that was to be encoded: where a plain object stands for an instance of a class, that is said. */
import { Effect, Exit, Option, Predicate, Schema, SchemaAST, type SchemaIssue } from "effect"
import { invalidInput, type Issue } from "../InvalidInput.ts"

type Path = ReadonlyArray<PropertyKey>

/** The class, if the schema is one of instances. */
const classOf = (ast: SchemaAST.AST) => {
  const identifier = SchemaAST.resolveIdentifier(ast)
  const [fields] = ast._tag === "Declaration" ? ast.typeParameters : []
  return identifier === undefined || fields?._tag !== "Objects"
    ? undefined
    : { name: identifier.split("/").at(-1) ?? identifier, fields: SchemaAST.toType(fields) }
}

const isPlain = (value: unknown): value is object => {
  if (!Predicate.isObject(value) || Array.isArray(value)) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

const at = (value: unknown, path: Path): unknown =>
  path.reduce<unknown>((part, key) => (Predicate.hasProperty(part, key) ? part[key] : undefined), value)

/** Where the schemas of classes have refused a value. */
const refusals = (
  issue: SchemaIssue.Issue,
  path: Path = []
): ReadonlyArray<{ readonly path: Path; readonly ast: SchemaAST.AST }> => {
  switch (issue._tag) {
    case "InvalidType":
      return [{ path, ast: issue.ast }]
    case "Pointer":
      return refusals(issue.issue, [...path, ...issue.path])
    case "Filter":
    case "Encoding":
      return refusals(issue.issue, path)
    case "Composite":
    case "AnyOf":
      return issue.issues.flatMap((part) => refusals(part, path))
    default:
      return []
  }
}

const fieldOf = (path: Path) => path.map(String).join(".")

/** What is wrong with the fields of a plain object, were they given to the constructor. */
const issuesOfFields = (fields: SchemaAST.AST, value: object, path: Path): ReadonlyArray<Issue> => {
  const made = Effect.runSyncExit(
    Schema.make<Schema.Schema<unknown>>(fields).makeEffect(value, { parseOptions: { errors: "all" } })
  )
  const failed = Exit.isFailure(made) ? Option.getOrUndefined(Exit.findErrorOption(made)) : undefined
  return failed === undefined
    ? []
    : encodingIssues(failed, value).map(({ field, message }) => ({
        field: field === "" ? fieldOf(path) : [fieldOf(path), field].filter((part) => part !== "").join("."),
        message
      }))
}

/** Where a plain object stands for an instance, and what is wrong with its fields. */
export const plainObjects = (issue: SchemaIssue.Issue, value: unknown): ReadonlyArray<Issue> =>
  refusals(issue).flatMap(({ ast, path }) => {
    const instances = classOf(ast)
    const part = at(value, path)
    if (instances === undefined || !isPlain(part)) return []
    const message = `Expected ${instances.name}, found a plain object: use new ${instances.name}(..)`
    const whole: Issue = { field: fieldOf(path), message }
    return [whole].concat(issuesOfFields(instances.fields, part, path))
  })

/** What the schema has found wrong with a value that it was to encode. */
export const encodingIssues = (issue: SchemaIssue.Issue, value: unknown): ReadonlyArray<Issue> => {
  const plain = plainObjects(issue, value)
  const others = invalidInput("", "", issue).issues.filter(({ field }) => !plain.some((told) => told.field === field))
  return [...plain, ...others]
}
