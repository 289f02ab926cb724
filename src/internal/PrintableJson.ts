/** JSON that a terminal may show as it is. */

// Control characters, separators of lines and paragraphs, halves of characters, and characters without a shape: those that
// turn the order of the text, above all. Those that join letters stay: words of many languages are spelt with them.
export const unprintable = /(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu

const jsonEscapeOf = (character: string): string =>
  Array.from(
    { length: character.length },
    (_, at) => `\\u${character.charCodeAt(at).toString(16).padStart(4, "0")}`
  ).join("")

/** JSON that means the same, in which each character that is not printable is escaped. Line feeds between values stay. */
export const printableJson = (json: string): string =>
  json.replaceAll(unprintable, (character) => (character === "\n" ? character : jsonEscapeOf(character)))
