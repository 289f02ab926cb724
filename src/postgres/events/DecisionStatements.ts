/** Statements for queries, put together once for each shape: how many items there are, and how many tags they have. */
import type { Fragment } from "effect/sql/Statement"
import type { QueryItem } from "../../Event.ts"
import type { PostgresDatabase, Runnable } from "../database/PostgresDatabase.ts"

/** How many shapes are remembered. An application has a few. */
const mostShapes = 256

type Items = ReadonlyArray<QueryItem>

/** A text with its parameters: values of the query by their places, or values that all queries of the shape have. */
interface Template {
  readonly text: string
  readonly parameters: ReadonlyArray<{ readonly place: number } | { readonly value: unknown }>
}

const shapeOf = (items: Items): string =>
  items.map(({ eventTypes, tags = [] }) => `${tags.length}${eventTypes === undefined ? "" : " of types"}`).join()

/** What of a query the statement has as parameters. */
const valuesOf = (items: Items): ReadonlyArray<string | ReadonlyArray<string>> => {
  const values: Array<string | ReadonlyArray<string>> = []
  for (const { eventTypes, tags = [] } of items) {
    values.push(...tags)
    if (eventTypes !== undefined) values.push(eventTypes)
  }
  return values
}

/** A query of the same shape, of which each value is another one. */
const exampleOf = (items: Items): Items =>
  items.map(({ eventTypes, tags }, item) => ({
    ...(eventTypes === undefined ? {} : { eventTypes: [`type ${item}`] }),
    ...(tags === undefined ? {} : { tags: tags.map((_, place) => `tag ${item} ${place}`) })
  }))

/** Makes the statements that `statement` describes. A read by two tags takes 40 us less than by putting its parts together. */
export const make = ({ sql }: PostgresDatabase["Service"], statement: (items: Items) => Fragment) => {
  const templates = new Map<string, Template>()
  const templateOf = (items: Items): Template => {
    const example = exampleOf(items)
    const values = valuesOf(example)
    const [text, parameters] = sql`${statement(example)}`.compile()
    return {
      text,
      parameters: parameters.map((value) => {
        const place = values.findIndex((other) => other === value)
        return place === -1 ? { value } : { place }
      })
    }
  }
  return (items: Items): Runnable => {
    const shape = shapeOf(items)
    let template = templates.get(shape)
    if (template === undefined) {
      template = templateOf(items)
      if (templates.size < mostShapes) templates.set(shape, template)
    }
    const { parameters, text } = template
    const values = valuesOf(items)
    return {
      compile: () => [
        text,
        parameters.map((parameter) => ("place" in parameter ? values[parameter.place] : parameter.value))
      ]
    }
  }
}
