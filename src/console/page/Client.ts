/** Calls of the server, with the types of its API. */
import { useCallback, useEffect, useRef, useState } from "preact/hooks"
import type { Answer, Change, ChangePath, Path, Query, StreamPath } from "../api/Answers.ts"

/** Why a call has failed. */
export interface Failed {
  /** The name of the error, or `Unreachable` where the server did not answer. */
  readonly kind: string
  readonly message: string
}

export type Called<A> = { readonly ok: true; readonly value: A } | { readonly ok: false; readonly failed: Failed }

const textOf = (value: unknown, key: string): string | undefined => {
  const found: unknown = typeof value === "object" && value !== null ? Reflect.get(value, key) : undefined
  return typeof found === "string" ? found : undefined
}

const failedOf = async (response: Response): Promise<Failed> => {
  const body: unknown = await response.json().catch(() => undefined)
  return {
    kind: textOf(body, "_tag") ?? `Status${response.status}`,
    message: textOf(body, "message") ?? `the server answered with ${response.status}`
  }
}

const unreachable = (error: unknown): Failed => ({
  kind: "Unreachable",
  message: `the console's server does not answer: ${error instanceof Error ? error.message : String(error)}`
})

const valuesOf = (query: object): URLSearchParams => {
  const values = new URLSearchParams()
  for (const [key, value] of Object.entries(query)) if (value !== undefined) values.set(key, String(value))
  return values
}

/** Reads from a path, which is found beside the page. */
export const read = async <P extends Path>(
  path: P,
  query: Query<P> & object,
  signal?: AbortSignal
): Promise<Called<Answer<P>>> => {
  try {
    const response = await fetch(`.${path}?${valuesOf(query)}`, {
      credentials: "same-origin",
      ...(signal ? { signal } : {})
    })
    if (!response.ok) return { ok: false, failed: await failedOf(response) }
    const value: Answer<P> = await response.json()
    return { ok: true, value }
  } catch (error) {
    return { ok: false, failed: unreachable(error) }
  }
}

/** Reads a stream of server-sent events to its end, and takes what each says. */
export const follow = async <A>(
  path: StreamPath,
  query: object,
  take: (value: A) => void,
  signal: AbortSignal
): Promise<Called<undefined>> => {
  try {
    const response = await fetch(`.${path}?${valuesOf(query)}`, { credentials: "same-origin", signal })
    if (!response.ok || response.body === null) return { ok: false, failed: await failedOf(response) }
    let text = ""
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
    while (true) {
      const { done, value } = await reader.read()
      if (done) return { ok: true, value: undefined }
      const events = (text + value).split("\n\n")
      text = events.pop() ?? ""
      for (const event of events) {
        const lines = event.split("\n")
        if (lines.some((line) => line.startsWith("event:") && line.slice(6).trim() !== "message")) {
          return { ok: false, failed: { kind: "Broken", message: "the server could not go on with its answer" } }
        }
        const data = lines.flatMap((line) => (line.startsWith("data:") ? [line.slice(5)] : []))
        if (data.length > 0) take(JSON.parse(data.join("\n")))
      }
    }
  } catch (error) {
    return { ok: false, failed: unreachable(error) }
  }
}

/** Changes something, and returns in a sentence what has become of it. */
export const change = async <P extends ChangePath>(path: P, asked: Change<P> & object): Promise<Called<string>> => {
  try {
    const response = await fetch(`.${path}`, {
      method: "POST",
      credentials: "same-origin",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(asked)
    })
    if (!response.ok) return { ok: false, failed: await failedOf(response) }
    const body: unknown = await response.json()
    return { ok: true, value: textOf(body, "message") ?? "" }
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    return {
      ok: false,
      failed: {
        kind: "Unreachable",
        message: `it is not known whether it was done, as the answer was lost: ${message}`
      }
    }
  }
}

export interface Loaded<A> {
  /** What was read last. It stays while it is read again, and after a failure. */
  readonly value: A | undefined
  readonly failed: Failed | undefined
  readonly reload: () => void
}

interface Running {
  readonly key: string
  readonly abort: AbortController
  /** Whether it was asked for again meanwhile. */
  missed: boolean
}

/** Reads from a path, and again whenever the query or `again` changes. */
export const useAnswer = <P extends Path>(path: P, query: Query<P> & object, again: unknown = 0): Loaded<Answer<P>> => {
  const key = JSON.stringify(query)
  const [state, setState] = useState<{ readonly key: string; readonly value?: Answer<P>; readonly failed?: Failed }>({
    key
  })
  const [count, setCount] = useState(0)
  const reload = useCallback(() => setCount((count) => count + 1), [])
  const running = useRef<Running | undefined>(undefined)
  useEffect(() => {
    const before = running.current
    // A look that takes longer than the time between two of them is not made twice at once.
    if (before?.key === key) {
      before.missed = true
      return
    }
    before?.abort.abort()
    const own: Running = { key, abort: new AbortController(), missed: false }
    running.current = own
    void read(path, query, own.abort.signal).then((called) => {
      if (running.current !== own) return
      running.current = undefined
      setState((last) => {
        const kept = last.key === key && last.value !== undefined ? { value: last.value } : {}
        return called.ok ? { key, value: called.value } : { key, ...kept, failed: called.failed }
      })
      if (own.missed) reload()
    })
  }, [path, key, again, count])
  const isCurrent = state.key === key
  return { value: isCurrent ? state.value : undefined, failed: isCurrent ? state.failed : undefined, reload }
}

export type About = Answer<"/api/about">

let about: About | undefined
const waiting = new Set<(about: About) => void>()

/** Tells the parts of the page what the console is. */
export const setAbout = (value: About): void => {
  about = value
  for (const tell of waiting) tell(value)
}

/** What the console is, and what may be done with it, once that is known. */
export const useAbout = (): About | undefined => {
  const [known, setKnown] = useState(about)
  useEffect(() => {
    setKnown(about)
    waiting.add(setKnown)
    return () => void waiting.delete(setKnown)
  }, [])
  return known
}
