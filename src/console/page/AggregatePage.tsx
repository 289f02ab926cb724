/** The history of one aggregate: event after event, each with the state that it has made. */
import type { Answer } from "../api/Answers.ts"
import { useAnswer } from "./Client.ts"
import { JsonTree } from "./JsonTree.tsx"
import { useLive } from "./Live.ts"
import { Empty, FailedNote, Hidden, Skeleton, Time, Whole } from "./Parts.tsx"
import { aggregateHref, eventHref, stateHref } from "./Route.ts"

type History = Answer<"/api/aggregate">
type Step = History["steps"][number]

/** Which entities make states of these events, and why none does. */
const Entities = ({ given, known }: Pick<History, "given" | "known">) => {
  if (given.length === 0) {
    return (
      <p class="note">
        <strong>No state is shown:</strong> this console knows no entities. An application gives it those that it has;
        the command has none.
      </p>
    )
  }
  if (known.length === 0) {
    return <p class="note">None of {given.join(", ")} knows these events, so no state is shown.</p>
  }
  return (
    <>
      {known.map(({ failure, name }) =>
        failure === null ? null : (
          <p key={name} class="note bad">
            The state of {name} could not be folded to the end: {failure}
          </p>
        )
      )}
    </>
  )
}

const StepView = ({ event, states }: Step) => (
  <li class="step">
    <h2 class="step-head">
      <a href={eventHref(event.version)}>
        <Whole value={event.version} />
      </a>{" "}
      <span class="chip">{event.eventType}</span> <Time at={event.createdAt} />
    </h2>
    <div class="step-parts">
      {event.data === null ? <Hidden /> : <JsonTree title="Data" of={` of event ${event.version}`} json={event.data} />}
      {states.map(({ entity, json }) =>
        json === null ? null : (
          <JsonTree key={entity} title={`${entity} after it`} of={`, event ${event.version}`} json={json} />
        )
      )}
    </div>
  </li>
)

/** The latest state that is stored under the same id, where the application keeps one. */
const StoredState = ({ id }: { readonly id: string }) => {
  const { moment } = useLive()
  const { value } = useAnswer("/api/state", { id }, moment?.log?.latestVersion)
  return value === undefined || value.json === null ? null : (
    <section class="step" aria-label="Stored state">
      <h2 class="step-head">
        <a href={stateHref(id)}>The state that is stored</a> has version <Whole value={value.state.versionNumber} />
      </h2>
      <JsonTree title="State" json={value.json} />
    </section>
  )
}

export const AggregatePage = ({ id }: { readonly id: string }) => {
  const { moment } = useLive()
  const { failed, value } = useAnswer("/api/aggregate", { id }, moment?.log?.latestVersion)
  if (value === undefined) return failed === undefined ? <Skeleton lines={10} /> : <FailedNote failed={failed} />
  return (
    <>
      {failed === undefined ? null : <FailedNote failed={failed} />}
      <Entities {...value} />
      <StoredState id={id} />
      {value.steps.length === 0 ? <Empty title="It has no events" /> : null}
      <ol class="steps" reversed>
        {value.steps.map((step) => (
          <StepView key={step.event.version} {...step} />
        ))}
      </ol>
      {value.before === null ? null : (
        <p>
          Older events are in <a href={aggregateHref(id)}>the log</a>.
        </p>
      )}
    </>
  )
}
