/**
 * JSON whose keys have escapes, such as `"\n"`.
 *
 * **Details**
 *
 * `JSON.parse` of Node 24 (V8 13.6) takes such a key for another one: an object that is like one before expects the key that this
 * one had, and its text is compared with that key before the escapes are read. So `{"a":1,"\n":2}` after `{"a":1,"\\":2}` gets the
 * key `\`. Keys without escapes are compared correctly: here each key with an escape is parsed by itself, and has a name without
 * one meanwhile.
 */
const colon = 58
const backslash = 92

const isSpace = (code: number): boolean => code === 32 || (code >= 9 && code <= 13)

/** Where the string ends in which this place is: after the first quote that is not escaped. */
const endOfString = (json: string, place: number): number => {
  for (let end = json.indexOf('"', place); end !== -1; end = json.indexOf('"', end + 1)) {
    let start = end
    while (json.charCodeAt(start - 1) === backslash) start--
    if ((end - start) % 2 === 0) return end + 1
  }
  // The text is no JSON: to parse it fails.
  return json.length
}

const isFollowedByColon = (json: string, end: number): boolean => {
  let place = end
  while (isSpace(json.charCodeAt(place))) place++
  return json.charCodeAt(place) === colon
}

/** Whether a key of a JSON text has an escape. Only strings with escapes are looked at. */
export const hasEscapedKey = (json: string): boolean => {
  for (let place = json.indexOf("\\"); place !== -1; place = json.indexOf("\\", place)) {
    place = endOfString(json, place)
    if (isFollowedByColon(json, place)) return true
  }
  return false
}

/** A character for private use, so often that the text does not have it. */
const markFor = (json: string): string => {
  let mark = "\ue000"
  while (json.includes(mark)) mark += "\ue000"
  return mark
}

export interface Renamed {
  /** The same JSON, in which each key with an escape has another name. */
  readonly text: string
  /** Gives an object its keys back. What it has is parsed already. */
  readonly restore: (value: object) => object
}

/** Renames the keys that have escapes. */
export const renameEscapedKeys = (json: string): Renamed => {
  const mark = markFor(json)
  const keys = new Map<string, string>()
  let text = ""
  let copied = 0
  for (let start = json.indexOf('"'); start !== -1;) {
    const end = endOfString(json, start + 1)
    const string = json.slice(start, end)
    if (string.includes("\\") && isFollowedByColon(json, end)) {
      const name = `${mark}${keys.size}`
      keys.set(name, String(JSON.parse(string)))
      text += `${json.slice(copied, start)}"${name}"`
      copied = end
    }
    start = json.indexOf('"', end)
  }
  const restore = (value: object): object => {
    const entries = Object.entries(value)
    return entries.some(([name]) => keys.has(name))
      ? Object.fromEntries(entries.map(([name, part]) => [keys.get(name) ?? name, part]))
      : value
  }
  return { text: text + json.slice(copied), restore }
}
