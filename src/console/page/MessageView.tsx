/** One message: its attempts and its errors, its headers and its payload. */
import { useState } from "preact/hooks"
import type { Answer, Change } from "../api/Answers.ts"
import { Action, MissingGrants } from "./Action.tsx"
import { useAnswer } from "./Client.ts"
import { EventLine } from "./EventLine.tsx"
import { JsonTree } from "./JsonTree.tsx"
import { useLive } from "./Live.ts"
import { Badge, BelongsTo, Bytes, Copy, FailedNote, Field, Hidden, Skeleton, Time } from "./Parts.tsx"
import { queueHref } from "./Route.ts"

type Detail = Answer<"/api/message">

const changesOf = (queue: string | null) => (queue === null ? "spool" : "messages")

/** The payload of a message that nobody delivers now, to be changed. */
const EditPayload = ({ message, payload }: { readonly message: Detail["message"]; readonly payload: string }) => {
  const { id, queue, state, updated } = message
  const [text, setText] = useState<string | undefined>(undefined)
  const isEditable = ["deferred", "hold", "bounce", "archived"].includes(state)
  if (!isEditable) return null
  if (text === undefined) {
    return (
      <button type="button" class="button quiet" onClick={() => setText(payload)}>
        Edit the payload
      </button>
    )
  }
  return (
    <div class="edit">
      <textarea
        rows={8}
        spellcheck={false}
        aria-label="The payload as JSON"
        value={text}
        onInput={({ currentTarget }) => setText(currentTarget.value)}
      />
      <div class="actions">
        <Action
          name="Deliver with this"
          isGrave
          question={`Give the message ${id} this payload, and have it delivered again at once, with all of its attempts? What it has now is lost.`}
          changes={changesOf(queue)}
          objection={text === payload ? "The payload is what it was" : undefined}
          path="/api/actions/payload"
          change={{ id, queue, json: text, updated }}
          done={() => setText(undefined)}
        />
        <button type="button" class="button quiet" onClick={() => setText(undefined)}>
          Leave it
        </button>
      </div>
    </div>
  )
}

const Actions = ({ close, message }: { readonly message: Detail["message"]; readonly close: () => void }) => {
  const { id, queue, state } = message
  const name = queue === null ? `the message ${id}` : `the message ${id} of queue ${queue}`
  const act = (action: Change<"/api/actions/message">["action"]) => ({ action, id, queue })
  const path = "/api/actions/message"
  const changes = changesOf(queue)
  const is = (...states: ReadonlyArray<string>) => states.includes(state)
  return (
    <div class="actions">
      {is("deferred", "hold", "bounce", "archived") ? (
        <Action
          name="Deliver again"
          question={`Have ${name} delivered again at once, with all of its attempts?`}
          changes={changes}
          path={path}
          change={act("requeue")}
        />
      ) : null}
      {is("incoming", "deferred", "active", "bounce") ? (
        <Action
          name="Hold"
          question={`Keep ${name} from being delivered until it is released?`}
          changes={changes}
          path={path}
          change={act("hold")}
        />
      ) : null}
      {is("hold") ? (
        <Action
          name="Release"
          question={`Let ${name} be delivered?`}
          changes={changes}
          path={path}
          change={act("release")}
        />
      ) : null}
      {is("incoming", "deferred", "active", "hold") ? (
        <Action
          name="Give up"
          question={`Give up ${name}, so that it is a bounce?`}
          changes={changes}
          path={path}
          change={act("bounce")}
        />
      ) : null}
      <Action
        name="Delete"
        isGrave
        question={`Delete ${name}? Its payload is lost.`}
        changes={changes}
        path={path}
        change={act("delete")}
        done={close}
      />
    </div>
  )
}

const Content = ({ close, detail }: { readonly detail: Detail; readonly close: () => void }) => {
  const { causationId, causedBy, correlationId, headers, message, payload } = detail
  return (
    <>
      <MissingGrants changes={changesOf(message.queue)} />
      <Actions message={message} close={close} />
      <dl class="fields">
        <Field name="State">
          <Badge state={message.state} /> after {message.attempts} of {message.maxAttempts} attempts
        </Field>
        {message.state === "deferred" ? (
          <Field name="Next attempt">
            <Time at={message.nextRetry} /> <code class="exact">{message.nextRetry}</code>
          </Field>
        ) : null}
        <Field name="Last error">
          {message.lastError === null ? (
            "hidden"
          ) : message.lastError === "" ? (
            "none"
          ) : (
            <pre class="error-text">{message.lastError}</pre>
          )}
        </Field>
        <Field name="Queue">
          <a href={queueHref(message.queue)}>{message.queue ?? "in no queue"}</a>
        </Field>
        <Field name="Id">
          <code>{message.id}</code> <Copy text={message.id} />
        </Field>
        <Field name="Created">
          <Time at={message.created} /> <code class="exact">{message.created}</code>
        </Field>
        <Field name="Changed">
          <Time at={message.updated} /> <code class="exact">{message.updated}</code>
        </Field>
        <Field name="Priority">{message.priority}</Field>
        <Field name="Policy">{message.retryPolicyName === "" ? "default" : message.retryPolicyName}</Field>
        <Field name="Size">
          <Bytes value={message.size} />
        </Field>
        {causationId === null ? null : (
          <Field name="Caused by">
            {causedBy === null ? <code>{causationId}</code> : <EventLine event={causedBy} />}
          </Field>
        )}
        <BelongsTo correlationId={correlationId} />
      </dl>
      {headers === null ? <Hidden /> : null}
      {payload === null ? null : <JsonTree title="Payload" json={payload} />}
      {payload === null ? null : <EditPayload key={message.id} message={message} payload={payload} />}
      {headers === null || headers === "{}" ? null : <JsonTree title="Headers" json={headers} />}
    </>
  )
}

interface MessageViewProps {
  readonly queue: string | null
  readonly id: string
  readonly close: () => void
}

export const MessageView = ({ close, id, queue }: MessageViewProps) => {
  const { moment } = useLive()
  const { failed, value } = useAnswer("/api/message", queue === null ? { id } : { id, queue }, moment?.queues?.at)
  return (
    <aside class="detail" aria-label={`Message ${id}`}>
      <header class="detail-head">
        <h2>Message {id}</h2>
        <button type="button" class="button quiet" onClick={close} aria-label="Close">
          ✕
        </button>
      </header>
      {failed === undefined ? null : <FailedNote failed={failed} />}
      {value === undefined ? failed === undefined && <Skeleton /> : <Content detail={value} close={close} />}
    </aside>
  )
}
