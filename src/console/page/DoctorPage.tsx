/** What `strata doctor` checks, with a remedy for each problem. */
import { useEffect, useRef, useState } from "preact/hooks"
import type { Found, Query } from "../api/Answers.ts"
import { Action, MissingGrants } from "./Action.tsx"
import { type Failed, follow, useAbout, useAnswer } from "./Client.ts"
import { plural, span } from "./Format.ts"
import { useNow } from "./Live.ts"
import { Badge, FailedNote, Panel, Skeleton, Table } from "./Parts.tsx"
import { go, hrefWith, type Route } from "./Route.ts"

/** Writers and a subscriber in a schema of their own, for a while: does this server keep every event? */
const Proof = () => {
  const [seconds, setSeconds] = useState("10")
  const wanted = /^\d{1,3}$/.test(seconds) ? Number(seconds) : 0
  const { failed, value } = useAnswer("/api/proof", {}, useNow())
  if (value === undefined) return failed === undefined ? null : <FailedNote failed={failed} />
  const { delivered, elapsedMillis, failure, finding, millis, state } = value
  return (
    <Panel title="Proof">
      <MissingGrants changes="proof" />
      <div class="actions">
        <Action
          name="Prove it"
          question={`Run 12 writers and a subscriber for ${plural(wanted, "second")}, in a schema of their own that is dropped afterwards, and compare what was stored with what was delivered? The server is busy meanwhile.`}
          changes="proof"
          objection={
            state === "running"
              ? "It is running"
              : wanted < 1 || wanted > 600
                ? "It runs for 1 to 600 seconds"
                : undefined
          }
          path="/api/actions/prove"
          change={{ seconds: wanted }}
        />
        <label class="beside">
          for{" "}
          <input
            class="number tiny"
            inputMode="numeric"
            aria-label="For how many seconds"
            value={seconds}
            onInput={({ currentTarget }) => setSeconds(currentTarget.value.trim())}
          />{" "}
          s
        </label>
      </div>
      {state === "running" ? (
        <div class="progress-box">
          <progress max={millis} value={Math.min(elapsedMillis, millis)} aria-label="How far the proof is" />
          <span class="number">
            {span(Math.min(elapsedMillis, millis))} of {span(millis)}, {plural(delivered, "event")} delivered
          </span>
        </div>
      ) : null}
      {failure === null ? null : <div class="note bad">It came to no end: {failure}</div>}
      {finding === null ? null : (
        <div class={`note ${finding.level === "ok" ? "good" : "bad"}`} role="status">
          {finding.says}. {finding.remedy}
        </div>
      )}
    </Panel>
  )
}

const limitNames = ["maxBehindSeconds", "maxLag", "maxParked", "maxSkipped", "maxBounced", "maxWaitingSeconds"] as const

/** What each limit is of, and what it is unless it is given. */
const limits: Readonly<Record<(typeof limitNames)[number], readonly [label: string, placeholder: string]>> = {
  maxBehindSeconds: ["Behind, seconds", "300"],
  maxLag: ["Behind, versions", "any"],
  maxParked: ["Parked aggregates", "0"],
  maxSkipped: ["Skipped events", "any"],
  maxBounced: ["Bounced messages", "0"],
  maxWaitingSeconds: ["A message waits, seconds", "300"]
}

/** The flags of the command: by which limits projections and queues are judged. */
const Flags = ({ route }: { readonly route: Route }) => {
  const form = useRef<HTMLFormElement>(null)
  const showsPayloads = useAbout()?.showsPayloads === true
  const submit = (event: SubmitEvent) => {
    event.preventDefault()
    if (form.current === null) return
    const values = new FormData(form.current)
    const given = limitNames.map((name) => [name, String(values.get(name) ?? "").trim()] as const)
    go(hrefWith(route, { ...Object.fromEntries(given), queries: values.has("queries") ? "shown" : undefined }))
  }
  return (
    <form class="filters" ref={form} onSubmit={submit} aria-label="By which limits the doctor judges">
      {limitNames.map((name) => (
        <label key={`${name} ${route.query.get(name) ?? ""}`} class="filter">
          <span>{limits[name][0]}</span>
          <input
            name={name}
            inputMode="numeric"
            pattern="[0-9]*"
            placeholder={limits[name][1]}
            defaultValue={route.query.get(name) ?? ""}
          />
        </label>
      ))}
      {showsPayloads ? (
        <label class="beside" title="There may be secrets in it">
          <input type="checkbox" name="queries" defaultChecked={route.query.has("queries")} /> Show the last statement
          of a transaction that readers wait for
        </label>
      ) : null}
      <button type="submit" class="button">
        Check by these
      </button>
    </form>
  )
}

const flagsOf = ({ query }: Route): Query<"/api/doctor"> => ({
  ...Object.fromEntries(limitNames.flatMap((name) => (query.has(name) ? [[name, query.get(name) ?? ""]] : []))),
  ...(query.get("queries") === "shown" ? { queries: "shown" } : {})
})

interface Checked {
  readonly found: ReadonlyArray<Found>
  readonly isDone: boolean
  readonly failed?: Failed
}

const nothing: Checked = { found: [], isDone: false }

/** What the checks find, as they end. */
const useChecks = (query: Query<"/api/doctor">): Checked & { readonly again: () => void } => {
  const [count, setCount] = useState(0)
  const [state, setState] = useState(nothing)
  const key = JSON.stringify(query)
  useEffect(() => {
    const abort = new AbortController()
    setState(nothing)
    const take = (one: Found) =>
      setState((last) => ({ ...last, found: [...last.found, one].sort((a, b) => a.place - b.place) }))
    void follow("/api/doctor/live", query, take, abort.signal).then((called) => {
      if (abort.signal.aborted) return
      setState((last) => ({ ...last, isDone: true, ...(called.ok ? {} : { failed: called.failed }) }))
    })
    return () => abort.abort()
  }, [key, count])
  return { ...state, again: () => setCount((count) => count + 1) }
}

const Findings = ({ route }: { readonly route: Route }) => {
  const { again, failed, found, isDone } = useChecks(flagsOf(route))
  const value = found.flatMap(({ findings }) => findings)
  if (value.length === 0) return failed === undefined ? <Skeleton lines={12} /> : <FailedNote failed={failed} />
  const problems = value.filter(({ level }) => level === "problem").length
  const warnings = value.filter(({ level }) => level === "warning").length
  return (
    <>
      {failed === undefined ? null : <FailedNote failed={failed} />}
      <div class="list-bar">
        <span>
          {plural(value.length, "finding")}: {plural(problems, "problem")}, {plural(warnings, "warning")}
          {isDone ? null : <span role="status">, and others are still looked for</span>}
        </span>
        <button type="button" class="button plain" onClick={again} disabled={!isDone}>
          Check again
        </button>
      </div>
      <Table label="Findings" heads={["Check", "Level", "What it found"]} isRoomy>
        {value.map(({ check, level, remedy, says }) => (
          <tr key={`${check} ${says}`}>
            <td>{check}</td>
            <td>
              <Badge state={level} />
            </td>
            <td class="wrap">
              {says}
              {remedy === null ? null : <div class="remedy">{remedy}</div>}
            </td>
          </tr>
        ))}
      </Table>
    </>
  )
}

export const DoctorPage = ({ route }: { readonly route: Route }) => (
  <>
    <Proof />
    <Flags route={route} />
    <Findings route={route} />
  </>
)
