/**
 * Who may call a console: its own page, and programs, but no page of another site.
 *
 * **Details**
 *
 * A browser sends a request of any site to 127.0.0.1, and a site can have a name that leads there. So the name of the host has
 * to be one that was given, where some were; a request to the API that another site has made is refused, by what the browser
 * says of it; and a change has to be JSON from a page of the same origin, or from a program, which names no origin. No request
 * is trusted for a cookie: the console has none.
 */
import { Effect } from "effect"
import { type Headers, HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { Settings } from "./Settings.ts"

/** No script, style, picture or frame from elsewhere, and none that stands in a page. */
const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'"
].join("; ")

const responseHeaders = {
  "content-security-policy": contentSecurityPolicy,
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY"
}

/** Whether the browser says that another site makes the request: a navigation to the page itself is none of these. */
const isOfOtherSite = (headers: Headers.Headers): boolean => {
  const site = headers["sec-fetch-site"]
  if (site === undefined || site === "same-origin" || site === "none") return false
  return !(headers["sec-fetch-mode"] === "navigate" && headers["sec-fetch-dest"] === "document")
}

/** Whether a page of another origin has made the request. A program names no origin. */
const isOfOtherOrigin = ({ host, origin }: Headers.Headers): boolean =>
  origin !== undefined && (!URL.canParse(origin) || new URL(origin).host !== host)

/** A form and a beacon can send anything but this. */
const isJson = (headers: Headers.Headers): boolean =>
  /^application\/json(?:;|$)/i.test((headers["content-type"] ?? "").trim())

const isRead = (method: string): boolean => method === "GET" || method === "HEAD"

/** Why a request is refused, if it is. */
export const objection = (
  { headers, method }: Pick<HttpServerRequest.HttpServerRequest, "headers" | "method">,
  { allowWrites, hosts }: Pick<Settings, "allowWrites" | "hosts">
): string | undefined => {
  if (hosts !== undefined && !hosts.includes(headers["host"] ?? "")) return "this host is not the console's"
  if (isOfOtherSite(headers)) return "another site has made this request"
  if (isRead(method)) return undefined
  if (isOfOtherOrigin(headers)) return "a page of another origin has made this request"
  if (!isJson(headers)) return "a change has to be application/json"
  if (!allowWrites) return "this console only reads; start it with --allow-writes to change things"
  return undefined
}

/** Refuses what may not be, and says to the browser what a page of the console may do. */
export const middleware = HttpRouter.middleware(
  Effect.map(
    Settings,
    (settings) => (answer) =>
      Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) => {
        const message = objection(request, settings)
        const response =
          message === undefined
            ? answer
            : Effect.succeed(HttpServerResponse.jsonUnsafe({ _tag: "NotAllowed", message }, { status: 403 }))
        return Effect.map(response, HttpServerResponse.setHeaders(responseHeaders))
      })
  )
)
