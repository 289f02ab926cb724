/**
 * `npm run docs`: builds the guides and the reference into one static site, in `.strata/site`. `--serve` then shows it.
 */
import { cp, mkdir, rm, writeFile } from "node:fs/promises"
import { dirname, join } from "node:path"
import { parseArgs } from "node:util"
import { build, serve } from "vitepress"
import { guides, relinked } from "./guides.ts"
import { modulePage, type Page } from "./pages.ts"
import { places } from "./places.ts"
import { publicModules } from "./publicModules.ts"
import { fileOf, references } from "./reference.ts"

const root = join(import.meta.dirname, "../..")
const docs = join(root, ".strata/docs")
const write = async ({ path, title, text }: Page): Promise<void> => {
  const file = join(docs, `${path}.md`)
  await mkdir(dirname(file), { recursive: true })
  await writeFile(file, `---\ntitle: ${JSON.stringify(title)}\n---\n\n${text}\n`)
}

const writeJson = (name: string, value: unknown): Promise<void> =>
  writeFile(join(docs, name), JSON.stringify(value, undefined, 2))

const linksTo = (pages: ReadonlyArray<Page>) => pages.map(({ path, title }) => ({ text: title, link: `/${path}` }))

const group = (text: string, pages: ReadonlyArray<Page>) => ({ text, items: linksTo(pages) })

interface Item {
  readonly text: string
  readonly link?: string
  readonly collapsed?: boolean
  readonly items?: ReadonlyArray<Item>
}

/** The modules, of which those of an entry point with several are a menu of their own, closed until somebody opens it. */
const modulesMenu = (pages: ReadonlyArray<Page>): ReadonlyArray<Item> => {
  const byEntryPoint = Map.groupBy(pages, ({ title }) => title.split(".")[0] ?? title)
  return [...byEntryPoint].flatMap(([text, pages]): ReadonlyArray<Item> =>
    pages.length === 1 ? linksTo(pages) : [{ text, collapsed: true, items: linksTo(pages) }]
  )
}

const writePages = async (): Promise<void> => {
  const all = await publicModules(root, join(root, ".strata/declarations"))
  const written = await guides(root)
  const ofModules = await Promise.all(all.map(modulePage))
  const tables = (await references(all)).map(({ path, text, title }) => ({
    path,
    title,
    text: relinked(text, fileOf({ path }))
  }))
  await rm(docs, { recursive: true, force: true })
  await Promise.all([...written.guides, ...written.others, ...tables, ...ofModules].map(write))
  await cp(join(root, "resources/guides"), join(docs, "guides"), {
    recursive: true,
    filter: (file) => !file.endsWith(".md")
  })
  await writeJson("places.json", places(all))
  await writeJson("menu.json", [
    group("Guides", written.guides),
    group("Reference", tables),
    { text: "Modules", items: modulesMenu(ofModules) },
    group("The project", written.others)
  ])
}

const { values } = parseArgs({ options: { serve: { type: "boolean", default: false } } })
await writePages()
await build(import.meta.dirname)
if (values.serve) await serve({ root: import.meta.dirname })
