/** Tags for events that are in the log already: which of them are new, and how a part of the log is gone through. */
import { Effect, Stream } from "effect"
import {
  type Cursor,
  EventNotFound,
  type LogReplaced,
  maxTags,
  type StoredEvent,
  type TagCounts,
  type TaggedVersion
} from "../Event.ts"
import { isTransient, transientDelays } from "../internal/Transient.ts"
import { InvalidInput } from "../InvalidInput.ts"
import type { StoreError } from "../StoreError.ts"

// Of some events

/** What is stored of an event. */
export interface Found {
  readonly id: string
  readonly tags: Iterable<string>
}

/** A tag that an event does not have yet. */
interface Missing {
  readonly version: bigint
  readonly tag: string
}

/** What there is to do. */
export interface Plan extends TagCounts {
  readonly missing: ReadonlyArray<Missing>
  /** All tags of the events that get new ones. */
  readonly touched: ReadonlySet<string>
}

/** Compares what the events are to have with what is stored, by version. */
export const planOf = (
  asked: ReadonlyArray<TaggedVersion>,
  found: ReadonlyMap<bigint, Found>
): Effect.Effect<Plan, EventNotFound | InvalidInput> =>
  Effect.suspend((): Effect.Effect<Plan, EventNotFound | InvalidInput> => {
    const missing: Array<Missing> = []
    const touched = new Set<string>()
    const changed = new Set<bigint>()
    const known = new Map<bigint, Set<string>>()
    for (const [index, { id, tags, version }] of asked.entries()) {
      const stored = found.get(version)
      if (stored?.id !== id) return Effect.fail(new EventNotFound({ id }))
      const now = known.get(version) ?? new Set(stored.tags)
      known.set(version, now)
      const added = tags.filter((tag) => !now.has(tag))
      if (added.length === 0) continue
      changed.add(version)
      for (const tag of added) {
        missing.push({ version, tag })
        now.add(tag)
      }
      if (now.size > maxTags) {
        const message = `Expected at most ${maxTags} tags, with those that event ${version} has already`
        const issues = [{ field: `events.${index}.tags`, message }]
        return Effect.fail(new InvalidInput({ store: "EventStore", operation: "tag", issues }))
      }
      for (const tag of now) touched.add(tag)
    }
    return Effect.succeed({ events: changed.size, tags: missing.length, missing, touched })
  })

// Of a part of the log

/** Which events to give tags. */
export interface TagAllOptions {
  /** Only versions above this one. */
  readonly after?: bigint | Cursor
  /** Only versions up to this one: up to the end of the log, as it is when the stream begins, unless given. */
  readonly upTo?: bigint
  /** Writes nothing, and says what it would do. */
  readonly dryRun?: boolean
}

/** What became of the next events. */
export interface TagStep extends TagCounts {
  /** How many events were looked at. */
  readonly read: number
  /** The last of them. To go on after it later, give it for `after`. */
  readonly upTo: Cursor
}

/** What it takes of a store. */
export interface EventsToTag {
  readonly tag: (
    events: ReadonlyArray<TaggedVersion>,
    options: { readonly dryRun: boolean }
  ) => Effect.Effect<TagCounts, EventNotFound | InvalidInput | StoreError>
  readonly read: (query: {
    readonly after: bigint | Cursor
    readonly eventTypes?: ReadonlyArray<string>
  }) => Stream.Stream<StoredEvent, LogReplaced | InvalidInput | StoreError>
}

/** How many events a batch has at most. */
const batchEvents = 1000

/** How many different tags a batch has at most: each of them is locked, and with more than 250 all appends would wait. */
const batchTags = 200

/** How often a batch is tried again that the database could not take: all of it is undone then. */
const attempts = 10

interface Batch {
  readonly events: Array<TaggedVersion>
  readonly tags: Set<string>
}

const emptyBatch = (): Batch => ({ events: [], tags: new Set() })

/** Adds the event to the batch, or begins the next one with it. */
const gather = (batch: Batch, event: TaggedVersion): readonly [Batch, ReadonlyArray<Batch>] => {
  const isNew = event.tags.some((tag) => !batch.tags.has(tag))
  const isFull =
    batch.events.length >= batchEvents ||
    (isNew && batch.events.length > 0 && batch.tags.size + event.tags.length > batchTags)
  const into = isFull ? emptyBatch() : batch
  into.events.push(event)
  for (const tag of event.tags) into.tags.add(tag)
  return [into, isFull ? [batch] : []]
}

/**
 * Gives the events of these types, or of all, the tags that `tagsOf` says, in batches, each in a transaction of its own. After an
 * interruption it can be run again: what has its tags already is only read.
 */
export const tagAll = <E, R>(
  { read, tag }: EventsToTag,
  eventTypes: ReadonlyArray<string> | undefined,
  tagsOf: (event: StoredEvent) => Effect.Effect<ReadonlyArray<string>, E, R>,
  { after = 0n, dryRun = false, upTo }: TagAllOptions
): Stream.Stream<TagStep, E | EventNotFound | LogReplaced | InvalidInput | StoreError, R> =>
  read(eventTypes === undefined ? { after } : { after, eventTypes }).pipe(
    Stream.takeWhile(({ version }) => upTo === undefined || version <= upTo),
    Stream.mapEffect((event) =>
      Effect.map(tagsOf(event), (tags): TaggedVersion => ({
        version: event.version,
        id: event.id,
        tags: [...new Set(tags)]
      }))
    ),
    Stream.mapAccum(emptyBatch, gather, { onHalt: (batch) => (batch.events.length === 0 ? [] : [batch]) }),
    Stream.mapEffect(({ events }) =>
      Effect.map(
        Effect.retry(tag(events, { dryRun }), { schedule: transientDelays, times: attempts, while: isTransient }),
        (counts): TagStep => {
          const { id, version } = events.at(-1) ?? { id: "", version: 0n }
          return { ...counts, read: events.length, upTo: { version, id } }
        }
      )
    )
  )
