/**
 * The reference that is in the package and on the site: settings, metrics and spans, tables, errors and the command, made of the
 * code. `npm run reference` writes it to `resources/reference`, and a test compares.
 */
import { mkdir, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Telemetry from "../../src/internal/Telemetry.ts"
import { ofPartitions, tables } from "../../src/postgres/TableReference.ts"
import { commandsPage } from "./commands.ts"
import type { Module } from "./declarations.ts"
import type { Page } from "./pages.ts"
import { publicModules } from "./publicModules.ts"
import { settingsPage } from "./settings.ts"
import { table } from "./tables.ts"

/** Errors, each with what its comment says, which names what can be done. */
const errorsPage = (modules: ReadonlyArray<Module>): Page => {
  const errors = modules.flatMap((module) =>
    module.exports.filter(({ kind }) => kind === "error").map((error) => ({ module, error }))
  )
  return {
    path: "reference/errors",
    title: "Errors",
    text: [
      "# Errors",
      "Every error is tagged with its name, and stands in the error channel of what can fail with it. " +
        "[The guide](../guides/errors.md) says how they are handled.",
      ...errors.map(
        ({ module, error }) =>
          `## ${error.name} {#${module.name}.${error.name}}\n\n\`${module.name}.${error.name}\`\n\n${error.comment}`
      )
    ].join("\n\n")
  }
}

const tablesPage: Page = {
  path: "reference/tables",
  title: "Tables",
  text: [
    "# Tables",
    "Every table and column, as `strata schema` prints them, and as the comments in the database say. The option `tables` gives " +
      "other names. [Deploying](../guides/deploying.md#roles-and-grants) says who needs which rights on them.",
    ...[...tables, ofPartitions].map(({ columns, description, name }) =>
      [
        `## ${name}`,
        `${description}.`,
        table(
          ["column", "type", "meaning"],
          columns.map((column) => [`\`${column.name}\``, column.type, column.description])
        )
      ].join("\n\n")
    )
  ].join("\n\n")
}

const attributesOf = (attributes: Telemetry.Attributes): string =>
  Object.entries(attributes)
    .map(([name, description]) => `- \`${name}\`: ${description}`)
    .join("\n")

const described = (name: string, description: string, attributes: Telemetry.Attributes): string =>
  [`### ${name}`, description, attributesOf(attributes)].filter((part) => part !== "").join("\n\n")

const kinds = { counter: "A counter", gauge: "A gauge", timer: "A histogram" } as const

const telemetryPage: Page = {
  path: "reference/telemetry",
  title: "Metrics and spans",
  text: [
    "# Metrics and spans",
    "Every metric and every span with its attributes, which never carry payloads or secrets. " +
      "[Deploying](../guides/deploying.md#what-to-watch) says which to watch, and with which limits.",
    "## Metrics",
    ...Object.entries<Telemetry.MetricReference>(Telemetry.metrics).map(([name, { attributes, description, kind }]) =>
      described(name, `${kinds[kind]}. ${description}.`, attributes)
    ),
    "## Spans",
    "Migrations, and statements and transactions of your own, have the spans of the driver beside these.",
    ...Object.entries<Telemetry.SpanReference>(Telemetry.spans).map(([name, { attributes, description }]) =>
      described(name, `${description}.`, attributes)
    )
  ].join("\n\n")
}

/** All of it, in the order of the menu. */
export const references = async (modules: ReadonlyArray<Module>): Promise<ReadonlyArray<Page>> => [
  settingsPage(modules),
  telemetryPage,
  tablesPage,
  errorsPage(modules),
  await commandsPage()
]

/** The file of a page in the repository. */
export const fileOf = ({ path }: Pick<Page, "path">): string => `resources/${path}.md`

/** What the file has. */
export const fileTextOf = ({ text }: Page): string =>
  `<!-- npm run reference makes this page of the code. -->\n\n${text.replaceAll(/ \{#[\w.]+\}$/gm, "")}\n`

if (import.meta.main) {
  const root = join(import.meta.dirname, "../..")
  await mkdir(join(root, "resources/reference"), { recursive: true })
  for (const page of await references(await publicModules(root, join(root, ".strata/declarations")))) {
    await writeFile(join(root, fileOf(page)), fileTextOf(page))
  }
}
