/** The log: what is appended as it comes, what a filter describes, and one event beside it. */
import { useRef, useState } from "preact/hooks"
import { useAbout } from "./Client.ts"
import { EventView } from "./EventView.tsx"
import { whole } from "./Format.ts"
import { preview } from "./JsonText.ts"
import { useKeys } from "./Keys.ts"
import { useLive } from "./Live.ts"
import { type Event, type Filter, type LogList, useLogList } from "./LogList.ts"
import { Empty, FailedNote, Whole, Skeleton, Time } from "./Parts.tsx"
import { go, href, hrefWith, type Route } from "./Route.ts"
import { type Column, Rows } from "./Rows.tsx"

const filterNames = ["aggregate", "type", "tag", "data", "metadata", "createdAfter"] as const

const filterOf = ({ query }: Route): Filter =>
  Object.fromEntries(filterNames.flatMap((name) => (query.has(name) ? [[name, query.get(name) ?? ""]] : [])))

const placeholders: Readonly<Record<(typeof filterNames)[number], string>> = {
  aggregate: "order-1",
  type: "Placed",
  tag: "course:c1",
  data: '{"customer":"anna"}',
  metadata: '{"correlationId":"…"}',
  createdAfter: "2026-01-31T12:00:00Z"
}

const labels: Readonly<Record<(typeof filterNames)[number], string>> = {
  aggregate: "Aggregate",
  type: "Type",
  tag: "Tag",
  data: "Data contains",
  metadata: "Metadata contains",
  createdAfter: "Since"
}

const Filters = ({ route }: { readonly route: Route }) => {
  const form = useRef<HTMLFormElement>(null)
  const isOpen = filterNames.slice(3).some((name) => route.query.has(name))
  const [isWide, setWide] = useState(isOpen)
  useKeys({ "/": () => form.current?.querySelector("input")?.focus() })
  const submit = (event: SubmitEvent) => {
    event.preventDefault()
    if (form.current === null) return
    const values = new FormData(form.current)
    const given = filterNames.map((name) => [name, String(values.get(name) ?? "").trim()] as const)
    go(hrefWith(route, { ...Object.fromEntries(given), event: undefined }))
  }
  const shown = isWide ? filterNames : filterNames.slice(0, 3)
  return (
    <form class="filters" role="search" ref={form} onSubmit={submit}>
      {shown.map((name) => (
        <label key={`${name} ${route.query.get(name) ?? ""}`} class={`filter ${name}`}>
          <span>{labels[name]}</span>
          <input
            name={name}
            placeholder={placeholders[name]}
            defaultValue={route.query.get(name) ?? ""}
            spellcheck={false}
          />
        </label>
      ))}
      <div class="filter-buttons">
        <button type="submit" class="button">
          Filter
        </button>
        <button type="button" class="button quiet" aria-expanded={isWide} onClick={() => setWide(!isWide)}>
          {isWide ? "Fewer" : "More"}
        </button>
        {filterNames.some((name) => route.query.has(name)) ? (
          <a class="button quiet" href="#/log">
            Clear
          </a>
        ) : null}
      </div>
    </form>
  )
}

const columns: ReadonlyArray<Column<Event>> = [
  { title: "Version", width: "minmax(5.5rem, 0.5fr)", isRight: true, show: ({ version }) => <Whole value={version} /> },
  { title: "Type", width: "minmax(7.5rem, 0.9fr)", show: ({ eventType }) => <span class="chip">{eventType}</span> },
  { title: "Aggregate", width: "minmax(7rem, 1fr)", show: ({ aggregateId }) => aggregateId },
  {
    title: "Data",
    width: "minmax(0, 3fr)",
    isWide: true,
    show: ({ data }) => <code class="preview">{data === null ? "hidden" : preview(data)}</code>
  },
  { title: "When", width: "minmax(5rem, 0.4fr)", isRight: true, show: ({ createdAt }) => <Time at={createdAt} /> }
]

const Footer = ({ list }: { readonly list: LogList }) => {
  if (list.isLoading) return <span>Looking…</span>
  if (list.before === null) return <span>The start of the log.</span>
  return (
    <span>
      Looked down to version {whole(list.lookedDownTo ?? "")}.{" "}
      <button type="button" class="link" onClick={list.more}>
        Look further
      </button>
    </span>
  )
}

const nothingText = (list: LogList): string =>
  list.before === null
    ? "The whole log was looked through."
    : `Looked down to version ${whole(list.lookedDownTo ?? "")}.`

const List = ({ list, route }: { readonly list: LogList; readonly route: Route }) => {
  const hrefOf = ({ version }: Event) => hrefWith(route, { event: version })
  if (list.events.length === 0) {
    if (list.failed !== undefined) return null
    if (list.lookedDownTo === undefined) return <Skeleton lines={10} />
    return (
      <Empty title={filterNames.some((name) => route.query.has(name)) ? "No event matches" : "The log is empty"}>
        {nothingText(list)}{" "}
        {list.before === null ? null : (
          <button type="button" class="link" onClick={list.more}>
            {list.isLoading ? "Looking…" : "Look further"}
          </button>
        )}
      </Empty>
    )
  }
  return (
    <Rows
      label="Events"
      rows={list.events}
      columns={columns}
      keyOf={({ version }) => version}
      hrefOf={hrefOf}
      selected={route.query.get("event") ?? undefined}
      open={(event) => go(hrefOf(event))}
      onEnd={list.more}
      footer={<Footer list={list} />}
    />
  )
}

export const LogPage = ({ route }: { readonly route: Route }) => {
  const { moment } = useLive()
  const [isFollowing, setFollowing] = useState(true)
  const list = useLogList(filterOf(route), isFollowing ? moment?.log?.latestVersion : undefined)
  const showsPayloads = useAbout()?.showsPayloads === true
  const event = route.query.get("event")
  const close = () => go(hrefWith(route, { event: undefined }))
  useKeys({ f: () => setFollowing(!isFollowing), ...(event === null ? {} : { Escape: close }) })
  return (
    <div class="split">
      <div class="split-list">
        <Filters route={route} />
        <div class="list-bar">
          <button type="button" class="switch" aria-pressed={isFollowing} onClick={() => setFollowing(!isFollowing)}>
            <span class="dot" aria-hidden="true" /> {isFollowing ? "Following" : "Paused"}
          </button>
          <a href={href(["stats"])}>What it consists of</a>
          {showsPayloads ? (
            <a
              href="./api/export"
              download="events.jsonl"
              title="All events as JSON lines, as strata events export has them"
            >
              Export
            </a>
          ) : null}
          {list.skipped === 0n ? null : (
            <span class="skipped" role="status">
              Too fast to show each: {whole(String(list.skipped))} versions were passed over.
            </span>
          )}
        </div>
        {list.failed === undefined ? null : <FailedNote failed={list.failed} />}
        <List list={list} route={route} />
      </div>
      {event === null ? null : <EventView version={event} route={route} close={close} />}
    </div>
  )
}
