/** The latest states of entities, and one of them with its value. */
import { useRef, useState } from "preact/hooks"
import type { Answer } from "../api/Answers.ts"
import { useAnswer } from "./Client.ts"
import { JsonTree } from "./JsonTree.tsx"
import { useKeys } from "./Keys.ts"
import { Bytes, Copy, Empty, FailedNote, Field, Hidden, Skeleton, Time, Whole } from "./Parts.tsx"
import { go, historyHref, hrefWith, type Route } from "./Route.ts"
import { type Column, Rows } from "./Rows.tsx"

type State = Answer<"/api/states">["states"][number]

const columns: ReadonlyArray<Column<State>> = [
  { title: "Id", width: "minmax(9rem, 2fr)", show: ({ persistenceId }) => persistenceId },
  {
    title: "Version",
    width: "minmax(5rem, 0.6fr)",
    isRight: true,
    show: ({ versionNumber }) => <Whole value={versionNumber} />
  },
  { title: "Manifest", width: "minmax(0, 2fr)", isWide: true, show: ({ manifest }) => <code>{manifest}</code> },
  { title: "Size", width: "5.5rem", isRight: true, show: ({ size }) => <Bytes value={String(size)} /> },
  {
    title: "Written",
    width: "minmax(5.5rem, 0.6fr)",
    isRight: true,
    show: ({ writtenAt }) => (writtenAt === null ? <span class="muted">–</span> : <Time at={writtenAt} />)
  }
]

const StateView = ({ close, id }: { readonly id: string; readonly close: () => void }) => {
  const { failed, value } = useAnswer("/api/state", { id })
  return (
    <aside class="detail" aria-label={`State of ${id}`}>
      <header class="detail-head">
        <h2>{id}</h2>
        <button type="button" class="button quiet" onClick={close} aria-label="Close">
          ✕
        </button>
      </header>
      {failed === undefined ? null : <FailedNote failed={failed} />}
      {value === undefined ? (
        failed === undefined && <Skeleton />
      ) : (
        <>
          <dl class="fields">
            <Field name="Version">
              <Whole value={value.state.versionNumber} />
            </Field>
            <Field name="Id">
              <code>{id}</code> <Copy text={id} />
            </Field>
            <Field name="Written">
              {value.state.writtenAt === null ? "at no time that it says" : <Time at={value.state.writtenAt} />}{" "}
              <code class="exact">{value.state.writtenAt}</code>
            </Field>
            <Field name="Manifest">
              <code>{value.state.manifest}</code>
            </Field>
            <Field name="Shard">{value.state.shard}</Field>
            <Field name="Size">
              <Bytes value={String(value.state.size)} />
            </Field>
            <Field name="History">
              <a href={historyHref(id)}>the events of this aggregate, if it has any</a>
            </Field>
          </dl>
          {value.json === null && value.base64 === null ? <Hidden /> : null}
          {value.json === null ? null : <JsonTree title="Value" json={value.json} />}
          {value.base64 === null ? null : <JsonTree title="Bytes in base64" json={JSON.stringify(value.base64)} />}
        </>
      )}
    </aside>
  )
}

/** How many states are read at a time. */
const pageStates = 100

const filterNames = ["from", "manifest", "text"] as const

const labels: Readonly<Record<(typeof filterNames)[number], readonly [label: string, placeholder: string]>> = {
  from: ["Ids from", "account-42"],
  manifest: ["Manifest", "Account"],
  text: ["Value has the text", "anna@example.org"]
}

const filterOf = ({ query }: Route) =>
  Object.fromEntries(filterNames.flatMap((name) => (query.has(name) ? [[name, query.get(name) ?? ""]] : [])))

const List = ({ route }: { readonly route: Route }) => {
  const [limit, setLimit] = useState(pageStates)
  const filter = filterOf(route)
  const { failed, value } = useAnswer("/api/states", { limit: String(limit), ...filter })
  const hrefOf = ({ persistenceId }: State) => hrefWith(route, { state: persistenceId })
  if (failed !== undefined) return <FailedNote failed={failed} />
  if (value === undefined) return <Skeleton />
  const { next } = value
  const further =
    next === null ? null : <a href={hrefWith(route, { from: next, state: undefined })}>Go on from {next}</a>
  if (value.states.length === 0) {
    const title = Object.keys(filter).length === 0 ? "There are no states" : "No state matches"
    return (
      <Empty title={title}>
        {next === null ? (
          "All were looked through."
        ) : (
          <>
            Up to {next}. {further}
          </>
        )}
      </Empty>
    )
  }
  return (
    <Rows
      label="States"
      rows={value.states}
      columns={columns}
      keyOf={({ persistenceId }) => persistenceId}
      hrefOf={hrefOf}
      selected={route.query.get("state") ?? undefined}
      open={(state) => go(hrefOf(state))}
      onEnd={() => {
        if (next !== null && limit < 500) setLimit(limit + pageStates)
      }}
      footer={further ?? "These are all."}
    />
  )
}

const Filters = ({ route }: { readonly route: Route }) => {
  const form = useRef<HTMLFormElement>(null)
  useKeys({ "/": () => form.current?.querySelector("input")?.focus() })
  return (
    <form
      class="filters"
      role="search"
      ref={form}
      onSubmit={(event) => {
        event.preventDefault()
        if (form.current === null) return
        const values = new FormData(form.current)
        const given = filterNames.map((name) => [name, String(values.get(name) ?? "").trim()] as const)
        go(hrefWith(route, { ...Object.fromEntries(given), state: undefined }))
      }}
    >
      {filterNames.map((name) => (
        <label key={`${name} ${route.query.get(name) ?? ""}`} class="filter">
          <span>{labels[name][0]}</span>
          <input
            name={name}
            placeholder={labels[name][1]}
            defaultValue={route.query.get(name) ?? ""}
            spellcheck={false}
          />
        </label>
      ))}
      <button type="submit" class="button">
        Search
      </button>
    </form>
  )
}

export const StatesPage = ({ route }: { readonly route: Route }) => {
  const state = route.query.get("state")
  const close = () => go(hrefWith(route, { state: undefined }))
  useKeys(state === null ? {} : { Escape: close })
  return (
    <div class="split">
      <div class="split-list">
        <Filters route={route} />
        <List key={JSON.stringify(filterOf(route))} route={route} />
      </div>
      {state === null ? null : <StateView id={state} close={close} />}
    </div>
  )
}
