/**
 * `npm run docs`: builds the guides and the reference into one static site, in `.strata/site`. `--serve` then shows it.
 */
import { execFileSync } from "node:child_process"
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises"
import { dirname, join } from "node:path"
import { parseArgs } from "node:util"
import { build, serve } from "vitepress"
import { commandsPage } from "./commands.ts"
import { type EntryPoint, modules } from "./declarations.ts"
import { guides } from "./guides.ts"
import { errorsPage, modulePage, type Page } from "./pages.ts"
import { places } from "./places.ts"

const root = join(import.meta.dirname, "../..")
const docs = join(root, ".strata/docs")
const declarations = join(root, ".strata/declarations")

const entryPoints = async (): Promise<ReadonlyArray<EntryPoint>> => {
  const { exports } = JSON.parse(await readFile(join(root, "package.json"), "utf8"))
  return Object.keys(exports).flatMap((name) => {
    const types: unknown = exports[name].types
    const path = name.replace(/^\.\/?/, "")
    return typeof types === "string" ? [{ path, file: types.replace("./dist/", "") }] : []
  })
}

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

const declare = (): void => {
  const tsc = join(root, "node_modules/typescript/bin/tsc")
  execFileSync(process.execPath, [tsc, "-p", join(root, "src"), "--emitDeclarationOnly", "--outDir", declarations], {
    stdio: "inherit"
  })
}

const writePages = async (): Promise<void> => {
  const all = modules({ declarations, sources: join(root, "src") }, await entryPoints())
  const written = await guides(root)
  const references = await Promise.all(all.map(modulePage))
  const tables = [await commandsPage(), errorsPage(all)]
  await rm(docs, { recursive: true, force: true })
  await Promise.all([...written.guides, ...written.others, ...tables, ...references].map(write))
  await cp(join(root, "resources/guides"), join(docs, "guides"), {
    recursive: true,
    filter: (file) => !file.endsWith(".md")
  })
  await writeJson("places.json", places(all))
  await writeJson("menu.json", [
    group("Guides", written.guides),
    group("Reference", tables),
    { text: "Modules", items: modulesMenu(references) },
    group("The project", written.others)
  ])
}

const { values } = parseArgs({ options: { serve: { type: "boolean", default: false } } })
declare()
await writePages()
await build(import.meta.dirname)
if (values.serve) await serve({ root: import.meta.dirname })
