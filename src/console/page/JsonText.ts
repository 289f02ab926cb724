/** JSON as it stands there: each number with all of its digits, which `JSON.parse` would round. */

export type Node =
  | { readonly kind: "object"; readonly entries: ReadonlyArray<readonly [key: string, value: Node]> }
  | { readonly kind: "array"; readonly items: ReadonlyArray<Node> }
  | { readonly kind: "string" | "number" | "word"; readonly text: string }

const number = /-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/y
const word = /true|false|null/y
const string = /"(?:[^"\\]|\\.)*"/y
const space = /\s*/y

/** Reads valid JSON, as the server has checked it. `undefined` if it is none. */
export const parse = (json: string): Node | undefined => {
  let place = 0

  const take = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = place
    const found = pattern.exec(json)?.[0]
    if (found !== undefined) place += found.length
    return found
  }

  const skip = (character: string): boolean => {
    take(space)
    if (json[place] !== character) return false
    place++
    take(space)
    return true
  }

  const list = <A>(end: string, item: () => A | undefined): ReadonlyArray<A> | undefined => {
    const items: Array<A> = []
    if (skip(end)) return items
    do {
      const next = item()
      if (next === undefined) return undefined
      items.push(next)
    } while (skip(","))
    return skip(end) ? items : undefined
  }

  const entry = (): readonly [string, Node] | undefined => {
    const key = take(string)
    if (key === undefined || !skip(":")) return undefined
    const inner = value()
    return inner === undefined ? undefined : [String(JSON.parse(key)), inner]
  }

  const value = (): Node | undefined => {
    take(space)
    if (skip("{")) {
      const entries = list("}", entry)
      return entries === undefined ? undefined : { kind: "object", entries }
    }
    if (skip("[")) {
      const items = list("]", value)
      return items === undefined ? undefined : { kind: "array", items }
    }
    const text = take(string)
    if (text !== undefined) return { kind: "string", text: String(JSON.parse(text)) }
    const digits = take(number)
    if (digits !== undefined) return { kind: "number", text: digits }
    const other = take(word)
    return other === undefined ? undefined : { kind: "word", text: other }
  }

  const found = value()
  take(space)
  return place === json.length ? found : undefined
}

/** Whether the text stands in a key or a value. */
export const contains = (node: Node, text: string): boolean => {
  switch (node.kind) {
    case "object":
      return node.entries.some(([key, value]) => key.toLowerCase().includes(text) || contains(value, text))
    case "array":
      return node.items.some((item) => contains(item, text))
    default:
      return node.text.toLowerCase().includes(text)
  }
}

/** In one line, as long as that has room. */
export const preview = (json: string, length = 200): string => {
  const line = json.slice(0, length)
  return line.length < json.length ? `${line}…` : line
}
