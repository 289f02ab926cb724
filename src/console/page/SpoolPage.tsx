/** The spool: its queues, the messages in a state, and one message beside them. */
import { useState } from "preact/hooks"
import type { Answer, Change, Query } from "../api/Answers.ts"
import { Action } from "./Action.tsx"
import { useAnswer } from "./Client.ts"
import { firstLine } from "./Format.ts"
import { useKeys } from "./Keys.ts"
import { useLive } from "./Live.ts"
import { MessageView } from "./MessageView.tsx"
import { Empty, FailedNote, type Queue, QueueCount, Skeleton, Span, Table, Time, Whole } from "./Parts.tsx"
import { go, hrefWith, queueHref, type Route } from "./Route.ts"
import { type Column, Rows } from "./Rows.tsx"

type Message = Answer<"/api/messages">["messages"][number]
type State = Query<"/api/messages">["state"]

const states = ["incoming", "active", "deferred", "hold", "bounce", "archived"] as const

const stateOf = (text: string | null): State | undefined => states.find((state) => state === text)

/** The state in which somebody looks first: what could not be delivered, else what waits. */
const firstState = (queue: Queue | undefined): State =>
  queue === undefined
    ? "bounce"
    : ((["bounce", "hold", "active", "deferred"] as const).find((state) => queue[state] > 0) ?? "incoming")

/** The queue in the address: `=mails` is the queue mails, `none` is what is in no queue. */
const queueOf = (text: string | null): string | null | undefined =>
  text === null ? undefined : text.startsWith("=") ? text.slice(1) : null

const QueueTable = ({
  queues,
  selected
}: {
  readonly queues: ReadonlyArray<Queue>
  readonly selected: string | null | undefined
}) => (
  <Table
    label="Queues"
    heads={[
      "Queue",
      ...states.slice(0, 5).map((state) => ({ right: state })),
      { right: "Leased" },
      { right: "Oldest ready" }
    ]}
    isRoomy
  >
    {queues.map((one) => (
      <tr key={one.queue ?? ""} class={one.queue === selected ? "is-selected" : ""}>
        <td>
          <a href={queueHref(one.queue)}>{one.queue ?? "in no queue"}</a>
        </td>
        {(["incoming", "active", "deferred", "hold", "bounce"] as const).map((state) => (
          <td key={state} class={`right ${state === "bounce" && one.bounce > 0 ? "is-bad" : ""}`}>
            {one[state] === 0 ? (
              <span class="muted">0</span>
            ) : (
              <a href={queueHref(one.queue, state)}>
                <QueueCount queue={one} state={state} />
              </a>
            )}
          </td>
        ))}
        <td class="right">
          <Whole value={one.leased} />
        </td>
        <td class="right">
          <Span millis={one.oldestReadyMillis ?? 0} />
        </td>
      </tr>
    ))}
  </Table>
)

const columns: ReadonlyArray<Column<Message>> = [
  { title: "Id", width: "minmax(9rem, 1.2fr)", show: ({ id }) => id },
  {
    title: "Attempts",
    width: "5.5rem",
    isRight: true,
    show: ({ attempts, maxAttempts }) => (
      <span class="number">
        {attempts}/{maxAttempts}
      </span>
    )
  },
  {
    title: "Last error",
    width: "minmax(0, 3fr)",
    isWide: true,
    show: ({ lastError }) => <span class="preview">{lastError === null ? "hidden" : firstLine(lastError)}</span>
  },
  {
    title: "Next attempt",
    width: "minmax(6rem, 0.6fr)",
    isRight: true,
    show: ({ nextRetry, state }) => (state === "deferred" ? <Time at={nextRetry} /> : <span class="muted">–</span>)
  },
  { title: "Created", width: "minmax(6rem, 0.6fr)", isRight: true, show: ({ created }) => <Time at={created} /> }
]

const keyOf = ({ id, queue }: Message): string => JSON.stringify([queue, id])

interface MessagesProps {
  readonly route: Route
  readonly queue: string | null | undefined
  readonly state: State
}

/** How many messages are read at a time. */
const pageMessages = 100

const Messages = ({ queue, route, state }: MessagesProps) => {
  const { moment } = useLive()
  const [limit, setLimit] = useState(pageMessages)
  const query = { state, limit: String(limit), ...(typeof queue === "string" ? { queue } : {}) }
  const { failed, value } = useAnswer("/api/messages", query, moment?.queues?.at)
  const hrefOf = ({ id, queue }: Message) => hrefWith(route, { state, message: JSON.stringify([queue, id]) })
  // Without a name, those of all queues are listed: here only those in none are wanted.
  const messages = (value?.messages ?? []).filter((message) => queue !== null || message.queue === null)
  if (failed !== undefined) return <FailedNote failed={failed} />
  if (value === undefined) return <Skeleton />
  if (messages.length === 0) return <Empty title={`No message is ${state === "hold" ? "on hold" : state}`} />
  return (
    <Rows
      label="Messages"
      rows={messages}
      columns={columns}
      keyOf={keyOf}
      hrefOf={hrefOf}
      selected={route.query.get("message") ?? undefined}
      open={(message) => go(hrefOf(message))}
      onEnd={() => {
        if (value.hasMore && limit < 500) setLimit(limit + pageMessages)
      }}
      footer={value.hasMore ? "There are more." : "These are all."}
    />
  )
}

const Tabs = ({
  queue,
  route,
  state
}: {
  readonly route: Route
  readonly queue: Queue | undefined
  readonly state: State
}) => (
  <nav class="tabs" aria-label="States of messages">
    {states.map((one) => (
      <a
        key={one}
        href={hrefWith(route, { state: one, message: undefined })}
        aria-current={one === state ? "page" : undefined}
      >
        {one}
        {queue === undefined || one === "archived" ? null : (
          <span class="tab-count">
            <QueueCount queue={queue} state={one} />
          </span>
        )}
      </a>
    ))}
  </nav>
)

interface RequeueAllProps {
  readonly queue: string | undefined
  readonly state: Change<"/api/actions/requeue">["state"]
}

const RequeueAll = ({ queue, state }: RequeueAllProps) => {
  const [error, setError] = useState("")
  const [since, setSince] = useState("")
  const time = new Date(since)
  const isTime = since === "" || !Number.isNaN(time.getTime())
  const isAll = error === "" && since === ""
  const which = [
    isAll ? `all messages in ${state}` : `the messages in ${state}`,
    ...(error === "" ? [] : [`whose last error has "${error}"`]),
    ...(since === "" || !isTime ? [] : [`created after ${time.toISOString()}`])
  ].join(" ")
  return (
    <div class="list-bar">
      <input
        class="short"
        placeholder="Last error has"
        aria-label="Only messages whose last error has"
        value={error}
        onInput={({ currentTarget }) => setError(currentTarget.value)}
      />
      <input
        class="short"
        placeholder="Created after, 2026-01-31T12:00Z"
        aria-label="Only messages created after"
        value={since}
        onInput={({ currentTarget }) => setSince(currentTarget.value.trim())}
      />
      <Action
        name={isAll ? "Deliver all again" : "Deliver these again"}
        objection={isTime ? undefined : `"${since}" is no time`}
        question={`Have ${which} of ${queue === undefined ? "all queues" : `queue ${queue}`} delivered again at once, with all of their attempts?`}
        changes="messages"
        path="/api/actions/requeue"
        change={{
          state,
          ...(queue === undefined ? {} : { queue }),
          ...(error === "" ? {} : { error }),
          ...(since === "" || !isTime ? {} : { createdAfter: time.toISOString() })
        }}
      />
    </div>
  )
}

/** How many messages are in each state, in all queues together. */
const sumOf = (queues: ReadonlyArray<Queue>): Queue | undefined => {
  const [first] = queues
  const sum = (of: (queue: Queue) => number) => queues.reduce((total, queue) => total + of(queue), 0)
  return first === undefined
    ? undefined
    : {
        ...first,
        estimated: states.filter((state) => queues.some(({ estimated }) => estimated.includes(state))),
        incoming: sum(({ incoming }) => incoming),
        active: sum(({ active }) => active),
        deferred: sum(({ deferred }) => deferred),
        hold: sum(({ hold }) => hold),
        bounce: sum(({ bounce }) => bounce)
      }
}

const messageOf = (text: string | null): readonly [queue: string | null, id: string] | undefined => {
  if (text === null) return undefined
  try {
    const parts: unknown = JSON.parse(text)
    if (!Array.isArray(parts)) return undefined
    const [queue, id]: Array<unknown> = parts
    return typeof id === "string" && (typeof queue === "string" || queue === null) ? [queue, id] : undefined
  } catch {
    return undefined
  }
}

export const SpoolPage = ({ route }: { readonly route: Route }) => {
  const { moment } = useLive()
  const all = moment?.queues?.all
  const named = queueOf(route.query.get("queue"))
  const message = messageOf(route.query.get("message"))
  const close = () => go(hrefWith(route, { message: undefined }))
  useKeys(message === undefined ? {} : { Escape: close })
  if (all === undefined) return <Skeleton />
  const queue = named === undefined ? sumOf(all) : all.find((one) => one.queue === named)
  const state = stateOf(route.query.get("state")) ?? firstState(queue)
  return (
    <div class="split">
      <div class="split-list">
        {all.length === 0 ? <Empty title="No message waits" /> : <QueueTable queues={all} selected={named} />}
        <Tabs route={route} queue={queue} state={state} />
        {named !== null && (state === "deferred" || state === "hold" || state === "bounce" || state === "archived") ? (
          <RequeueAll queue={named} state={state} />
        ) : null}
        <Messages key={`${named} ${state}`} route={route} queue={named} state={state} />
      </div>
      {message === undefined ? null : <MessageView queue={message[0]} id={message[1]} close={close} />}
    </div>
  )
}
