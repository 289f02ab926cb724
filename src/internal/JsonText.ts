/** What can be told of JSON from its text alone: how deep it is, and how long it becomes once it has been `jsonb`. */

/**
 * How many arrays and objects can stand in each other. Postgres parses `jsonb` by recursion, and so do most programs that
 * read it, so the stack must end somewhere.
 */
export const maxLevels = 500

/**
 * How many characters a number can have, as `jsonb` writes it. A number that JavaScript holds has 330 at most; what others
 * store may be longer, and programs that compute with it take long.
 */
export const maxNumberLength = 1000

const quote = 34
const plus = 43
const comma = 44
const minus = 45
const dot = 46
const zero = 48
const nine = 57
const colon = 58
const openingBracket = 91
const backslash = 92
const closingBracket = 93
const openingBrace = 123
const closingBrace = 125

/** `E` and `e`, without the bit in which they differ. */
const isExponent = (code: number): boolean => (code | 32) === 101

const isDigit = (code: number): boolean => code >= zero && code <= nine

/** The bytes of a character in UTF-8. Each half of a surrogate pair has two of the four. */
const bytesOf = (code: number): number => (code < 0x80 ? 1 : code < 0x800 || (code >= 0xd800 && code < 0xe000) ? 2 : 3)

/** An exponent above this one is as good as any: no number is that long. */
const largestExponent = 1_000_000

export interface Measures {
  /** How many bytes it has at most, once it has been `jsonb`: with a space after each colon and comma. */
  readonly bytes: number
  /** How many arrays and objects stand in each other. */
  readonly levels: number
  /** How many characters the longest number has, as `jsonb` writes it: without its exponent, `1e300` with all digits. */
  readonly longestNumber: number
}

/** Goes through a JSON text once, by index. */
class Scanner {
  bytes = 0
  levels = 0
  longestNumber = 0
  private level = 0
  private place = 0
  private readonly json: string

  constructor(json: string) {
    this.json = json
  }

  run(): Measures {
    while (this.place < this.json.length) {
      const code = this.json.charCodeAt(this.place)
      if (code === quote) this.skipText()
      else if (isDigit(code) || code === minus) this.skipNumber()
      else this.skipOther(code)
    }
    return this
  }

  private skipOther(code: number) {
    this.place++
    this.bytes += code === comma || code === colon ? 2 : bytesOf(code)
    if (code === openingBracket || code === openingBrace) this.levels = Math.max(this.levels, ++this.level)
    else if (code === closingBracket || code === closingBrace) this.level--
  }

  private skipText() {
    this.bytes += 2
    for (this.place++; this.place < this.json.length; this.place++) {
      const code = this.json.charCodeAt(this.place)
      if (code === quote) break
      this.bytes += bytesOf(code)
      if (code !== backslash) continue
      // What is escaped is no end of the text.
      this.bytes++
      this.place++
    }
    this.place++
  }

  private skipDigits(): number {
    const start = this.place
    while (isDigit(this.json.charCodeAt(this.place))) this.place++
    return this.place - start
  }

  private skipExponent(): number {
    if (!isExponent(this.json.charCodeAt(this.place))) return 0
    const sign = this.json.charCodeAt(++this.place)
    if (sign === minus || sign === plus) this.place++
    let exponent = 0
    for (let code = this.json.charCodeAt(this.place); isDigit(code); code = this.json.charCodeAt(++this.place)) {
      exponent = Math.min(exponent * 10 + code - zero, largestExponent)
    }
    return sign === minus ? -exponent : exponent
  }

  private skipNumber() {
    const start = this.place
    if (this.json.charCodeAt(start) === minus) this.place++
    const sign = this.place - start
    const whole = this.skipDigits()
    let fraction = 0
    if (this.json.charCodeAt(this.place) === dot) {
      this.place++
      fraction = this.skipDigits()
    }
    const exponent = this.skipExponent()
    const places = Math.max(fraction - exponent, 0)
    const length = sign + Math.max(whole + exponent, 1) + (places === 0 ? 0 : 1 + places)
    this.bytes += length
    this.longestNumber = Math.max(this.longestNumber, length)
  }
}

/** Measures a valid JSON text. */
export const measure = (json: string): Measures => new Scanner(json).run()

/** How many bytes a JSON text has, at most, once it has been `jsonb`. */
export const jsonbBytes = (json: string): number => measure(json).bytes

/** How often a text has a character; it counts up to `many`. */
const countOf = (json: string, character: string, many: number): number => {
  let count = 0
  for (let at = json.indexOf(character); at !== -1 && count < many; at = json.indexOf(character, at + 1)) count++
  return count
}

/**
 * Whether a valid JSON text has more than `maxLevels`. Nearly every text has fewer arrays and objects in all, which is told
 * without going through its characters one by one.
 */
export const isTooDeep = (json: string): boolean =>
  json.length > 2 * maxLevels &&
  countOf(json, "[", maxLevels + 1) + countOf(json, "{", maxLevels + 1) > maxLevels &&
  measure(json).levels > maxLevels
