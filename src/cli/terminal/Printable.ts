/**
 * Text that comes from elsewhere, as a terminal may show it: what others have stored, the server's errors, the names of
 * files. A character that would move the cursor, colour what follows, end the line or turn the order of the text becomes its
 * code. All that the command writes goes through here.
 */
import { unprintable } from "../../internal/PrintableJson.ts"
import type { Target } from "./HostProcess.ts"

const codeOf = (character: string): string => {
  if (character === "\n") return String.raw`\n`
  const code = character.codePointAt(0) ?? 0
  return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`
}

/** What ends a URL in a text. It is kept when the text is split. */
const endOfUrl = /([\s"'`])/

/** The URL with stars in the place of a password: between the first colon and the last `@`, as one may be written wrongly. */
const withoutPassword = (url: string): string => {
  const start = url.indexOf("://") + 3
  const end = url.lastIndexOf("@")
  const colon = url.indexOf(":", start)
  return end < start || colon === -1 || colon > end ? url : `${url.slice(0, colon)}:***${url.slice(end)}`
}

/** The text without the passwords of the URLs in it, and of the settings of a connection. */
export const withoutPasswords = (text: string): string => {
  const words = text.split(endOfUrl).map((word) => (word.includes("://") ? withoutPassword(word) : word))
  return words.join("").replaceAll(/\bpassword=[^\s&"'`]+/gi, "password=***")
}

/** The text in one line, without anything that a terminal obeys. */
export const printable = (text: string): string => text.replaceAll(unprintable, codeOf)

/** The lines of a text, each printable. All but the first are indented, so that none looks like a line of the command's own. */
export const printableLines = (text: string, indent: string): string =>
  text.split("\n").map(printable).join(`\n${indent}`)

/** Says something on stderr, in one line that begins with the name of the command, without passwords. */
export const say = (stderr: Target, message: string): void =>
  void stderr.write(`strata: ${printable(withoutPasswords(message))}\n`)
