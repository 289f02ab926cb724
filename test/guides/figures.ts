/**
 * What documents say of the results of the bench: `npm run figures` writes it anew, with the pictures, from
 * `test/bench/results.json`. `readme.test.ts` holds the documents against that file.
 *
 * In a document a part that is made of the results stands between the comments `<!-- figures: NAME -->` and `<!-- end -->`.
 */
import { Schema } from "effect"
import { readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { amount, factor, isTold, markdown, table, writersChart } from "../bench/printing.ts"
import { reasonOf } from "../bench/reasons.ts"
import { type Measurement, type Report, ReportFile } from "../bench/report.ts"
import { charts, ratiosIn } from "./charts.ts"

const root = join(import.meta.dirname, "../..")

/** Where the results are: what `npm run measure` writes. */
export const resultsFile = join(root, "test/bench/results.json")

/** The documents with parts that are made of the results. */
const documents = ["README.md", "resources/guides/measurements.md", "resources/guides/decisions.md"]

/** Figures by their names. What a run has not measured is left out of the text. */
class Figures {
  private readonly measurements: ReadonlyMap<string, Measurement>

  constructor({ measurements }: Report) {
    this.measurements = new Map(measurements.map((measurement) => [measurement.name, measurement]))
  }

  /** The ratio of a figure, as the table shows it. */
  ratio(name: string): string {
    return factor(this.measurements.get(name)?.ratio ?? Number.NaN)
  }

  strata(name: string): string {
    return amount(this.measurements.get(name)?.strata ?? Number.NaN)
  }

  /** How many times as long it takes: the other way round. */
  slower(name: string): string {
    return factor(1 / (this.measurements.get(name)?.ratio ?? Number.NaN))
  }

  has(...names: ReadonlyArray<string>): boolean {
    return names.every((name) => this.measurements.has(name))
  }
}

/** Sentences in lines of at most 120 characters, as all documents are set. */
const wrapped = (text: string): string => {
  const lines = [""]
  for (const word of text.split(" ")) {
    const line = lines.at(-1) ?? ""
    if (line !== "" && line.length + word.length >= 120) lines.push(word)
    else lines[lines.length - 1] = line === "" ? word : `${line} ${word}`
  }
  return lines.join("\n")
}

const decisionsIn = (figures: Figures): ReadonlyArray<string> =>
  figures.has("decide/condition-1", "decide/condition-16", "decide/condition-256", "decide/tags-1", "decide/read")
    ? [
        `An append with a condition is ${figures.ratio("decide/condition-1")} times as fast as one with \`expected\` from one ` +
          `fiber, ${figures.ratio("decide/condition-16")} times from 16 and ${figures.ratio("decide/condition-256")} times from 256 ` +
          `that decide on different tags. An append with three tags is ${figures.ratio("decide/tags-1")} times as fast as one ` +
          `without, and a read for a decision ${figures.ratio("decide/read")} times as fast as \`loadByAggregate\`.`,
        ...(figures.has("decide/hot")
          ? [
              `Where 16 fibers decide on one tag, so that all of them collide, it is ${figures.ratio("decide/hot")} times as fast as ` +
                "`SERIALIZABLE` with retries."
            ]
          : [])
      ]
    : []

const glance = (report: Report): string => {
  const figures = new Figures(report)
  const [first, ...rest] = ratiosIn(report).toSorted((a, b) => a.ratio - b.ratio)
  const last = rest.at(-1)
  const slowest = ["read/catch-up-1m", "read/size-100k", "read/size-5m"]
    .map((name) => Number(figures.slower(name)))
    .reduce((a, b) => Math.max(a, b))
  return [
    wrapped(
      `An append by itself takes ${figures.slower("append/1")} times as long as the statement on the bare driver, a write of a ` +
        `state ${figures.slower("state/write-1")} times and of an offset ${figures.slower("offset/write-1")} times. What arrives at ` +
        `once from many fibers is sent together: 256 appends at once are ${figures.ratio("append/256")} times as fast, and as many ` +
        `writes of states ${figures.ratio("state/write-256")} times. Reads of the log take up to ${factor(slowest)} times as long ` +
        "as by the bare driver, as each event is checked and made."
    ),
    `![For each figure the ratio to the bare driver, from ${factor(first?.ratio ?? 1)} of ${first?.name} to ${factor(last?.ratio ?? 1)} of ${last?.name}](ratios.svg)`,
    wrapped(
      "The two highest figures of the spool compare a hundred messages at a time with one at a time, as a queue written by hand " +
        "does it."
    ),
    "![Events appended per second by 1 to 256 writers](writers.svg)",
    "An event is at a subscriber some milliseconds after the call of `append`, and in a read model, too:",
    `![Latencies in milliseconds: a message at its handler ${figures.strata("spool/latency-p50")} at the median, an event at a subscriber ${figures.strata("subscribe/latency-p50")}, in a read model ${figures.strata("projection/lag-p50")}](latencies.svg)`,
    ...decisionsIn(figures).map(wrapped)
  ].join("\n\n")
}

/** The figures beside other libraries, as far as the guide tells them. */
const isOfPeer = ({ name }: Measurement): boolean => name.startsWith("peers/") && !/(?:p99\.9|arrived)$/.test(name)

/** What each part has. A part of which nothing was measured stays as it is. */
const partsOf = (report: Report): ReadonlyMap<string, string> => {
  const figures = new Figures(report)
  const ofPeers = report.measurements.filter(isOfPeer)
  const ofDecisions = decisionsIn(figures)
  return new Map([
    [
      "readme",
      wrapped(
        `An append takes ${figures.slower("append/1")} times as long as the statement on the bare driver, and 256 at once are sent ` +
          `together, ${figures.ratio("append/256")} times as fast: see [the measurements](resources/guides/measurements.md).`
      )
    ],
    ["glance", glance(report)],
    ["table", markdown(report).trimEnd()],
    ...(ofPeers.length === 0 ? [] : [["peers", table(ofPeers)] as const]),
    ...(ofDecisions.length === 0 ? [] : [["decisions", wrapped(ofDecisions.join(" "))] as const])
  ])
}

/** The document with its parts as the results are. */
const written = (text: string, parts: ReadonlyMap<string, string>): string =>
  text.replaceAll(
    /^(<!-- figures: (\w+) -->\n\n)[^]*?(\n\n<!-- end -->)$/gm,
    (whole, begin: string, name: string, end: string) => {
      const part = parts.get(name)
      return part === undefined ? whole : `${begin}${part}${end}`
    }
  )

/** Each file that is made of the results, or has parts that are. */
export const filesOf = async (report: Report): Promise<ReadonlyArray<readonly [file: string, text: string]>> => {
  const parts = partsOf(report)
  const texts = documents.map(async (file) => [file, written(await readFile(join(root, file), "utf8"), parts)] as const)
  const writers = writersChart(report)
  const pictures = [...charts(report), ...(writers === undefined ? [] : [["writers.svg", writers] as const])]
  return [...(await Promise.all(texts)), ...pictures.map(([file, svg]) => [`resources/guides/${file}`, svg] as const)]
}

/** The figures that the text names, and that are not in the table. */
export const missing = (report: Report): ReadonlyArray<string> =>
  [...partsOf(report).values(), ...charts(report).map(([, svg]) => svg)].flatMap((text) => text.match(/.*NaN.*/g) ?? [])

export const readResults = async (file: string = resultsFile): Promise<Report> =>
  Schema.decodeSync(ReportFile)(await readFile(file, "utf8"))

if (import.meta.main) {
  const { values } = parseArgs({ options: { results: { type: "string" }, into: { type: "string" } } })
  const report = await readResults(values.results)
  const lost = missing(report)
  if (lost.length > 0) throw new Error(`figures are missing that the text needs:\n${lost.join("\n")}`)
  for (const [file, text] of await filesOf(report)) {
    const path = values.into === undefined ? join(root, file) : join(values.into, file.replaceAll("/", "."))
    await writeFile(path, text)
    process.stdout.write(`${path}\n`)
  }
}

/** The figures of the guide that the other side wins, and that have no reason. */
export const unexplained = ({ measurements }: Report): ReadonlyArray<string> =>
  measurements
    .filter((measurement) => (isTold(measurement) || isOfPeer(measurement)) && reasonOf(measurement) === "")
    .map(({ name }) => name)

/** How many figures the table of the guide has. */
export const toldIn = ({ measurements }: Report): number => measurements.filter(isTold).length
