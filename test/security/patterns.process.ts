import { readdirSync, readFileSync } from "node:fs"
import { withoutPasswords } from "../../src/cli/terminal/Printable.ts"
import { parseExact } from "../../src/internal/ExactJson.ts"
import { codecError } from "../../src/StateCodec.ts"

// The test runs this file as a process, and kills it if it takes longer than anything linear could. It prints what it has done.

const say = (line: string) => void process.stdout.write(`${line}\n`)

const millions = 4_000_000

/** What a text is made of that makes a regular expression go back and forth. */
const pieces = [
  " ",
  "\n",
  "\t",
  "0",
  "1",
  "a",
  "é",
  ".",
  "0.",
  "-",
  "[",
  "\\",
  "\\u",
  '"',
  "'",
  ":",
  "/",
  "stdin ",
  "WITH "
]

/** A regular expression in the code, apart from those in comments. */
const literal = /(?<=[(=,:?&|!]\s*|^\s*)\/(?![/*\s])((?:\\.|\[(?:\\.|[^\]\\])*\]|[^/\\[])+)\/([a-z]*)(?=[.,;)\s\]]|$)/gu

const sources = readdirSync(new URL("../../src", import.meta.url), { recursive: true, encoding: "utf8" }).filter(
  (name) => name.endsWith(".ts")
)

const expressions = new Map<string, RegExp>()
for (const name of sources) {
  for (const line of readFileSync(new URL(`../../src/${name}`, import.meta.url), "utf8").split("\n")) {
    if (/^\s*(\*|\/\/|\/\*)/.test(line)) continue
    for (const [whole, source = "", flags = ""] of line.matchAll(literal)) {
      expressions.set(whole, new RegExp(source, flags.includes("g") ? flags : `${flags}g`))
    }
  }
}

for (const [whole, expression] of expressions) {
  for (const piece of pieces) {
    const text = `x${piece.repeat(millions / 4)}`
    for (const end of ["", "x", "!\n"]) `${text}${end}`.replaceAll(expression, "")
  }
  say(`expression ${whole}`)
}

const urls = "postgres://a:b@c ".repeat(millions / 16)
say(`as many URLs: ${withoutPasswords(urls).length}`)

const number = `1${"0".repeat(millions)}1`
say(`a long number: ${parseExact(`[${number}]`, "fail")}`)
say(`a long number in a text: ${typeof parseExact(`"${number}"`, "fail")}`)
say(`a message of spaces: ${codecError("m", " ".repeat(millions)).message.length}`)
