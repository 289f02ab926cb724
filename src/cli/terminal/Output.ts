/** What a subcommand writes to stdout: tables for people, or JSON for programs. */
import { Effect, Schema, Stream } from "effect"
import { CliOutput } from "effect/cli"
import { Settings } from "../arguments/GlobalFlags.ts"

/** Nobody reads the output any more. */
export class OutputClosed extends Schema.TaggedError<OutputClosed>("effect-strata/cli/OutputClosed")("OutputClosed", {
  cause: Schema.Defect()
}) {}

/** Writes, and waits until it is written: who reads slowly slows down who writes. */
export const write = (text: string): Effect.Effect<void, OutputClosed> =>
  Effect.callback((resume) => {
    process.stdout.write(text, (cause) =>
      resume(cause === undefined || cause === null ? Effect.void : Effect.fail(new OutputClosed({ cause })))
    )
  })

/** One line. */
export const line = (text: string): Effect.Effect<void, OutputClosed> => write(`${text}\n`)

const jsonText = (value: unknown): string =>
  JSON.stringify(value, (_, part: unknown) => (typeof part === "bigint" ? String(part) : part))

/** One JSON value on a line of its own. A `bigint` is a string, as most who read JSON would round it. */
export const json = (value: unknown): Effect.Effect<void, OutputClosed> => line(jsonText(value))

/** Whether stdout is a terminal. */
export const isTerminal = Effect.sync(() => process.stdout.isTTY)

/** The width that a line may have: that of the terminal, and without one no limit. */
const width = () => (process.stdout.isTTY ? process.stdout.columns || 80 : Number.POSITIVE_INFINITY)

/** Characters that would move the cursor or colour what follows are shown, not sent: stored text is not trusted. */
export const printable = (text: string): string =>
  text.replaceAll(/\p{Cc}/gu, (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`)

/** Cut to so many columns. */
const fit = (text: string, columns: number): string => {
  if (CliOutput.displayWidth(text) <= columns) return text
  let cut = ""
  for (const character of text) {
    if (CliOutput.displayWidth(cut + character) > columns - 1) break
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
  /** For numbers. */
  readonly right?: boolean
}

const titles = <A>(columns: ReadonlyArray<Column<A>>) => columns.map(({ title }) => title)

/** A table of which a part is written at a time: the columns are as wide as what has been seen of them. */
const makeTable = <A>(columns: ReadonlyArray<Column<A>>) => {
  const widths = columns.map(() => 0)
  const last = columns.length - 1
  return (items: ReadonlyArray<A>, header: boolean): string => {
    const cells = items.map((item) => columns.map(({ show }) => printable(show(item))))
    const rows = header ? [titles(columns), ...cells] : cells
    for (const row of rows) {
      row.forEach((cell, index) => {
        widths[index] = Math.max(widths[index] ?? 0, CliOutput.displayWidth(cell))
      })
    }
    return rows
      .map((row) => {
        const parts = row.map((cell, index) => {
          const right = columns[index]?.right ?? false
          return index === last && !right ? cell : pad(cell, widths[index] ?? 0, right)
        })
        return `${fit(parts.join("  "), width()).trimEnd()}\n`
      })
      .join("")
  }
}

/** How to list things: as a table, and as JSON. */
export interface Listing<A> {
  readonly columns: ReadonlyArray<Column<A>>
  readonly toJson: (item: A) => unknown
  /** What to say, on a terminal, where there is nothing. */
  readonly nothing: string
}

/** Lists what a stream brings, as it comes. */
export const list = <A, E, R>(items: Stream.Stream<A, E, R>, { columns, nothing, toJson }: Listing<A>) =>
  Effect.gen(function* () {
    if (yield* Settings.json) {
      return yield* Stream.runForEachArray(items, (chunk) =>
        write(chunk.map((item) => `${jsonText(toJson(item))}\n`).join(""))
      )
    }
    const table = makeTable(columns)
    let empty = true
    yield* Stream.runForEachArray(items, (chunk) => {
      const text = table(chunk, empty)
      empty = false
      return write(text)
    })
    if (empty && (yield* isTerminal)) yield* line(nothing)
  })

/** A table below something else. */
export const table = <A>(columns: ReadonlyArray<Column<A>>, items: ReadonlyArray<A>) =>
  write(`\n${makeTable(columns)(items, true)}`)

/** One thing: its parts, one per line, or as JSON. */
export const record = (parts: Readonly<Record<string, unknown>>) =>
  Effect.gen(function* () {
    if (yield* Settings.json) return yield* json(parts)
    const wide = Math.max(...Object.keys(parts).map((name) => name.length))
    const text = Object.entries(parts).map(([name, value]) => {
      const shown = typeof value === "object" && value !== null ? JSON.stringify(value, undefined, 2) : String(value)
      return `${name.padEnd(wide)}  ${shown
        .split("\n")
        .map(printable)
        .join(`\n${" ".repeat(wide + 2)}`)}\n`
    })
    return yield* write(text.join(""))
  })

/** What was done: a sentence, or as JSON. */
export const done = (sentence: string, result: Readonly<Record<string, unknown>>) =>
  Effect.flatMap(Settings.json, (asJson) => (asJson ? json(result) : line(printable(sentence))))

/** A number of things, in words. */
export const count = (number: number | bigint, thing: string): string =>
  `${number.toLocaleString("en-US")} ${thing}${number === 1 || number === 1n ? "" : "s"}`

const colours = { red: 31, green: 32, yellow: 33, bold: 1, dim: 2 } as const

/** The text in a colour, on a terminal whose user has not asked for none. */
export const paint = (text: string, colour: keyof typeof colours): string =>
  process.stdout.isTTY && !process.env["NO_COLOR"] ? `\u001b[${colours[colour]}m${text}\u001b[0m` : text
