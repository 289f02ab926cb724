/**
 * A fast path through a schema of arguments, derived from the schema itself, so that the rules of validity stand once.
 *
 * **Details**
 *
 * The fast path takes a third to a sixth of the schema's time, because it makes no effects and no issues. It decides only
 * where it is certain, and then gives what the schema gives. It leaves everything else to the schema: invalid input, so that
 * the error names each field, and also valid input in a form that it does not know (class instances, unions of structs that
 * no literal tells apart, options). `test/memory/fastPath.test.ts` compares the two for the arguments of every operation.
 */
import { Clock, Effect, Exit, Predicate, Schema, type SchemaAST } from "effect"

/** What a reader returns for a value that it leaves to the schema. */
const undecided = Symbol("undecided")

/** Gives the value that the schema makes of the input, or `undecided`. */
type Reader = (input: unknown, clock: Clock.Clock) => unknown

const decideNothing: Reader = () => undecided

// Defaults

const readingsOfClock = new WeakMap<object, (clock: Clock.Clock) => unknown>()

/** A constructor default that is read from the clock: as an effect for the schema, and as it is for the fast path. */
export const fromClock = <A>(read: (clock: Clock.Clock) => A): Effect.Effect<A> => {
  const effect = Clock.clockWith((clock) => Effect.sync(() => read(clock)))
  readingsOfClock.set(effect, read)
  return effect
}

const defaultOf = (ast: SchemaAST.AST): Reader | undefined => {
  const effect = ast.context?.constructorDefault
  if (effect === undefined) return undefined
  if (Exit.isExit(effect)) return Exit.isSuccess(effect) ? () => effect.value : decideNothing
  const read = readingsOfClock.get(effect)
  return read === undefined ? decideNothing : (_, clock) => read(clock)
}

// Checks

const options: SchemaAST.ParseOptions = {}

const filtersOf = (checks: ReadonlyArray<SchemaAST.Check<unknown>>): ReadonlyArray<SchemaAST.Filter<unknown>> =>
  checks.flatMap((check) => (check._tag === "Filter" ? [check] : filtersOf(check.checks)))

/** The reader, followed by the checks of the schema. */
const checked = (read: Reader, ast: SchemaAST.AST): Reader =>
  filtersOf(ast.checks ?? []).reduce<Reader>(
    (before, filter) => (input, clock) => {
      const value = before(input, clock)
      return value === undecided || filter.run(value, ast, options) !== undefined ? undecided : value
    },
    read
  )

// Values without parts

const ofType =
  (type: "string" | "number" | "bigint" | "boolean"): Reader =>
  (input) =>
    typeof input === type ? input : undecided

/** A declaration decides where it says at once that the input itself is the value. */
const readerOfDeclaration = (ast: SchemaAST.Declaration): Reader => {
  if (ast.typeParameters.length > 0) return decideNothing
  const parse = ast.run([])
  return (input) => {
    const parsed = parse(input, ast, options)
    return Exit.isExit(parsed) && Exit.isSuccess(parsed) && parsed.value === input ? input : undecided
  }
}

/**
 * The first member that takes the input decides. From the first member on that the fast path does not know, the schema decides:
 * such a member takes the input only if no earlier member does.
 */
const readerOfUnion = (ast: SchemaAST.Union): Reader => {
  if (ast.options?.mode === "oneOf") return decideNothing
  const members: Array<Reader> = []
  for (const member of ast.types) {
    const reader = readerOfLeaf(member)
    if (reader === decideNothing) break
    members.push(reader)
  }
  return (input, clock) => {
    for (const read of members) {
      const value = read(input, clock)
      if (value !== undecided) return value
    }
    return undecided
  }
}

const readerOfLeaf = (ast: SchemaAST.AST): Reader => {
  if (ast.encoding !== undefined) return decideNothing
  const read = ((): Reader => {
    switch (ast._tag) {
      case "String":
        return ofType("string")
      case "Number":
        return ofType("number")
      case "BigInt":
        return ofType("bigint")
      case "Boolean":
        return ofType("boolean")
      case "Literal":
        return (input) => (input === ast.literal ? input : undecided)
      case "Declaration":
        return readerOfDeclaration(ast)
      case "Union":
        return readerOfUnion(ast)
      default:
        return decideNothing
    }
  })()
  return read === decideNothing ? read : checked(read, ast)
}

// Values with parts

/** Whether a value is as an object literal makes it: its prototype brings no fields. */
const isLiteral = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype

interface Field {
  readonly name: string
  readonly read: Reader
  readonly isOptional: boolean
  readonly default: Reader | undefined
}

const readerOfStruct =
  (fields: ReadonlyArray<Field>, prototype: object | null): Reader =>
  (input, clock) => {
    if (!isLiteral(input)) return undecided
    const made: Record<string, unknown> = Object.create(prototype)
    for (let index = 0; index < fields.length; index++) {
      const field = fields[index]
      if (field === undefined) continue
      let given = input[field.name]
      if (given === undefined) {
        if (field.default !== undefined) given = field.default(input, clock)
        else if (field.isOptional && !(field.name in input)) continue
        else return undecided
        if (given === undecided) return undecided
      }
      const value = field.read(given, clock)
      if (value === undecided) return undecided
      made[field.name] = value
    }
    return made
  }

const readerOfArray =
  (read: Reader): Reader =>
  (input, clock) => {
    if (!Array.isArray(input)) return undecided
    const made: Array<unknown> = []
    for (let index = 0; index < input.length; index++) {
      const value = read(input[index], clock)
      if (value === undecided) return undecided
      made.push(value)
    }
    return made
  }

/** A record whose keys are text. A key that the schema would leave out is not decided here, nor one that is a setter. */
const readerOfRecord =
  (readKey: Reader, readValue: Reader): Reader =>
  (input, clock) => {
    if (!isLiteral(input)) return undecided
    const made: Record<string, unknown> = {}
    for (const key of Object.keys(input)) {
      if (key === "__proto__" || readKey(key, clock) === undecided) return undecided
      const value = readValue(input[key], clock)
      if (value === undecided) return undecided
      made[key] = value
    }
    return made
  }

/** Each of the structs has another literal as the field `tag`: the struct that has the literal of the input decides. */
const readerOfTagged =
  (tag: string, members: ReadonlyMap<unknown, Reader>): Reader =>
  (input, clock) => {
    const read = isLiteral(input) ? members.get(input[tag]) : undefined
    return read === undefined ? undecided : read(input, clock)
  }

/**
 * A schema that is part of another one: the `key` or the `value` of a record, the `value` (the items) of an array, or the
 * `schema` that is optional or has a default.
 */
const partOf = (schema: object, name: "key" | "value" | "schema"): Schema.Constraint | undefined => {
  const part = Predicate.hasProperty(schema, name) ? schema[name] : undefined
  return Schema.isSchema(part) ? part : undefined
}

const fieldsOf = (schema: object): ReadonlyArray<Field> | undefined => {
  if (!Predicate.hasProperty(schema, "fields") || !Predicate.isObject(schema.fields)) return undefined
  const fields: Array<Field> = []
  for (const [name, part] of Object.entries(schema.fields)) {
    if (!Schema.isSchema(part)) return undefined
    const isOptional = part.ast.context?.isOptional ?? false
    fields.push({ name, read: readerOf(part), isOptional, default: defaultOf(part.ast) })
  }
  return fields
}

const literalOf = (field: unknown): SchemaAST.LiteralValue | undefined =>
  Schema.isSchema(field) && field.ast._tag === "Literal" ? field.ast.literal : undefined

/** The reader of a union of structs that a literal tells apart. */
const taggedReaderOf = (schema: object): Reader | undefined => {
  const members = Predicate.hasProperty(schema, "members") && Array.isArray(schema.members) ? schema.members : []
  const structs: ReadonlyArray<Schema.Constraint> = members.filter(Schema.isSchema)
  const fields = structs.map((struct) =>
    Object.entries((Predicate.hasProperty(struct, "fields") && struct.fields) || {})
  )
  const tag = fields[0]?.find(([, field]) => literalOf(field) !== undefined)?.[0]
  if (tag === undefined) return undefined
  const readers = new Map<unknown, Reader>()
  for (const [index, struct] of structs.entries()) {
    readers.set(literalOf(new Map(fields[index]).get(tag)), readerOf(struct))
  }
  return readers.size === members.length && !readers.has(undefined) ? readerOfTagged(tag, readers) : undefined
}

const readerOf = (schema: Schema.Constraint): Reader => {
  const { ast } = schema
  const fields = fieldsOf(schema)
  if (fields !== undefined) {
    if (ast._tag === "Objects") {
      return ast.indexSignatures.length > 0 ? decideNothing : checked(readerOfStruct(fields, Object.prototype), ast)
    }
    const [struct] = ast._tag === "Declaration" ? ast.typeParameters : []
    if (struct === undefined || typeof schema !== "function") return decideNothing
    // What `new` would make: an instance whose constructor adds nothing to the fields.
    const prototype: unknown = Reflect.get(schema, "prototype")
    if (!Predicate.isObject(prototype)) return decideNothing
    return checked(checked(readerOfStruct(fields, prototype), struct), ast)
  }
  if (ast._tag === "Arrays") {
    const item = partOf(schema, "value")
    if (item !== undefined && ast.elements.length === 0 && ast.encoding === undefined) {
      return checked(readerOfArray(readerOf(item)), ast)
    }
  }
  if (ast._tag === "Objects" && ast.propertySignatures.length === 0 && ast.indexSignatures.length === 1) {
    const [key, value] = [partOf(schema, "key"), partOf(schema, "value")]
    if (key?.ast._tag === "String" && value !== undefined && ast.encoding === undefined) {
      return checked(readerOfRecord(readerOf(key), readerOf(value)), ast)
    }
  }
  if (ast._tag === "Union" && ast.encoding === undefined) {
    const tagged = taggedReaderOf(schema)
    if (tagged !== undefined) return checked(tagged, ast)
  }
  const inner = partOf(schema, "schema")
  return inner !== undefined && inner.ast._tag === ast._tag && inner.ast.checks === ast.checks
    ? readerOf(inner)
    : readerOfLeaf(ast)
}

// The fast path

// The compiler cannot see that a reader makes what its schema makes. This guard tells it, and `fastPath.test.ts` checks it.
const isMade = <S extends Schema.Constraint>(value: unknown, _schema: S): value is S["Type"] => value !== undecided

/** One reader for each schema, for all stores that are made. */
const readers = new WeakMap<Schema.Constraint, Reader>()

/** The value that the schema makes of an input, or `undefined` where the schema has to decide. */
export type FastPath<S extends Schema.Constraint> = (input: unknown, clock: Clock.Clock) => S["Type"] | undefined

/** Derives the fast path of a schema, when it is first used. */
export const fastPath = <S extends Schema.Constraint>(schema: S): FastPath<S> => {
  let read: Reader | undefined
  return (input, clock) => {
    if (read === undefined) {
      read = readers.get(schema) ?? readerOf(schema)
      readers.set(schema, read)
    }
    const value = read(input, clock)
    return isMade(value, schema) ? value : undefined
  }
}
