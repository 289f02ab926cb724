/** The page of the settings: the environment, and the options that layers and other things take. */
import { environment } from "../../src/postgres/EnvironmentReference.ts"
import type { Export, Member, Module } from "./declarations.ts"
import type { Page } from "./pages.ts"
import { table } from "./tables.ts"

/** The modules whose options come first, in this order: those of layers, then those of what runs. */
const order = ["postgres", "memory", "pglite", "postgres.PostgresConfig", "Projection", "Spool", "Supervisor", "Health"]

const rankOf = ({ name }: Module): number => {
  const index = order.indexOf(name)
  return index === -1 ? order.length : index
}

const isOptions = ({ fields, name }: Export): boolean => fields.length > 0 && /(?:Options|Limits)$/.test(name)

/** What a comment says before its sections of details, on one line. */
const brief = (comment: string): string => {
  const [first = "", ...sections] = comment.split(/\n\n(?=\*\*)/)
  const more = sections.length === 0 ? "" : " There is more in its documentation."
  return `${first.replaceAll(/\n+- /g, " ").replaceAll(/\s*\n\s*/g, " ")}${more}`
}

const optionsOf = (module: Module, { comment, fields, name }: Export): string =>
  [
    `### ${module.name}.${name}`,
    brief(comment),
    table(
      ["option", "meaning"],
      fields.map((field: Member) => [`\`${field.name}\``, brief(field.comment)])
    )
  ].join("\n\n")

/** The fields of each type of options, by the name of that type. The same type is listed once. */
export const options = (modules: ReadonlyArray<Module>): ReadonlyArray<readonly [Module, Export]> => {
  const found = modules
    .toSorted((a, b) => rankOf(a) - rankOf(b))
    .flatMap((module) => module.exports.filter(isOptions).map((each) => [module, each] as const))
  return found.filter(([, { code }], index) => found.findIndex(([, other]) => other.code === code) === index)
}

/** Variables in a row of which the same is said stand in one row. */
const variableRows = (): ReadonlyArray<ReadonlyArray<string>> => {
  const rows = Map.groupBy(environment, ({ default: standard = "", description, name }) =>
    // What has a default is not like another one.
    standard === "" ? description : name
  )
  return [...rows.values()].map((variables) => [
    variables.map(({ name }) => `\`${name}\``).join(" "),
    variables.map(({ default: standard }) => (standard === undefined ? "" : `\`${standard}\``)).join(""),
    variables
      .slice(0, 1)
      .map(({ description, reader }) => `${reader === "command" ? "Of the command. " : ""}${description}`)
      .join("")
  ])
}

export const settingsPage = (modules: ReadonlyArray<Module>): Page => ({
  path: "reference/settings",
  title: "Settings",
  text: [
    "# Settings",
    "Every variable of the environment, and every option. [Layers and settings](../guides/settings.md) says which layer takes " +
      "them, and [deploying](../guides/deploying.md) which ones matter in production.",
    "## The environment",
    "`Postgres.layerConfig`, its like and the command read these by Effect's `Config`: from the environment, unless you provide " +
      "another. The command's flags count more than they do.",
    table(["name", "default", "meaning"], variableRows()),
    "## Options",
    "An option that is left out means what is said to hold unless it is given.",
    ...options(modules).map(([module, each]) => optionsOf(module, each))
  ].join("\n\n")
})
