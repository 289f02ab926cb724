/** The address of each thing: the part of the URL after `#`, so that the console works under any path. */
import { useEffect, useState } from "preact/hooks"

export interface Route {
  /** The page, and what it is about. */
  readonly parts: ReadonlyArray<string>
  readonly query: URLSearchParams
}

type Values = Readonly<Record<string, string | undefined>>

const routeOf = (hash: string): Route => {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?")
  return {
    parts: path
      .split("/")
      .filter((part) => part !== "")
      .map(decodeURIComponent),
    query: new URLSearchParams(query)
  }
}

/** The address of a page. Values that are absent or empty are left out. */
export const href = (parts: ReadonlyArray<string>, values: Values = {}): string => {
  const query = new URLSearchParams()
  for (const [key, value] of Object.entries(values)) if (value !== undefined && value !== "") query.set(key, value)
  const text = query.toString()
  return `#/${parts.map(encodeURIComponent).join("/")}${text === "" ? "" : `?${text}`}`
}

/** The same page with other values. */
export const hrefWith = ({ parts, query }: Route, values: Values): string =>
  href(parts, { ...Object.fromEntries(query), ...values })

export const go = (address: string): void => {
  globalThis.location.hash = address
}

export const useRoute = (): Route => {
  const [route, setRoute] = useState(() => routeOf(globalThis.location.hash))
  useEffect(() => {
    const changed = () => setRoute(routeOf(globalThis.location.hash))
    globalThis.addEventListener("hashchange", changed)
    return () => globalThis.removeEventListener("hashchange", changed)
  }, [])
  return route
}

/** An event of the log, beside whichever events are listed. */
export const eventHref = (version: string): string => href(["log"], { event: version })
export const aggregateHref = (aggregate: string): string => href(["log"], { aggregate })
export const historyHref = (aggregate: string): string => href(["history", aggregate])
export const projectionHref = (name: string): string => href(["projections", name])
export const processesHref = (): string => href(["processes"])
export const stateHref = (id: string): string => href(["states"], { from: id, state: id })
/** A message, beside those of its queue. */
export const messageHref = ({ id, queue }: { readonly id: string; readonly queue: string | null }): string =>
  href(["spool"], { queue: queue === null ? "none" : `=${queue}`, message: JSON.stringify([queue, id]) })
export const queueHref = (queue: string | null, state?: string): string =>
  href(["spool"], { queue: queue === null ? "none" : `=${queue}`, state })
