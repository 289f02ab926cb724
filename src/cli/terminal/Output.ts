/** What a subcommand writes to stdout: tables for people, or JSON for programs. */
import { Effect, Schema, Stream } from "effect"
import { CliOutput } from "effect/cli"
import { printableJson } from "../../internal/PrintableJson.ts"
import { Settings } from "../arguments/GlobalFlags.ts"
import { HostProcess, type Target } from "./HostProcess.ts"
import { printable, printableLines } from "./Printable.ts"

export { about, count } from "../../internal/Words.ts"

/** The program that read the output has closed it. */
export class OutputClosed extends Schema.TaggedError<OutputClosed>("effect-strata/cli/OutputClosed")("OutputClosed", {
  cause: Schema.Defect()
}) {}

/** The output cannot be written, as to a disk that is full. */
export class OutputFailed extends Schema.TaggedError<OutputFailed>("effect-strata/cli/OutputFailed")("OutputFailed", {
  message: Schema.String,
  cause: Schema.Defect()
}) {}

/** What a write to a pipe or a socket fails with once its reader has gone; Windows says EOF. */
const closedCodes = ["EPIPE", "ECONNRESET", "EOF", "ERR_STREAM_DESTROYED"]

const failureOf = (cause: Error): OutputClosed | OutputFailed =>
  "code" in cause && closedCodes.some((code) => code === cause.code)
    ? new OutputClosed({ cause })
    : new OutputFailed({ message: `the output could not be written: ${cause.message}`, cause })

/** Writes to stdout, and waits until it is written: a slow reader slows down the command, instead of filling its memory. */
export const write = (text: string) =>
  HostProcess.use(({ stdout }) =>
    Effect.callback<void, OutputClosed | OutputFailed>((resume) => {
      stdout.write(text, (cause) =>
        resume(cause === undefined || cause === null ? Effect.void : Effect.fail(failureOf(cause)))
      )
    })
  )

/** Writes one line. */
export const line = (text: string) => write(`${text}\n`)

const jsonText = (value: unknown): string =>
  printableJson(JSON.stringify(value, (_, part: unknown) => (typeof part === "bigint" ? String(part) : part)))

/** Writes one JSON value on a line of its own. A `bigint` becomes a string, as most readers of JSON would round it. */
export const json = (value: unknown) => line(jsonText(value))

/** Whether stdout is a terminal. */
export const isTerminal = HostProcess.useSync(({ stdout }) => stdout.isTTY === true)

/** The number of columns where a terminal does not tell its own. */
const defaultColumns = 80

/** How many columns a line may have: those of the terminal, and without a terminal any number. */
const columnsOf = (stdout: Target): number =>
  stdout.isTTY === true ? stdout.columns || defaultColumns : Number.POSITIVE_INFINITY

/** The text, cut to a number of columns. */
const fit = (text: string, columns: number): string => {
  if (CliOutput.displayWidth(text) <= columns) return text
  let cut = ""
  let width = 0
  for (const character of text) {
    width += CliOutput.displayWidth(character)
    if (width > columns - 1) break
    cut += character
  }
  return `${cut}…`
}

const pad = (text: string, columns: number, right: boolean): string => {
  const space = " ".repeat(Math.max(columns - CliOutput.displayWidth(text), 0))
  return right ? space + text : text + space
}

/** A column of a table. */
export interface Column<A> {
  readonly title: string
  readonly show: (item: A) => string
  /** Whether the text stands at the right edge of the column, as numbers do. */
  readonly right?: boolean
  /** What the text's colour on a terminal follows from: the same text has the same colour everywhere. */
  readonly colourOf?: (item: A) => string
}

const titles = <A>(columns: ReadonlyArray<Column<A>>) => columns.map(({ title }) => title)

/** Colours of letters that are read well on dark and on light grounds. */
const columnColours = [31, 32, 33, 34, 35, 36, 91, 92, 94, 95, 96]

const colourCodeOf = (text: string): number | undefined => {
  let hash = 0
  for (const character of text) hash = (Math.imul(hash, 31) + (character.codePointAt(0) ?? 0)) | 0
  return columnColours[Math.abs(hash) % columnColours.length]
}

const inColour = (text: string, code: number | undefined) => `\u001b[${code}m${text}\u001b[0m`

/** A line of a table, cut already, with the cells in colour that have one. */
const coloured = <A>(
  line: string,
  columns: ReadonlyArray<Column<A>>,
  cells: ReadonlyArray<string>,
  item: A
): string => {
  let place = 0
  let text = ""
  for (const [index, cell] of cells.entries()) {
    const end = place + cell.length
    const part = line.slice(place, end)
    const colourOf = columns[index]?.colourOf
    text +=
      (colourOf === undefined || part === "" ? part : inColour(part, colourCodeOf(colourOf(item)))) +
      line.slice(end, end + 2)
    place = end + 2
  }
  return text
}

/**
 * Formats a table a part at a time, since a list may be long and is shown as it comes. Each column is as wide as the widest
 * text in it so far; a line that is wider than `maxColumns` is cut.
 */
const makeTable = <A>(columns: ReadonlyArray<Column<A>>, maxColumns: number, isColoured = false) => {
  const widths = columns.map(() => 0)
  const last = columns.length - 1
  const format = (row: ReadonlyArray<string>, item: A | undefined): string => {
    const cells = row.map((cell, index) => {
      const right = columns[index]?.right ?? false
      return index === last && !right ? cell : pad(cell, widths[index] ?? 0, right)
    })
    const text = fit(cells.join("  "), maxColumns).trimEnd()
    return `${isColoured && item !== undefined ? coloured(text, columns, cells, item) : text}\n`
  }
  return (items: ReadonlyArray<A>, { header }: { readonly header: boolean }): string => {
    const shown = items.map((item) => columns.map(({ show }) => printable(show(item))))
    const rows = header ? [titles(columns), ...shown] : shown
    for (const row of rows) {
      row.forEach((cell, index) => {
        widths[index] = Math.max(widths[index] ?? 0, CliOutput.displayWidth(cell))
      })
    }
    return rows.map((row, index) => format(row, items[header ? index - 1 : index])).join("")
  }
}

/** How to list things: as a table, and as JSON. */
export interface Listing<A> {
  readonly columns: ReadonlyArray<Column<A>>
  readonly toJson: (item: A) => unknown
  /** What an empty list says, on a terminal. */
  readonly nothing: string
  /**
   * Whether the list ends, and its items are small: then a table of up to a thousand is gathered before it is shown, so that its
   * columns are as wide as the widest text in them. Otherwise each item is shown as it comes.
   */
  readonly gather?: boolean
}

/** How many items of a list are gathered. */
const gathered = 1000

/** Lists the items of a stream as they come. */
export const list = <A, E, R>(
  items: Stream.Stream<A, E, R>,
  { columns, gather = false, nothing, toJson }: Listing<A>
) =>
  Effect.gen(function* () {
    if (yield* Settings.json) {
      return yield* Stream.runForEachArray(items, (chunk) =>
        write(chunk.map((item) => `${jsonText(toJson(item))}\n`).join(""))
      )
    }
    const { stdout } = yield* HostProcess
    const format = makeTable(columns, columnsOf(stdout), yield* hasColours)
    let empty = true
    yield* Stream.runForEachArray(gather ? Stream.rechunk(items, gathered) : items, (chunk) => {
      const text = format(chunk, { header: empty })
      empty = false
      return write(text)
    })
    if (empty && stdout.isTTY === true) yield* line(nothing)
  })

/** Writes a table below something else. */
export const table = <A>(columns: ReadonlyArray<Column<A>>, items: ReadonlyArray<A>) =>
  HostProcess.use(({ stdout }) => write(`\n${makeTable(columns, columnsOf(stdout))(items, { header: true })}`))

/** Writes one thing: each of its parts on a line, or all of it as JSON. */
export const record = (parts: Readonly<Record<string, unknown>>) =>
  Effect.gen(function* () {
    if (yield* Settings.json) return yield* json(parts)
    const nameWidth = Math.max(...Object.keys(parts).map((name) => name.length))
    const text = Object.entries(parts).map(([name, value]) => {
      const shown = typeof value === "object" && value !== null ? JSON.stringify(value, undefined, 2) : String(value)
      return `${name.padEnd(nameWidth)}  ${printableLines(shown, " ".repeat(nameWidth + 2))}\n`
    })
    return yield* write(text.join(""))
  })

/** Says what was done: in a sentence, or as JSON. */
export const done = (sentence: string, result: Readonly<Record<string, unknown>>) =>
  Effect.flatMap(Settings.json, (asJson) => (asJson ? json(result) : line(printable(sentence))))

const colourCodes = { red: 31, green: 32, yellow: 33 } as const

/** Whether stdout is a terminal whose user has not refused colours with `NO_COLOR`. */
const hasColours = HostProcess.useSync(({ env, stdout }) => stdout.isTTY === true && !env["NO_COLOR"])

/** The text in a colour, where there are colours. */
export const paint = (text: string, colour: keyof typeof colourCodes) =>
  Effect.map(hasColours, (has) => (has ? inColour(text, colourCodes[colour]) : text))
