/** The console as people use it: in a browser, on a server and on a Postgres inside the process. */
import { assert, describe, it, layer } from "@effect/vitest"
import { Context, Effect, Latch, Layer, type Scope, Stream } from "effect"
import { EventStore, Projection, Transactor } from "effect-strata"
import type { Stores } from "effect-strata/postgres"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { type Browser, chromium as driver, type Locator } from "playwright-core"
import { afterAll, beforeAll } from "vitest"
import { start } from "../cli/harness.ts"
import { root } from "../package/run.ts"
import { execute, freshRole } from "../postgres/harness.ts"
import { chromium, launchOptions } from "../site/browser.ts"
import { postgresUrl } from "../support/database.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { build, type Look, open, violationsOf } from "./page.ts"
import { onServer, places, poolOf } from "./places.ts"
import { clientOf, type Place, serve, shared, storesOf } from "./serving.ts"
import * as Shop from "./shop.ts"

let browser: Browser
beforeAll(async () => {
  await build()
  if (chromium !== undefined) browser = await driver.launch(launchOptions)
})
afterAll(() => browser?.close())

/** How long a page may take to show something, on a machine that is busy. */
const patience = { timeout: 60_000 }

describe("the page's files", () => {
  it("have at most 150 kB of script, and the licenses of what is in them", async () => {
    const file = (name: string) => readFile(join(root, "dist/console/page", name))
    assert.isBelow(gzipSync(await file("page.js")).length, 150_000)
    assert.match(String(await file("licenses.txt")), /^preact [\d.]+\n\nThe MIT License/)
    assert.notMatch(String(await file("index.html")), /<script(?![^>]* src=)|<style|style=/)
  })
})

class Shown extends Context.Service<
  Shown,
  Place & { readonly stores: Context.Context<Stores>; readonly url: string }
>()("strata-test/console/ShownPage") {
  static readonly layer = (place: Effect.Effect<Place, never, Scope.Scope>) =>
    Layer.effect(
      Shown,
      Effect.gen(function* () {
        const where = yield* place
        const stores = yield* storesOf(where)
        yield* Effect.provide(Effect.andThen(Shop.open, Shop.accounts), stores)
        return { ...where, stores, url: yield* serve(where.pool, { postgres: where.options, entities: [Shop.Order] }) }
      })
    )
}

/** The addresses of pages, each with what is there once it is complete. */
const pages = [
  ["overview", ".problems"],
  ["log", ".rows-body .row"],
  ["log?event=20", ".detail .json"],
  ["history/order-7", ".step .json"],
  ["stats", "meter"],
  ["projections", ".rows-body .row"],
  ["projections/mailing", ".stack"],
  ["processes", "tbody tr"],
  ["spool", ".rows-body .row"],
  ["states?state=account-1", ".detail .json"],
  ["doctor", "table"],
  ["spool?queue=%3Dmails&state=bounce&message=%5B%22mails%22%2C%22mail-3%22%5D", ".detail .json"]
] as const

/** Clicks, and counts how often it has clicked. */
const clicksIn = () => {
  let count = 0
  return {
    on: async (place: Locator) => {
      count++
      await place.click(patience)
    },
    count: () => count
  }
}

const opened = (url: string, look?: Look) =>
  Effect.acquireRelease(
    Effect.promise(() => open(browser, url, look)),
    ({ page }) => Effect.promise(() => page.close())
  )

for (const [name, place] of places) {
  layer(Shown.layer(place), { excludeTestServices: true })(`the console in a browser, on ${name}`, (it) => {
    const isLeftOut = chromium === undefined

    it.effect.skipIf(isLeftOut)("answers in at most three clicks which mail failed, and why", () =>
      Effect.gen(function* () {
        const { url } = yield* Shown
        const { page, wrong } = yield* opened(url)
        const clicks = clicksIn()
        yield* Effect.promise(async () => {
          await clicks.on(page.getByRole("link", { name: /2 messages of queue "mails" could not be delivered/ }))
          await clicks.on(page.getByRole("link", { name: "mail-7" }))
          await page.locator(".detail .error-text", { hasText: "mailbox unavailable" }).waitFor(patience)
          await page.locator(".detail .json", { hasText: "customer-7@example.org" }).waitFor(patience)
          assert.isAtMost(clicks.count(), 3)
          assert.deepStrictEqual(wrong, [])
        })
      })
    )

    // The handler waits in its transaction, and a Postgres inside the process has one session.
    it.effect.skipIf(isLeftOut || name !== "a server")(
      "answers in at most three clicks whether a rebuild is done",
      () =>
        Effect.gen(function* () {
          const { stores, url } = yield* Shown
          const gate = yield* Latch.make(true)
          const ledger = Projection.make({
            name: "ledger",
            heartbeat: "500 millis",
            clear: () => gate.close,
            // Every batch but the first one of a rebuild waits for the gate.
            batchSize: 10,
            handler: ({ version }) => (version > 20n ? gate.await : Effect.void)
          })
          yield* Effect.forkScoped(Effect.provide(Projection.run(ledger), stores))
          yield* Effect.provide(Shop.caughtUp("ledger"), stores)
          const { page, wrong } = yield* opened(url)
          const clicks = clicksIn()
          yield* Effect.promise(() => page.locator(".problems").waitFor(patience))
          yield* Effect.provide(Projection.askRebuild("ledger", "5 minutes"), stores)
          yield* Effect.promise(async () => {
            await clicks.on(page.getByRole("link", { name: "Projections" }).first())
            await clicks.on(page.getByRole("link", { name: "ledger" }).first())
            const done = page.locator(".badge", { hasText: "complete" })
            await page.getByText(/^\d?\d\.\d% of version/).waitFor(patience)
            assert.strictEqual(await done.count(), 0)
            await Effect.runPromise(gate.open)
            await done.waitFor(patience)
            assert.isAtMost(clicks.count(), 3)
            assert.deepStrictEqual(wrong, [])
          })
          yield* Effect.provide(Projection.remove("ledger"), stores)
        })
    )

    it.effect.skipIf(isLeftOut)("leads from the overview to why a projection does not go on", () =>
      Effect.gen(function* () {
        const { url } = yield* Shown
        const { page, wrong } = yield* opened(url)
        yield* Effect.promise(async () => {
          await page.getByRole("link", { name: /projection "invoices" fails at version/ }).click(patience)
          await page.locator(".stack", { hasText: "no account for emil" }).waitFor(patience)
          assert.deepStrictEqual(wrong, [])
        })
      })
    )

    it.effect.skipIf(isLeftOut)("draws the last hour, also what was seen before the page was opened", () =>
      Effect.gen(function* () {
        const { options, pool } = yield* Shown
        const url = yield* serve(pool, { postgres: options })
        const { overview } = yield* clientOf(url)
        const atLeast = (count: number) =>
          Effect.repeat(overview.history(), { until: ({ samples }) => samples.length >= count })
        const first = (yield* atLeast(1)).samples[0]?.at.epochMilliseconds ?? 0
        yield* Effect.raceFirst(Effect.flatMap(overview.live(), Stream.runDrain), atLeast(3))
        const { go, page, wrong } = yield* opened(url)
        yield* Effect.promise(async () => {
          const since = new Date(first).toLocaleTimeString("en-GB")
          for (const title of ["Events a second", "Lag of the slowest projection", "Messages waiting"]) {
            const chart = page.getByRole("img", { name: new RegExp(`^${title}, since [\\d:]+: .* at most`) })
            await chart.locator(".chart-line").waitFor({ ...patience, state: "attached" })
          }
          await page.getByRole("img", { name: `Messages waiting, since ${since}: 25 messages now` }).waitFor(patience)
          await page.locator(".chart").last().hover(patience)
          await page.locator(".chart-caption strong", { hasText: "25 messages" }).waitFor(patience)
          await go("projections/invoices")
          await page.getByRole("img", { name: `Lag of invoices, since ${since}` }).waitFor(patience)
          assert.deepStrictEqual(wrong, [])
        })
      })
    )

    it.effect.skipIf(isLeftOut)("says which process runs what, and leads from there to each projection", () =>
      Effect.gen(function* () {
        const { url } = yield* Shown
        const { go, page, wrong } = yield* opened(url)
        yield* Effect.promise(async () => {
          await page.getByRole("link", { name: "processes" }).click(patience)
          const row = page.getByRole("row", { name: new RegExp(`\\b${process.pid}\\b`) })
          await row.getByText("running").waitFor(patience)
          await row.getByText("shards 0, 1, 2, 3").waitFor(patience)
          await row.getByRole("link", { name: "balances" }).click(patience)
          await page.getByRole("link", { name: "all processes" }).click(patience)
          await row.waitFor(patience)
          await go("projections")
          await page.getByRole("link", { name: "Processes that run them" }).click(patience)
          await row.waitFor(patience)
          assert.deepStrictEqual(wrong, [])
        })
      })
    )

    // A Postgres inside the process has one session, so that nobody can hold up another one.
    it.effect.skipIf(isLeftOut || name !== "a server")("answers without a click why subscribers are held up", () =>
      Effect.gen(function* () {
        const { stores, url } = yield* Shown
        const { page } = yield* opened(url)
        const { withTransaction } = Context.get(stores, Transactor.Transactor)
        yield* withTransaction(
          Effect.andThen(
            Shop.orders(201, 201),
            Effect.promise(() =>
              page
                .getByTestId("holders")
                .getByText(/pid \d+/)
                .waitFor(patience)
            )
          )
        ).pipe(Effect.provide(stores))
      })
    )

    it.effect.skipIf(isLeftOut)("follows the log, and shows what comes without a reload", () =>
      Effect.gen(function* () {
        const { stores, url } = yield* Shown
        const { go, page, wrong } = yield* opened(url)
        yield* Effect.promise(async () => {
          await go("log?type=OrderShipped")
          await page.getByRole("row", { name: /order-59/ }).waitFor(patience)
        })
        yield* Effect.provide(Shop.orders(301, 303), stores)
        yield* Effect.promise(async () => {
          await page.getByRole("row", { name: /order-303/ }).waitFor(patience)
          assert.strictEqual(await page.getByRole("row", { name: /OrderPaid/ }).count(), 0)
          assert.deepStrictEqual(wrong, [])
        })
      })
    )

    it.effect.skipIf(isLeftOut)("folds the state of an aggregate event after event, where an entity knows it", () =>
      Effect.gen(function* () {
        const { options, pool, url } = yield* Shown
        const { go, page, wrong } = yield* opened(url)
        yield* Effect.promise(async () => {
          await go("log?type=OrderShipped&aggregate=order-7")
          await page
            .getByRole("row", { name: /order-7/ })
            .getByRole("link")
            .click(patience)
          await page.getByRole("link", { name: "its history" }).click(patience)
          await page.locator(".step").nth(2).waitFor(patience)
          const states = page.getByRole("region", { name: "order after it" })
          assert.strictEqual(await states.count(), 3)
          await states.first().getByText("P-7007").waitFor(patience)
          assert.strictEqual(await states.nth(1).getByText("P-7007").count(), 0)
          assert.deepStrictEqual(wrong, [])
        })
        const other = yield* opened(yield* serve(pool, { postgres: options }))
        yield* Effect.promise(async () => {
          await other.go("history/order-7")
          await other.page.getByText(/the command has none/).waitFor(patience)
        })
      })
    )

    it.effect.skipIf(isLeftOut)("skips what comes faster than it can be shown, and says so", () =>
      Effect.gen(function* () {
        const { stores, url } = yield* Shown
        const { go, page, wrong } = yield* opened(url)
        yield* Effect.promise(async () => {
          await go("log")
          await page.locator(".rows-body .row").first().waitFor(patience)
        })
        const { append } = Context.get(stores, EventStore.EventStore)
        const flood = Array.from({ length: 3000 }, (_, number) => ({
          aggregateId: `meter-${number % 7}`,
          eventType: "Measured",
          data: { number }
        }))
        yield* append(flood)
        yield* Effect.promise(async () => {
          await page.getByText(/Too fast to show each: [\d,]+ versions were passed over/).waitFor(patience)
          await page.locator(".preview", { hasText: '{"number":2999}' }).waitFor(patience)
          // Of a long list only what is in sight is in the page.
          assert.isBelow(await page.locator(".rows-body .row").count(), 80)
          assert.deepStrictEqual(wrong, [])
        })
      })
    )

    it.effect.skipIf(isLeftOut)("says which looks it has missed, where it was too slow for them", () =>
      Effect.gen(function* () {
        const { url } = yield* Shown
        const page = yield* Effect.acquireRelease(
          Effect.promise(() => browser.newPage()),
          (page) => Effect.promise(() => page.close())
        )
        yield* Effect.promise(async () => {
          // A stream that gives the newest moment only, as it does to a page that does not take each.
          await page.addInitScript(`globalThis.EventSource = class extends EventSource {
              addEventListener(type, listener) {
                super.addEventListener(type, (event) => {
                  if (type !== "message" || JSON.parse(event.data).look % 3 === 0) listener(event)
                })
              }
            }`)
          await page.goto(url)
          await page.getByText(/This page was too slow for \d+ looks: it shows the newest one/).waitFor(patience)
        })
      })
    )

    it.effect.skipIf(isLeftOut)("proves that the server keeps every event, and shows how far it is", () =>
      Effect.gen(function* () {
        const { options, pool } = yield* Shown
        const { go, page, wrong } = yield* opened(yield* serve(pool, { postgres: options, allowWrites: true }))
        yield* Effect.promise(async () => {
          await go("doctor")
          await page.getByRole("textbox", { name: "For how many seconds" }).fill("601")
          const prove = page.getByRole("button", { name: "Prove it", exact: true })
          assert.isTrue(await prove.isDisabled())
          await page.getByRole("textbox", { name: "For how many seconds" }).fill("4")
          await prove.click(patience)
          const dialog = page.getByRole("dialog", { name: "Prove it" })
          await dialog.getByText(/a subscriber for 4 seconds/).waitFor(patience)
          await dialog.getByRole("button", { name: "Prove it", exact: true }).click(patience)
          await dialog.getByText(/The proof runs for 4s/).waitFor(patience)
          await page.getByRole("progressbar", { name: "How far the proof is" }).waitFor(patience)
          await page.getByText(/of 4 s, [\d,]+ events? delivered/).waitFor(patience)
          await dialog.getByRole("button", { name: "Close" }).click(patience)
          await page
            .getByRole("status")
            .getByText(/: 0 lost, 0 twice or out of order/)
            .waitFor(patience)
          assert.deepStrictEqual(wrong, [])
        })
      })
    )

    it.effect.skipIf(isLeftOut)("judges by other limits, counts the log, and gives it as a file", () =>
      Effect.gen(function* () {
        const { url } = yield* Shown
        const { go, page, wrong } = yield* opened(url)
        yield* Effect.promise(async () => {
          await go("doctor")
          await page.getByText(/of queue "mails" could not be delivered/).waitFor(patience)
          await page.getByRole("textbox", { name: "Bounced messages" }).fill("100")
          await page.getByRole("button", { name: "Check by these" }).click(patience)
          await page.getByText(/of queue "mails" could not be delivered/).waitFor({ ...patience, state: "detached" })
          await go("log")
          await page.getByRole("link", { name: "What it consists of" }).click(patience)
          await page.getByRole("group", { name: "Type" }).getByRole("link", { name: "OrderPlaced" }).waitFor(patience)
          await go("log")
          const [download] = await Promise.all([
            page.waitForEvent("download", patience),
            page.getByRole("link", { name: "Export" }).click(patience)
          ])
          assert.strictEqual(download.suggestedFilename(), "events.jsonl")
          assert.match(String(await readFile(await download.path())), /"sha256":"[\da-f]{64}"\}\n$/)
          await go("states?text=%22EUR%22&manifest=Account")
          await page.getByRole("row", { name: /account-5/ }).waitFor(patience)
          await go("states?text=DM")
          await page.getByText("All were looked through").waitFor(patience)
          assert.deepStrictEqual(wrong, [])
        })
      })
    )

    it.effect.skipIf(isLeftOut)("shows what looks like a script as text, and large numbers whole", () =>
      Effect.gen(function* () {
        const { url } = yield* Shown
        const { go, page, wrong } = yield* opened(url)
        yield* Effect.promise(async () => {
          await go("log?type=Noted")
          await page
            .getByRole("row", { name: /<img src=x/ })
            .getByRole("link")
            .click(patience)
          await page.locator(".json-string", { hasText: "<script>document.title" }).first().waitFor(patience)
          assert.strictEqual(await page.locator("img[src=x], .json-body script").count(), 0)
          assert.notInclude(await page.title(), "taken")
          await go("log?type=Imported")
          await page
            .getByRole("row", { name: /import-1/ })
            .getByRole("link")
            .click(patience)
          await page.locator(".json-number", { hasText: String(Shop.large) }).waitFor(patience)
          assert.deepStrictEqual(wrong, [])
        })
      })
    )

    it.effect.skipIf(isLeftOut)("changes things after it has asked, where it may", () =>
      Effect.gen(function* () {
        const { options, pool, url: readOnly } = yield* Shown
        const url = yield* serve(pool, { postgres: options, allowWrites: true, who: () => Effect.succeed("anna") })
        const { go, page, wrong } = yield* opened(url)
        yield* Effect.promise(async () => {
          const confirm = async (name: string, question: RegExp, done: RegExp) => {
            await page.getByRole("button", { name, exact: true }).click(patience)
            const dialog = page.getByRole("dialog", { name })
            await dialog.getByText(question).waitFor(patience)
            await dialog.getByText(/the log will say that anna did it/).waitFor(patience)
            assert.deepStrictEqual(await violationsOf(page), [], name)
            await dialog.getByRole("button", { name, exact: true }).click(patience)
            await dialog.getByText(done).waitFor(patience)
            await dialog.getByRole("button", { name: "Close" }).click(patience)
          }
          await go("projections/balances")
          await confirm("Pause", /Stop balances in every process/, /"balances" is paused/)
          await confirm("Resume", /Let balances go on/, /"balances" goes on/)
          await go("spool?queue=%3Dwebhooks&state=incoming&message=%5B%22webhooks%22%2C%22hook-3%22%5D")
          await confirm("Hold", /Keep the message hook-3 of queue webhooks/, /is hold/)
          await page.locator(".detail .badge", { hasText: "hold" }).waitFor(patience)
          await page.getByRole("button", { name: "Edit the payload" }).click(patience)
          const send = page.getByRole("button", { name: "Deliver with this" })
          assert.isTrue(await send.isDisabled())
          await page.getByRole("textbox", { name: "The payload as JSON" }).fill('{"url":"https://example.org/other"}')
          await confirm("Deliver with this", /this payload, and have it delivered again/, /has another payload/)
          await page.locator(".detail .json", { hasText: "https://example.org/other" }).waitFor(patience)
          await confirm("Hold", /Keep the message hook-3 of queue webhooks/, /is hold/)
          await go("spool?queue=%3Dwebhooks&state=hold")
          await confirm("Deliver all again", /all messages in hold of queue webhooks/, /1 message is incoming/)
          assert.deepStrictEqual(wrong, [])
        })
        const other = yield* opened(readOnly)
        yield* Effect.promise(async () => {
          await other.go("projections/balances")
          const pause = other.page.getByRole("button", { name: "Pause", exact: true })
          await pause.waitFor(patience)
          assert.isTrue(await pause.isDisabled())
        })
      })
    )

    it.effect.skipIf(isLeftOut || name !== "a server")(
      "shows beforehand what the role may not do, with the grant",
      () =>
        Effect.gen(function* () {
          const { options } = yield* Shown
          const { role, url: database } = yield* freshRole()
          yield* execute([
            `GRANT USAGE ON SCHEMA ${options.schema} TO ${role}`,
            `GRANT SELECT ON ALL TABLES IN SCHEMA ${options.schema} TO ${role}`
          ])
          const { go, page } = yield* opened(yield* serve(poolOf(database), { postgres: options, allowWrites: true }))
          yield* Effect.promise(async () => {
            await go("projections/balances")
            await page
              .getByTestId("missing-grants")
              .getByText(/GRANT UPDATE ON \S+offsets_store TO/)
              .waitFor(patience)
            const pause = page.getByRole("button", { name: "Pause", exact: true })
            assert.isTrue(await pause.isDisabled())
            assert.match((await pause.getAttribute("title")) ?? "", /GRANT INSERT ON/)
            assert.deepStrictEqual(await violationsOf(page), [])
          })
        })
    )

    it.effect.skipIf(isLeftOut)("goes by the keyboard", () =>
      Effect.gen(function* () {
        const { url } = yield* Shown
        const { page } = yield* opened(url)
        yield* Effect.promise(async () => {
          await page.locator(".problems").waitFor(patience)
          await page.keyboard.press("g")
          await page.keyboard.press("l")
          await page.locator(".rows-body .row").first().waitFor(patience)
          await page.keyboard.press("j")
          await page.locator(".detail .json").first().waitFor(patience)
          const first = await page.locator(".row.is-selected").textContent(patience)
          await page.keyboard.press("j")
          await page.locator(".row.is-selected", { hasNotText: first ?? "" }).waitFor(patience)
          await page.keyboard.press("Escape")
          await page.locator(".detail").waitFor({ ...patience, state: "detached" })
          await page.keyboard.press("/")
          await page.keyboard.type("order-7")
          await page.keyboard.press("Enter")
          await page.waitForURL(/aggregate=order-7/)
          await page.keyboard.press("Escape")
          await page.keyboard.press("?")
          await page.getByRole("dialog", { name: "Keys" }).waitFor(patience)
        })
      })
    )

    it.effect.skipIf(isLeftOut)("is usable by everybody, in both themes, and from 400 to 2,500 pixels", () =>
      Effect.gen(function* () {
        const { url } = yield* Shown
        for (const colorScheme of ["light", "dark"] as const) {
          const { go, page, wrong } = yield* opened(url, { colorScheme })
          for (const [address, complete] of pages) {
            yield* Effect.promise(async () => {
              await go(address)
              await page.locator(complete).first().waitFor(patience)
              assert.deepStrictEqual(await violationsOf(page), [], `${address}, ${colorScheme}`)
              for (const width of [2500, 1400, 760, 400]) {
                await page.setViewportSize({ width, height: 900 })
                assert.isAtMost(Number(await page.evaluate("document.documentElement.scrollWidth")), width, address)
              }
              assert.deepStrictEqual(await violationsOf(page), [], `${address}, ${colorScheme}, narrow`)
              await page.setViewportSize({ width: 1400, height: 900 })
            })
          }
          assert.deepStrictEqual(wrong, [])
        }
      })
    )
  })
}

describe("the last hour", () => {
  it.live("goes on where nobody looks", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { options, pool } = yield* onServer
        yield* storesOf({ options, pool })
        const { overview } = yield* clientOf(yield* serve(pool, { postgres: options }))
        const { samples } = yield* Effect.repeat(Effect.delay(overview.history(), "500 millis"), {
          until: ({ samples }) => samples.length > 1
        })
        assert.isAbove(samples[1]?.at.epochMilliseconds ?? 0, samples[0]?.at.epochMilliseconds ?? 0)
      })
    )
  )
})

describe("a projection whose log was replaced", () => {
  it.live.skipIf(chromium === undefined)("goes on once the log is accepted, and is gone once it is removed", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { options, pool } = yield* onServer
        const stores = yield* storesOf({ options, pool })
        const ledger = Projection.make({ name: "ledger", handler: () => Effect.void })
        yield* Effect.provide(Effect.andThen(Shop.orders(1, 3), Shop.ranOnce(ledger)), stores)
        yield* execute([`TRUNCATE ${options.schema}.events, ${options.schema}.events_tags RESTART IDENTITY`])
        yield* Effect.provide(Shop.orders(4, 4), stores)
        const { go, page, wrong } = yield* opened(yield* serve(pool, { postgres: options, allowWrites: true }))
        yield* Effect.promise(async () => {
          const confirm = async (name: string, question: RegExp, done: RegExp) => {
            await page.getByRole("button", { name, exact: true }).click(patience)
            const dialog = page.getByRole("dialog", { name })
            await dialog.getByText(question).waitFor(patience)
            await dialog.getByRole("button", { name, exact: true }).click(patience)
            await dialog.getByText(done).waitFor(patience)
            await dialog.getByRole("button", { name: "Close" }).click(patience)
          }
          await go("projections/ledger")
          await confirm(
            "Accept the log",
            /events that the log has now below the offset are not handled/,
            /after version 2/
          )
          await page.getByText("100% of version 2").waitFor(patience)
          await confirm("Remove", /Forget how far ledger is/, /"ledger" is removed/)
          await page.getByText("No projection has run on this database yet").waitFor(patience)
          assert.deepStrictEqual(wrong, [])
        })
      })
    )
  )
})

describe("a database server that is killed", () => {
  it.live.skipIf(chromium === undefined)("is said to be gone, and the page goes on once it is back", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        const pool = yield* shared(poolOf(server.url))
        const stores = yield* storesOf({ pool, options: {} })
        yield* Effect.provide(Shop.orders(1, 3), stores)
        const { go, page } = yield* opened(yield* serve(pool))
        yield* Effect.promise(async () => {
          await go("log")
          await page
            .getByRole("row", { name: /order-3/ })
            .first()
            .waitFor(patience)
        })
        yield* server.kill
        const banner = page.getByRole("alert").getByText("The database does not answer")
        yield* Effect.promise(() => banner.waitFor(patience))
        yield* server.start
        yield* Effect.promise(() => banner.waitFor({ ...patience, state: "detached" }))
        yield* Effect.provide(Shop.orders(4, 4), stores)
        yield* Effect.promise(() =>
          page
            .getByRole("row", { name: /order-4/ })
            .first()
            .waitFor(patience)
        )
      })
    )
  )
})

describe("strata console", () => {
  const database = ["--url", postgresUrl]

  it.live.skipIf(chromium === undefined)("comes back in the page once it runs again", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { options, pool } = yield* onServer
        yield* storesOf({ options, pool })
        const args = ["console", ...database, "--schema", options.schema ?? ""]
        const first = yield* start([...args, "--port", "0"])
        yield* first.says(/http:\S+\/ until/)
        const url = /http:\S+\//.exec(first.written())?.[0] ?? ""
        const { page } = yield* opened(url)
        yield* Effect.promise(() => page.getByTestId("all-well").waitFor(patience))
        first.child.kill("SIGKILL")
        yield* Effect.promise(() => page.getByRole("alert").getByText("server is gone").waitFor(patience))
        const second = yield* start([...args, "--port", new URL(url).port])
        yield* second.says(/until Ctrl-C/)
        yield* Effect.promise(() => page.getByText("server is gone").waitFor({ ...patience, state: "detached" }))
        yield* Effect.promise(() => page.locator(".pulse.is-live").waitFor(patience))
      })
    )
  )
})
