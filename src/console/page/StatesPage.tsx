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

const List = ({ route }: { readonly route: Route }) => {
  const [limit, setLimit] = useState(pageStates)
  const from = route.query.get("from") ?? ""
  const { failed, value } = useAnswer("/api/states", { limit: String(limit), ...(from === "" ? {} : { from }) })
  const hrefOf = ({ persistenceId }: State) => hrefWith(route, { state: persistenceId })
  if (failed !== undefined) return <FailedNote failed={failed} />
  if (value === undefined) return <Skeleton />
  if (value.states.length === 0)
    return <Empty title={from === "" ? "There are no states" : "No state comes from there on"} />
  const { next } = value
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
      footer={next === null ? "These are all." : <a href={hrefWith(route, { from: next })}>Go on from {next}</a>}
    />
  )
}

export const StatesPage = ({ route }: { readonly route: Route }) => {
  const input = useRef<HTMLInputElement>(null)
  const state = route.query.get("state")
  const from = route.query.get("from") ?? ""
  const close = () => go(hrefWith(route, { state: undefined }))
  useKeys({ "/": () => input.current?.focus(), ...(state === null ? {} : { Escape: close }) })
  return (
    <div class="split">
      <div class="split-list">
        <form
          class="filters"
          role="search"
          onSubmit={(event) => {
            event.preventDefault()
            go(hrefWith(route, { from: input.current?.value.trim(), state: undefined }))
          }}
        >
          <label key={from} class="filter">
            <span>Ids from</span>
            <input ref={input} placeholder="account-42" defaultValue={from} spellcheck={false} />
          </label>
          <button type="submit" class="button">
            Search
          </button>
        </form>
        <List key={from} route={route} />
      </div>
      {state === null ? null : <StateView id={state} close={close} />}
    </div>
  )
}
