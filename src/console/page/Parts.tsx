/** The small parts that all pages are made of. */
import type { ComponentChildren } from "preact"
import { useState } from "preact/hooks"
import type { Moment } from "../api/Answers.ts"
import type { Failed } from "./Client.ts"
import { about, ago, bytes, span, whole } from "./Format.ts"
import { useNow } from "./Live.ts"
import { href } from "./Route.ts"

/** The title of a column. Numbers stand on the right. */
type Head = string | { readonly right: string }

/** A table, which scrolls by itself where it is wider than the page. */
export const Table = (props: {
  readonly label: string
  readonly heads: ReadonlyArray<Head>
  /** Whether its rows have more room: it is all that a page is about. */
  readonly isRoomy?: boolean
  readonly children: ComponentChildren
}) => (
  <div class="table-box" tabIndex={0} role="group" aria-label={props.label}>
    <table class={props.isRoomy === true ? "roomy" : ""}>
      <thead>
        <tr>
          {props.heads.map((head) =>
            typeof head === "string" ? (
              <th key={head}>{head}</th>
            ) : (
              <th key={head.right} class="right">
                {head.right}
              </th>
            )
          )}
        </tr>
      </thead>
      <tbody>{props.children}</tbody>
    </table>
  </div>
)

/** A time as people say it. The exact one is its title, and a click shows it. */
export const Time = ({ at }: { readonly at: string }) => {
  const now = useNow()
  const [isExact, setExact] = useState(false)
  return (
    <time dateTime={at} title={at} class="time" onClick={() => setExact(!isExact)}>
      {isExact ? at : ago(at, now)}
    </time>
  )
}

export const Whole = ({ value }: { readonly value: string | number }) => <span class="number">{whole(value)}</span>

export type Queue = NonNullable<Moment["queues"]>["all"][number]

/** How many messages of a queue are in a state. Where there are too many to be counted, an estimate says what it is. */
export const QueueCount = ({ queue, state }: { readonly queue: Queue; readonly state: Queue["estimated"][number] }) => {
  const count = state === "archived" ? 0 : queue[state]
  return queue.estimated.includes(state) ? (
    <span class="number" title="Too many to be counted: an estimate by a part of the table">
      {about(count)}
    </span>
  ) : (
    <Whole value={count} />
  )
}

export const Span = ({ millis }: { readonly millis: number }) => (
  <span class="number" title={`${whole(Math.round(millis))} ms`}>
    {millis === 0 ? "–" : span(millis)}
  </span>
)

export const Bytes = ({ value }: { readonly value: string }) => (
  <span class="number" title={`${whole(value)} bytes`}>
    {bytes(value)}
  </span>
)

type Tone = "good" | "warn" | "bad" | "calm" | "accent"

const tones: Readonly<Record<string, Tone>> = {
  running: "good",
  paused: "warn",
  idle: "warn",
  silent: "bad",
  failed: "bad",
  incoming: "accent",
  active: "good",
  deferred: "calm",
  hold: "warn",
  bounce: "bad",
  archived: "calm",
  ok: "good",
  warning: "warn",
  problem: "bad"
}

/** A state, in its tone: never by colour alone, as the word stands there. */
export const Badge = ({ state }: { readonly state: string }) => (
  <span class={`badge ${tones[state] ?? "calm"}`}>{state}</span>
)

export const Empty = ({ children, title }: { readonly title: string; readonly children?: ComponentChildren }) => (
  <div class="empty">
    <p class="empty-title">{title}</p>
    {children === undefined ? null : <p>{children}</p>}
  </div>
)

/** What stands where something is about to be: as many lines as there may be. */
export const Skeleton = ({ lines = 6 }: { readonly lines?: number }) => (
  <div class="skeleton" role="status" aria-label="Loading">
    {Array.from({ length: lines }, (_, line) => (
      <span key={line} class={`skeleton-line w${line % 3}`} />
    ))}
  </div>
)

const remedies: Readonly<Record<string, string>> = {
  NotAllowed: "The role of the console's database connection, or the console itself, may not see or do this.",
  DatabaseFailed: "The page asks again by itself.",
  Unreachable: "The page asks again by itself."
}

/** What has failed, where the thing itself would be. */
export const FailedNote = ({ failed }: { readonly failed: Failed }) => (
  <div class="note bad" role="alert">
    <strong>{failed.message}</strong>
    {remedies[failed.kind] === undefined ? null : <span> {remedies[failed.kind]}</span>}
  </div>
)

/** Text that a click puts into the clipboard. */
export const Copy = ({ text }: { readonly text: string }) => {
  const [isDone, setDone] = useState(false)
  const copy = () => {
    void globalThis.navigator.clipboard?.writeText(text).then(() => {
      setDone(true)
      setTimeout(() => setDone(false), 1500)
    })
  }
  return (
    <button type="button" class="copy" title="Copy" aria-label={`Copy ${text}`} onClick={copy}>
      {isDone ? "copied" : "copy"}
    </button>
  )
}

/** A thing with a name: its value stands beside it, or below where there is no room. */
export const Field = ({ children, name }: { readonly name: string; readonly children: ComponentChildren }) => (
  <div class="field">
    <dt>{name}</dt>
    <dd>{children}</dd>
  </div>
)

/** The events that belong together with a thing, if it says so. */
export const BelongsTo = ({ correlationId }: { readonly correlationId: string | null }) =>
  correlationId === null ? null : (
    <Field name="Belongs to">
      <a href={href(["log"], { metadata: JSON.stringify({ correlationId }) })}>
        <code>{correlationId}</code>
      </a>
    </Field>
  )

export const Panel = ({
  aside,
  children,
  title
}: {
  readonly title: string
  readonly aside?: ComponentChildren
  readonly children: ComponentChildren
}) => (
  <section class="panel">
    <header class="panel-head">
      <h2>{title}</h2>
      {aside === undefined ? null : <div class="panel-aside">{aside}</div>}
    </header>
    {children}
  </section>
)

/** What the console hides. */
export const Hidden = () => <p class="hidden-note">Hidden: this console was started without payloads.</p>
