/** One event: what it contains, where it comes from, and what came of it. */
import type { Answer } from "../api/Answers.ts"
import { useAnswer } from "./Client.ts"
import { EventLine } from "./EventLine.tsx"
import { JsonTree } from "./JsonTree.tsx"
import { BelongsTo, Copy, FailedNote, Field, Hidden, Whole, Skeleton, Time } from "./Parts.tsx"
import { aggregateHref, historyHref, href, hrefWith, messageHref, type Route } from "./Route.ts"

type Detail = Answer<"/api/event">

const Causes = ({ causationId, caused, causedBy, causedByMessage, correlationId }: Detail) => (
  <>
    <Field name="Caused by">
      {causationId === null ? (
        "nothing that it names"
      ) : causedBy !== null ? (
        <EventLine event={causedBy} />
      ) : causedByMessage !== null ? (
        <a href={messageHref(causedByMessage)}>
          message {causedByMessage.id}{" "}
          {causedByMessage.queue === null ? "in no queue" : `of queue ${causedByMessage.queue}`}
        </a>
      ) : (
        <>
          <code>{causationId}</code>, which is no event of this log, and no message that is still there
        </>
      )}
    </Field>
    <Field name="Has caused">
      {caused.length === 0
        ? "no event soon after it"
        : caused.map((event) => <EventLine key={event.version} event={event} />)}
    </Field>
    <BelongsTo correlationId={correlationId} />
  </>
)

const Neighbour = ({
  name,
  route,
  version
}: {
  readonly name: string
  readonly route: Route
  readonly version: string | null
}) =>
  version === null ? (
    <span class="button quiet is-off">{name}</span>
  ) : (
    <a class="button quiet" href={hrefWith(route, { event: version })}>
      {name}
    </a>
  )

const Content = ({ detail, route }: { readonly detail: Detail; readonly route: Route }) => {
  const { event, next, previous, tags } = detail
  return (
    <>
      <dl class="fields">
        <Field name="Id">
          <code>{event.id}</code> <Copy text={event.id} />
        </Field>
        <Field name="Aggregate">
          <a href={aggregateHref(event.aggregateId)}>{event.aggregateId}</a>{" "}
          <a href={historyHref(event.aggregateId)}>its history</a>{" "}
          <span class="neighbours">
            <Neighbour name="← before" route={route} version={previous} />
            <Neighbour name="after →" route={route} version={next} />
          </span>
        </Field>
        <Field name="Appended">
          <Time at={event.createdAt} /> <code class="exact">{event.createdAt}</code>
        </Field>
        <Field name="Tags">
          {tags.length === 0
            ? "none"
            : tags.map((tag) => (
                <a key={tag} class="chip" href={href(["log"], { tag })}>
                  {tag}
                </a>
              ))}
        </Field>
        <Causes {...detail} />
      </dl>
      {event.data === null ? <Hidden /> : <JsonTree title="Data" json={event.data} />}
      {event.metadata === null || event.metadata === "null" ? null : (
        <JsonTree title="Metadata" json={event.metadata} />
      )}
    </>
  )
}

interface EventViewProps {
  readonly version: string
  readonly route: Route
  readonly close: () => void
}

export const EventView = ({ close, route, version }: EventViewProps) => {
  const { failed, value } = useAnswer("/api/event", { version })
  return (
    <aside class="detail" aria-label={`Event ${version}`}>
      <header class="detail-head">
        <h2>
          {value === undefined ? "Event" : value.event.eventType} <Whole value={version} />
        </h2>
        <button type="button" class="button quiet" onClick={close} aria-label="Close">
          ✕
        </button>
      </header>
      {failed === undefined ? null : <FailedNote failed={failed} />}
      {value === undefined ? failed === undefined && <Skeleton /> : <Content detail={value} route={route} />}
    </aside>
  )
}
