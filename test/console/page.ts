/** The console in a browser. */
import { readFile } from "node:fs/promises"
import { createRequire } from "node:module"
import { join } from "node:path"
import type { Browser, Page } from "playwright-core"
import { root, run } from "../package/run.ts"

/** Builds the page, as `npm run build` does. */
export const build = () => run(process.execPath, [join(root, "resources/console/build.ts")], { cwd: root })

export interface Look {
  readonly colorScheme?: "light" | "dark"
  readonly width?: number
  readonly height?: number
}

/** A page, and what was wrong in it: scripts that failed, what it asked of elsewhere, what its policy has refused. */
export interface Opened {
  readonly page: Page
  readonly wrong: Array<string>
  /** Goes to an address within the console, such as `log?event=1`. */
  readonly go: (address: string) => Promise<void>
}

/** What a page says of itself while its server is away. */
const isOfLostServer = (text: string) => text.includes("ERR_") || text.includes("Failed to load resource")

export const open = async (
  browser: Browser,
  url: string,
  { colorScheme = "light", height = 900, width = 1400 }: Look = {}
): Promise<Opened> => {
  const page = await browser.newPage({ viewport: { width, height }, colorScheme })
  const wrong: Array<string> = []
  page.on("request", (request) => {
    if (!request.url().startsWith(url)) wrong.push(`it asks ${request.url()}`)
  })
  page.on("pageerror", (error) => wrong.push(error.message))
  page.on("console", (message) => {
    if (message.type() === "error" && !isOfLostServer(message.text())) wrong.push(message.text())
  })
  await page.goto(url)
  return {
    page,
    wrong,
    go: async (address) => {
      await page.evaluate(`location.hash = ${JSON.stringify(`#/${address}`)}`)
    }
  }
}

const axe = readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8")

interface Violation {
  readonly id: string
  readonly nodes: ReadonlyArray<{ readonly html: string; readonly failureSummary?: string }>
}

/** What keeps people from using the page, as axe finds it. */
export const violationsOf = async (page: Page): Promise<ReadonlyArray<string>> => {
  await page.evaluate(await axe)
  const violations: ReadonlyArray<Violation> = await page.evaluate("axe.run().then(({ violations }) => violations)")
  return violations.flatMap(({ id, nodes }) =>
    nodes.map(({ failureSummary, html }) => `${id}: ${html} ${failureSummary ?? ""}`)
  )
}
