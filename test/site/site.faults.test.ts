/** `npm run docs` makes a site that is complete, and that a browser shows well. */
import { assert, describe, it } from "@effect/vitest"
import { readdir, readFile } from "node:fs/promises"
import { createServer, type Server } from "node:http"
import { extname, join } from "node:path"
import { type Browser, chromium as driver, type Page } from "playwright-core"
import { afterAll, beforeAll } from "vitest"
import { manifest } from "../package/project.ts"
import { root, run } from "../package/run.ts"
import { chromium, launchOptions } from "./browser.ts"

const site = join(root, ".strata/site")
const types: Readonly<Record<string, string>> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
  ".json": "application/json"
}

let server: Server
let origin: string

beforeAll(async () => {
  const main = join(root, "resources/site/main.ts")
  await run(process.execPath, ["--conditions=@effect-strata/source", main], { cwd: root })
  server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? "/", "http://site")
    readFile(join(site, pathname.endsWith("/") ? `${pathname}index.html` : pathname)).then(
      (body) => response.writeHead(200, { "content-type": types[extname(pathname)] ?? "text/html" }).end(body),
      () => response.writeHead(404).end()
    )
  })
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve)
  })
  const address = server.address()
  origin = `http://127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}`
})

afterAll(() => {
  server.close()
})

const entryPoints = Object.keys(manifest.exports).filter((name) => name !== "./package.json")

const idsOf = async (page: string): Promise<ReadonlySet<string>> => {
  const html = await readFile(join(site, `reference/${page}.html`), "utf8")
  return new Set([...html.matchAll(/ id="([^"]+)"/g)].flatMap(([, id]) => id ?? []))
}

const isNamespace = (value: unknown): value is object =>
  typeof value === "object" && value !== null && Reflect.get(value, Symbol.toStringTag) === "Module"

/** The pages of an entry point, each with the names that a program can import from it. */
const expectedPages = async (entryPoint: string): Promise<ReadonlyArray<readonly [string, ReadonlyArray<string>]>> => {
  const name = entryPoint.replace(/^\.\/?/, "")
  const exports: Readonly<Record<string, unknown>> = await import(
    name === "" ? "effect-strata" : `effect-strata/${name}`
  )
  const namespaces = Object.entries(exports).filter(([, value]) => isNamespace(value))
  const own = Object.keys(exports).filter((key) => !isNamespace(exports[key]))
  return [
    ...(own.length === 0 ? [] : [[name, own] as const]),
    ...namespaces.map(([key, value]) => [name === "" ? key : `${name}/${key}`, Object.keys(Object(value))] as const)
  ]
}

describe("the reference", () => {
  it.each(entryPoints)("explains every name that %s exports", async (entryPoint) => {
    const pages = await expectedPages(entryPoint)
    assert.isNotEmpty(pages)
    for (const [page, names] of pages) {
      const ids = await idsOf(page)
      assert.deepStrictEqual(
        names.filter((name) => !ids.has(name)),
        [],
        page
      )
    }
  })

  it("has no public module without a word about it", async () => {
    for (const entryPoint of entryPoints) {
      for (const [page] of await expectedPages(entryPoint)) {
        const html = await readFile(join(site, `reference/${page}.html`), "utf8")
        const [, intro = ""] = /<main[\s\S]*?<\/h1>([\s\S]*?)<h2/.exec(html) ?? []
        assert.match(intro, /<p>/, page)
      }
    }
  })
})

describe.skipIf(chromium === undefined)("the site in a browser", () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await driver.launch(launchOptions)
  })
  afterAll(() => browser.close())

  /** Opens a page, and fails if it asks another host for anything, or if its scripts fail. */
  const open = async (path: string): Promise<Page> => {
    const page = await browser.newPage({ viewport: { width: 1400, height: 900 } })
    const wrong: Array<string> = []
    page.on("request", (request) => {
      if (!request.url().startsWith(origin) && !request.url().startsWith("data:")) wrong.push(request.url())
    })
    page.on("pageerror", (error) => wrong.push(error.message))
    await page.goto(`${origin}${path}`)
    await page.waitForFunction("document.querySelector('#app').__vue_app__ !== undefined")
    assert.deepStrictEqual(wrong, [])
    return page
  }

  const htmlFiles = async (): Promise<ReadonlyArray<string>> => {
    const files = await readdir(site, { recursive: true })
    return files.filter((file) => file.endsWith(".html")).map((file) => `/${file}`)
  }

  it("fits each page into 400 and into 1,400 pixels", async () => {
    for (const path of await htmlFiles()) {
      const page = await open(path)
      for (const width of [400, 1400]) {
        await page.setViewportSize({ width, height: 900 })
        assert.isAtMost(Number(await page.evaluate("document.documentElement.scrollWidth")), width, path)
      }
      await page.close()
    }
    // A busy machine takes a second or two for each of its pages.
  }, 900_000)

  it("finds what somebody searches for", async () => {
    const page = await open("/index.html")
    await page.locator(".DocSearch-Button").click()
    await page.locator("#localsearch-input").fill("advanceOffset")
    await page.locator('#localsearch-list a[href$="/reference/OffsetStore.html#OffsetStore.advanceOffset"]').waitFor()
    assert.isAbove(await page.locator("#localsearch-list a").count(), 1)
    await page.close()
  })

  it("is dark where the reader wants it", async () => {
    const page = await open("/guides/events.html")
    await page.locator(".VPSwitchAppearance").first().click()
    assert.strictEqual(await page.evaluate("document.documentElement.classList.contains('dark')"), true)
    await page.close()
  })

  it("leads from a name in a guide to its place in the reference", async () => {
    const page = await open("/guides/offsets.html")
    await page.locator("a.name", { hasText: "advanceOffset" }).first().click()
    await page.waitForURL("**/reference/OffsetStore.html#OffsetStore.advanceOffset")
    // The address changes before the page does.
    const place = page.locator('h3[id="OffsetStore.advanceOffset"]')
    await place.waitFor()
    assert.match((await place.textContent()) ?? "", /^advanceOffset/)
    await page.close()
  })
})
