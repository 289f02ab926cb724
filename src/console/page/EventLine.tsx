/** An event in one line, with a link to it. */
import type { Answer } from "../api/Answers.ts"
import { Whole } from "./Parts.tsx"
import { eventHref } from "./Route.ts"

type Event = Answer<"/api/event">["event"]

export const EventLine = ({ event }: { readonly event: Event }) => (
  <a class="event-line" href={eventHref(event.version)}>
    <Whole value={event.version} /> <span class="chip">{event.eventType}</span> <span>{event.aggregateId}</span>
  </a>
)
