/** The events of a filter, from the newest on: those that are there, and those that come while somebody follows. */
import { useCallback, useEffect, useRef, useState } from "preact/hooks"
import type { Answer, Query } from "../api/Answers.ts"
import { type Failed, read } from "./Client.ts"

export type Page = Answer<"/api/events">
export type Event = Page["events"][number]
export type Filter = Pick<Query<"/api/events">, "aggregate" | "createdAfter" | "data" | "metadata" | "tag" | "type">

interface Listed {
  readonly key: string
  readonly events: ReadonlyArray<Event>
  /** Where the next page begins; null at the start of the log. */
  readonly before: string | null
  readonly lookedDownTo: string | undefined
  /** How many versions were passed over, as there were too many to show each. */
  readonly skipped: bigint
  readonly failed: Failed | undefined
}

export interface LogList extends Listed {
  readonly isLoading: boolean
  readonly more: () => void
}

/** More events than these are not kept: the oldest go first, and are read again. */
const mostEvents = 5000

const nothing = (key: string): Listed => ({
  key,
  events: [],
  before: null,
  lookedDownTo: undefined,
  skipped: 0n,
  failed: undefined
})

/** The newest page, put before what is listed. Where both do not meet, it takes its place. */
const withNewest = (list: Listed, page: Page): Listed => {
  const [newest] = list.events
  const lowest = page.events.at(-1)
  if (list.lookedDownTo === undefined || newest === undefined) return { ...list, ...page, failed: undefined }
  const isGap = lowest !== undefined && page.before !== null && BigInt(page.lookedDownTo) > BigInt(newest.version)
  if (isGap) {
    const skipped = BigInt(page.lookedDownTo) - BigInt(newest.version) - 1n
    return { ...list, ...page, skipped: list.skipped + skipped, failed: undefined }
  }
  // A version that was in flight can come below others: what is known by now is compared one by one.
  const known = new Map(list.events.map((event) => [event.version, event]))
  for (const event of page.events) known.set(event.version, event)
  const events = [...known.values()].sort((a, b) => (BigInt(a.version) < BigInt(b.version) ? 1 : -1))
  if (events.length <= mostEvents) return { ...list, events, failed: undefined }
  const kept = events.slice(0, mostEvents)
  return { ...list, events: kept, before: kept.at(-1)?.version ?? null, failed: undefined }
}

const withMore = (list: Listed, page: Page): Listed => ({
  ...list,
  events: [...list.events, ...page.events],
  before: page.before,
  lookedDownTo: page.lookedDownTo,
  failed: undefined
})

/** `latest` is the version at which the log ends, where the list follows it; it is read again whenever that moves. */
export const useLogList = (filter: Filter, latest: string | undefined): LogList => {
  const key = JSON.stringify(filter)
  const [list, setList] = useState(() => nothing(key))
  const [isLoading, setLoading] = useState(false)
  const current = useRef(key)
  const isReading = useRef(false)
  const isMissed = useRef(false)

  const call = useCallback(
    async (before: string | undefined, put: (list: Listed, page: Page) => Listed): Promise<void> => {
      if (isReading.current) {
        isMissed.current = true
        return
      }
      isReading.current = true
      setLoading(true)
      const asked = current.current
      const given: Filter = JSON.parse(asked)
      const called = await read("/api/events", before === undefined ? given : { ...given, before })
      isReading.current = false
      setLoading(false)
      const isCurrent = asked === current.current
      if (isCurrent) {
        setList((list) => {
          const own = list.key === asked ? list : nothing(asked)
          return called.ok ? put(own, called.value) : { ...own, failed: called.failed }
        })
      }
      if (isMissed.current || !isCurrent) {
        isMissed.current = false
        await call(undefined, withNewest)
      }
    },
    []
  )

  useEffect(() => {
    current.current = key
    void call(undefined, withNewest)
  }, [key, latest])

  const shown = list.key === key ? list : nothing(key)
  const { before } = shown
  const more = useCallback(() => {
    if (before !== null && !isReading.current) void call(before, withMore)
  }, [before])
  return { ...shown, isLoading, more }
}
