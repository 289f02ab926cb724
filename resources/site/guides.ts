/** The pages that people wrote, as pages of the site: links between files become links between pages. */
import { readdir, readFile } from "node:fs/promises"
import { posix } from "node:path"
import type { Page } from "./pages.ts"

/** In the order in which the menu shows them. A guide that is not named here comes after these. */
const order = [
  "tutorial",
  "events",
  "offsets",
  "states",
  "spool",
  "projections",
  "entities",
  "decisions",
  "transactions",
  "testing",
  "console",
  "deploying",
  "runbooks",
  "guarantees",
  "trust",
  "go-services",
  "coming-from",
  "measurements"
]

const rankOf = (name: string): number => {
  const index = order.indexOf(name)
  return index === -1 ? order.length : index
}

/** Where a file of the repository is in the site. What is not in the site has no place. */
const placeOf = (file: string): string | undefined => {
  if (file === "README.md") return "/index.md"
  if (file === "CHANGELOG.md" || file === "CONTRIBUTING.md") return `/${file}`
  return /^resources\/(?:guides|reference)\//.test(file) ? file.replace("resources", "") : undefined
}

const isElsewhere = (target: string): boolean => /^[a-z]+:/.test(target) || target.startsWith("#")

/** Links to source files, which only the repository has, become plain text. */
export const relinked = (text: string, file: string): string =>
  text.replaceAll(/(!?)\[((?:[^[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)/g, (whole, image, shown, target) => {
    if (isElsewhere(target)) return whole
    const [path = "", anchor] = target.split("#")
    const place = placeOf(posix.join(posix.dirname(file), path))
    if (place === undefined) return image === "" ? shown : ""
    return `${image}[${shown}](${place}${anchor === undefined ? "" : `#${anchor}`})`
  })

const titleOf = (text: string): string => /^# (.+)$/m.exec(text)?.[1]?.replaceAll("`", "") ?? "Strata"

const pageOf = async (root: string, file: string): Promise<Page> => {
  const whole = await readFile(posix.join(root, file), "utf8")
  // Comments are for the tests that run the blocks.
  const text = whole.replaceAll(/^<!--.*-->\n+/gm, "")
  const path = (placeOf(file) ?? file).replace(/^\//, "").replace(/\.md$/, "")
  return { path, title: titleOf(text), text: relinked(text, file) }
}

export interface Guides {
  readonly guides: ReadonlyArray<Page>
  /** The README, which is the first page, and what the project says of itself. */
  readonly others: ReadonlyArray<Page>
}

export const guides = async (root: string): Promise<Guides> => {
  const files = await readdir(posix.join(root, "resources/guides"))
  const names = files.filter((file) => file.endsWith(".md")).map((file) => file.slice(0, -3))
  const sorted = names.toSorted((a, b) => rankOf(a) - rankOf(b) || a.localeCompare(b))
  return {
    guides: await Promise.all(sorted.map((name) => pageOf(root, `resources/guides/${name}.md`))),
    others: await Promise.all(["README.md", "CHANGELOG.md", "CONTRIBUTING.md"].map((file) => pageOf(root, file)))
  }
}
