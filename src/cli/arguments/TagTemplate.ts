/** Tags of events as a text with places for values of the event: `course:{course}`. */
import { Result, Schema } from "effect"
import { maxTags, type StoredEvent, Tag } from "../../EventStore.ts"

/** A text, and after it the path of a value. The last part has none. */
interface Part {
  readonly text: string
  readonly path: ReadonlyArray<string> | undefined
}

export interface TagTemplate {
  readonly source: string
  readonly parts: ReadonlyArray<Part>
}

/** Where a value of the event itself begins, instead of one of its data. */
const ofEvent = { "@aggregateId": "aggregateId", "@metadata": "metadata" } as const

const isOfEvent = (name: string): name is keyof typeof ofEvent => Object.hasOwn(ofEvent, name)

/** Reads a template, or says what was expected. */
export const parse = (source: string): Result.Result<TagTemplate, string> => {
  if (source === "" || /[{}]/.test(source.replaceAll(/\{[^{}]*\}/g, ""))) {
    return Result.fail("a tag such as course:{course}, with { and } in pairs")
  }
  const parts = [...source.matchAll(/([^{}]*)(?:\{([^{}]*)\})?/g)].map(([, text = "", place]): Part => ({
    text,
    path: place?.split(".")
  }))
  for (const { path = [] } of parts) {
    if (path.includes("")) return Result.fail("the name of a field between { and }, or several with . between them")
    const [first = "", ...rest] = path
    const isKnown = !first.startsWith("@") || (isOfEvent(first) && (first === "@metadata") === rest.length > 0)
    if (!isKnown) return Result.fail("a field of the data, {@aggregateId}, or {@metadata.field}")
  }
  return Result.succeed({ source, parts })
}

/** The values at a path, each as a text. Lists on the way have several. An object or null is no value. */
const valuesAt = (value: unknown, path: ReadonlyArray<string>): ReadonlyArray<string> => {
  if (Array.isArray(value)) return value.flatMap((item) => valuesAt(item, path))
  const [name, ...rest] = path
  if (name === undefined) {
    return typeof value === "object" || value === undefined ? [] : [String(value)]
  }
  const next: unknown =
    typeof value === "object" && value !== null && Object.hasOwn(value, name) ? Reflect.get(value, name) : undefined
  return valuesAt(next, rest)
}

const valuesOf = (event: StoredEvent, path: ReadonlyArray<string>): ReadonlyArray<string> => {
  const [first = "", ...rest] = path
  return isOfEvent(first) ? valuesAt(event[ofEvent[first]], rest) : valuesAt(event.data, path)
}

const isTag = Schema.is(Tag)

/**
 * The tags that a template gives the event: none where a value is missing, and several where a value is a list. Fails with what
 * is wrong with them.
 */
export const tagsOf = (
  { parts, source }: TagTemplate,
  event: StoredEvent
): Result.Result<ReadonlyArray<string>, string> => {
  let tags: ReadonlyArray<string> = [""]
  for (const { path, text } of parts) {
    const values = path === undefined ? [""] : valuesOf(event, path)
    // A list of lists has too many long before all of them are made.
    tags = tags.slice(0, maxTags + 1).flatMap((tag) => values.map((value) => `${tag}${text}${value}`))
  }
  const wrong = tags.find((tag) => !isTag(tag))
  return wrong === undefined
    ? Result.succeed(tags)
    : Result.fail(`${source} gives a tag that is empty, has more than 255 characters, or one that cannot be stored`)
}
