/** The files of the page, as the build has made them. */
import { Effect, Layer } from "effect"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { readFile } from "node:fs/promises"

/** Beside what is compiled. The sources use the page that was built last. */
const directory = new URL("../../dist/console/page/", import.meta.url)

const types = {
  "index.html": "text/html; charset=utf-8",
  "page.js": "text/javascript; charset=utf-8",
  "page.css": "text/css; charset=utf-8",
  "icon.svg": "image/svg+xml",
  "licenses.txt": "text/plain; charset=utf-8"
} as const

type Name = keyof typeof types

const notBuilt = HttpServerResponse.text("The page of the console is not built: run npm run build", { status: 503 })

/** A file of the page. A later version of the package has another one at the same address. */
const file = (name: Name) =>
  Effect.tryPromise(() => readFile(new URL(name, directory))).pipe(
    Effect.map((content) =>
      HttpServerResponse.uint8Array(content, { contentType: types[name], headers: { "cache-control": "no-cache" } })
    ),
    Effect.orElseSucceed(() => notBuilt)
  )

/** The last part of the path, as the browser has it. */
const lastPart = (url: string): string => /([^/?#]*)(?:[?#]|$)/.exec(url)?.[1] ?? ""

/** Files beside the page are found relative to it, so its address has to end with a slash. */
const page = Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ originalUrl }) => {
  const last = lastPart(originalUrl)
  return last === "" ? file("index.html") : Effect.succeed(HttpServerResponse.redirect(`${last}/`))
})

export const layer = Layer.mergeAll(
  HttpRouter.add("GET", "/", page),
  HttpRouter.add("GET", "/page.js", file("page.js")),
  HttpRouter.add("GET", "/page.css", file("page.css")),
  HttpRouter.add("GET", "/icon.svg", file("icon.svg")),
  HttpRouter.add("GET", "/licenses.txt", file("licenses.txt"))
)
