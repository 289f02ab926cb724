/** Makes the pictures of the guide: each page of the console, light and dark, of a shop in which something is wrong. */
import { Effect } from "effect"
import { mkdir, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { type Browser, chromium as driver, type Page } from "playwright-core"
import { open } from "../../test/console/page.ts"
import { embedded, serve, storesOf } from "../../test/console/serving.ts"
import * as Shop from "../../test/console/shop.ts"
import { chromium, launchOptions } from "../../test/site/browser.ts"

const directory = fileURLToPath(new URL("../guides/pictures/", import.meta.url))

/** The pages by the names of their pictures, each with what is there once it is complete. */
const pages = [
  ["overview", "overview", ".tile"],
  ["log", "log?event=20", ".detail .json"],
  ["history", "history/order-7", ".step .json"],
  ["stats", "stats", "meter"],
  ["projections", "projections", ".rows-body .row"],
  ["projection", "projections/mailing", ".stack"],
  ["processes", "processes", "tbody tr"],
  ["spool", "spool?queue=%3Dmails&state=bounce&message=%5B%22mails%22%2C%22mail-3%22%5D", ".detail .json"],
  ["states", "states?state=account-1", ".detail .json"],
  ["doctor", "doctor", "table"]
] as const

const themes = ["light", "dark"] as const

/** The same picture as WebP, which is a fifth as large: the browser knows how to make it. */
const toWebp = async (blank: Page, png: Buffer): Promise<Buffer> => {
  const url = String(
    await blank.evaluate(`(async () => {
      const image = new Image()
      image.src = "data:image/png;base64,${png.toString("base64")}"
      await image.decode()
      const canvas = document.createElement("canvas")
      canvas.width = image.width
      canvas.height = image.height
      canvas.getContext("2d").drawImage(image, 0, 0)
      return canvas.toDataURL("image/webp", 0.82)
    })()`)
  )
  return Buffer.from(url.slice(url.indexOf(",") + 1), "base64")
}

const take = async (browser: Browser, url: string) => {
  const blank = await browser.newPage()
  for (const colorScheme of themes) {
    // A picture is taken of what is shown in the end: a busy machine takes its time.
    const { go, page } = await open(browser, url, { colorScheme, width: 1200, height: 720 })
    // The charts need some looks.
    await page.locator(".chart-line").nth(2).waitFor({ state: "attached" })
    for (const [name, address, complete] of pages) {
      await go(address)
      await page.locator(complete).first().waitFor()
      await writeFile(
        join(directory, `console-${name}-${colorScheme}.webp`),
        await toWebp(blank, await page.screenshot())
      )
    }
    await page.close()
  }
}

const main = Effect.gen(function* () {
  const { options, pool } = yield* embedded
  const stores = yield* storesOf({ options, pool })
  yield* Effect.provide(Effect.andThen(Shop.open, Shop.accounts), stores)
  const url = yield* serve(pool, { postgres: options, allowWrites: true, entities: [Shop.Order] })
  yield* Effect.forkScoped(Effect.provide(Effect.forever(Effect.delay(Shop.orders(400, 402), "700 millis")), stores))
  yield* Effect.acquireUseRelease(
    Effect.promise(() => driver.launch(launchOptions)),
    (browser) => Effect.promise(() => take(browser, url)),
    (browser) => Effect.promise(() => browser.close())
  )
})

if (chromium === undefined) {
  process.stderr.write("There is no Chromium here; install one, or name it: CHROMIUM=/path npm run screenshots\n")
  process.exitCode = 1
} else {
  await mkdir(directory, { recursive: true })
  await Effect.runPromise(Effect.scoped(main))
  process.exit()
}
