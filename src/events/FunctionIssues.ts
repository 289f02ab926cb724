/**
 * What is wrong with a definition that lacks its functions, or has them under another name. The compiler refuses it; plain
 * JavaScript, or an option of type `object`, comes this far, and events would be passed in silence.
 */
import { Predicate, Schema } from "effect"
import type { Issue } from "../InvalidInput.ts"
import type { EventView } from "./View.ts"

const listOf = (names: ReadonlyArray<string>): string => names.map((name) => `\`${name}\``).join(", ")

/** What the caller has given, as a part of a message. */
const given = (definition: object): string => `the options are ${listOf(Object.keys(definition))}`

/** Options of the definition that have to be functions, and are none. */
export const notFunctions = (definition: object, functions: Readonly<Record<string, unknown>>): ReadonlyArray<Issue> =>
  Object.entries(functions).flatMap(([field, value]) =>
    typeof value === "function" ? [] : [{ field, message: `Expected a function; ${given(definition)}` }]
  )

/** The same for an option that has to be a schema. */
export const notSchemas = (definition: object, schemas: Readonly<Record<string, unknown>>): ReadonlyArray<Issue> =>
  Object.entries(schemas).flatMap(([field, value]) =>
    Schema.isSchema(value) ? [] : [{ field, message: `Expected a schema; ${given(definition)}` }]
  )

/** What is wrong where a definition has to have one of these options. */
export const notOneOf = (definition: object, options: Readonly<Record<string, unknown>>): ReadonlyArray<Issue> => {
  const names = Object.keys(options)
  const found = names.filter((name) => options[name] !== undefined)
  if (found.length === 1) return []
  const [field = ""] = names
  const message = `Expected one of ${listOf(names)}`
  return [
    { field, message: found.length === 0 ? `${message}; ${given(definition)}` : `${message}, found ${listOf(found)}` }
  ]
}

/** What is wrong with functions by the tags of a view: a tag that it does not have, or one that is left out. */
export const wrongTags = (
  field: string,
  byTag: unknown,
  view: EventView<unknown, unknown>,
  isPartial: boolean
): ReadonlyArray<Issue> => {
  if (!Predicate.isObject(byTag)) return [{ field, message: "Expected functions by the tags of the view" }]
  const tags = Object.keys(byTag)
  const wrong = Object.entries(byTag).flatMap(([tag, value]) => {
    if (typeof value !== "function") return [{ field: `${field}.${tag}`, message: "Expected a function" }]
    const isUnknown = view.typesOf([tag])?.length === 0
    return isUnknown ? [{ field: `${field}.${tag}`, message: "Expected the tag of a class of the view" }] : []
  })
  const covered = view.typesOf(tags)
  const left =
    isPartial || covered === undefined ? [] : (view.typesOf() ?? []).filter((type) => !covered.includes(type))
  return left.length === 0 ? wrong : [...wrong, { field, message: `Expected a function for ${listOf(left)}, too` }]
}
