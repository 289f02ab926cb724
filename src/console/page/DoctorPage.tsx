/** What `strata doctor` checks, with a remedy for each problem. */
import { Action, MissingGrants } from "./Action.tsx"
import { useAnswer } from "./Client.ts"
import { plural, span } from "./Format.ts"
import { useNow } from "./Live.ts"
import { Badge, FailedNote, Panel, Skeleton } from "./Parts.tsx"

/** Writers and a subscriber in a schema of their own, for a while: does this server keep every event? */
const Proof = () => {
  const { failed, value } = useAnswer("/api/proof", {}, useNow())
  if (value === undefined) return failed === undefined ? null : <FailedNote failed={failed} />
  const { delivered, elapsedMillis, failure, finding, millis, state } = value
  return (
    <Panel title="Proof">
      <MissingGrants changes="proof" />
      <div class="actions">
        <Action
          name="Prove it for 10 s"
          question="Run 12 writers and a subscriber for 10 seconds, in a schema of their own that is dropped afterwards, and compare what was stored with what was delivered? The server is busy meanwhile."
          changes="proof"
          objection={state === "running" ? "It is running" : undefined}
          path="/api/actions/prove"
          change={{ seconds: 10 }}
        />
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

export const DoctorPage = () => {
  const { failed, reload, value } = useAnswer("/api/doctor", {})
  if (value === undefined) return failed === undefined ? <Skeleton lines={12} /> : <FailedNote failed={failed} />
  const problems = value.filter(({ level }) => level === "problem").length
  const warnings = value.filter(({ level }) => level === "warning").length
  return (
    <>
      <Proof />
      <div class="list-bar">
        <span>
          {plural(value.length, "finding")}: {plural(problems, "problem")}, {plural(warnings, "warning")}
        </span>
        <button type="button" class="button plain" onClick={reload}>
          Check again
        </button>
      </div>
      <div class="table-box" tabIndex={0} role="group" aria-label="Findings">
        <table class="roomy">
          <thead>
            <tr>
              <th>Check</th>
              <th>Level</th>
              <th>What it found</th>
            </tr>
          </thead>
          <tbody>
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
          </tbody>
        </table>
      </div>
    </>
  )
}
