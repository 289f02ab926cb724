/** The keys of the console. */
import { useEffect, useRef } from "preact/hooks"

/** What each key does: `g l` is `g`, and then `l`. */
export type Bindings = Readonly<Record<string, () => void>>

/** For so long after the first key a second one belongs to it. */
const sequenceMillis = 1500

const isTyping = (target: EventTarget | null): boolean =>
  target instanceof HTMLElement && (target.isContentEditable || /^(?:INPUT|TEXTAREA|SELECT)$/.test(target.tagName))

let prefix: { readonly key: string; readonly at: number } | undefined

const bound: Array<() => Bindings> = []

const press = (event: KeyboardEvent): void => {
  if (event.ctrlKey || event.metaKey || event.altKey) return
  if (event.key === "Escape" && isTyping(event.target) && event.target instanceof HTMLElement) {
    event.target.blur()
    return
  }
  if (isTyping(event.target)) return
  const begun = prefix !== undefined && Date.now() - prefix.at < sequenceMillis ? `${prefix.key} ` : ""
  prefix = undefined
  const wanted = begun + event.key
  // What was shown last comes first: a dialog before the list behind it.
  const action = bound.map((bindings) => bindings()[wanted]).findLast((found) => found !== undefined)
  if (action !== undefined) {
    event.preventDefault()
    action()
  } else if (begun === "" && event.key === "g") {
    prefix = { key: "g", at: Date.now() }
  }
}

globalThis.addEventListener("keydown", press)

/** Binds keys for as long as the component is there. */
export const useKeys = (bindings: Bindings): void => {
  const current = useRef(bindings)
  current.current = bindings
  useEffect(() => {
    const own = () => current.current
    bound.push(own)
    return () => void bound.splice(bound.indexOf(own), 1)
  }, [])
}
