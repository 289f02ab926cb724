/**
 * Appends of events that are in the log already: their callers get the stored events. Those in the table come with the metadata
 * that they have there, and those that are archived are compared with what the files have.
 */
import { Effect, Exit, Result } from "effect"
import { toStoredEvent } from "../../events/StoredEvents.ts"
import { DuplicateEvent, type StoredEvent } from "../../EventStore.ts"
import type { Reason } from "../../StoreError.ts"
import { type Request, requestOf } from "./AppendRequest.ts"
import { Archived, type RequestResult } from "./AppendResults.ts"
import type { AppendStatements, Outcome } from "./AppendStatements.ts"
import { moved, type Moved } from "./ArchivedEnd.ts"
import type { ArchivedEvents } from "./ArchivedEvents.ts"

type Results = ReadonlyArray<RequestResult>

/** Sends a request, of which archived events may have been left out. */
type SendRest = (request: Request) => Effect.Effect<RequestResult, Reason>

const isArchived = (result: RequestResult | Archived): result is Archived => result instanceof Archived

export const make = (archive: ArchivedEvents, { isSame, metadataOf }: AppendStatements) => {
  /**
   * Gives events that were there before the metadata that they have: those of the request may name another trace. Where it
   * cannot be read, the requests with such events fail, and no others.
   */
  const asStored = (results: Results, known: ReadonlyMap<string, bigint>): Effect.Effect<Results> => {
    const isKnown = (result: RequestResult) =>
      result !== undefined && Exit.isSuccess(result) && result.value.some(({ id }) => known.has(id))
    if (!results.some(isKnown)) return Effect.succeed(results)
    return Effect.map(Effect.result(metadataOf([...known.values()])), (found) =>
      results.map((result) => {
        if (result === undefined || Exit.isFailure(result) || !isKnown(result)) return result
        if (Result.isFailure(found)) return Exit.fail(found.failure)
        return Exit.succeed(
          result.value.map((event) => {
            const metadata = found.success.get(event.id)
            return metadata === undefined ? event : toStoredEvent({ ...event, metadata })
          })
        )
      })
    )
  }

  /** The archived events of a request, by id. A `DuplicateEvent` stands for one that is another event. */
  const archivedOf = Effect.fnUntraced(function* (
    { append, datas, ids, metadatas }: Request,
    { versions }: Archived
  ): Effect.fn.Return<ReadonlyMap<string, StoredEvent> | DuplicateEvent, Reason | Moved> {
    const stored = new Map<string, StoredEvent>()
    for (const row of yield* archive.at([...versions.values()])) {
      const place = ids.indexOf(row.id)
      const event = append.events[place]
      if (event === undefined) continue
      const { aggregateId, eventType } = event
      const [data = null, metadata = null] = [datas[place], metadatas[place]]
      if (!(yield* isSame({ aggregateId, eventType, data, metadata }, row))) return new DuplicateEvent({ id: row.id })
      stored.set(row.id, yield* archive.eventOf(row))
    }
    return stored.size < versions.size ? yield* Effect.fail(moved) : stored
  })

  /** What comes of a request with archived events: its other events are sent. */
  const withArchived = Effect.fnUntraced(function* (
    request: Request,
    archived: Archived,
    sendRest: SendRest
  ): Effect.fn.Return<RequestResult, Reason | Moved> {
    const { append, ids } = request
    const before = yield* archivedOf(request, archived)
    if (before instanceof DuplicateEvent) return Exit.fail(before)
    const stored = new Map(before)
    const places = [...ids.keys()].filter((place) => !stored.has(ids[place] ?? ""))
    if (places.length > 0) {
      const events = places.flatMap((place) => append.events[place] ?? [])
      const sent = yield* sendRest(
        requestOf(
          { ...append, events },
          places.flatMap((place) => ids[place] ?? [])
        )
      )
      if (sent === undefined || Exit.isFailure(sent)) return sent
      for (const event of sent.value) stored.set(event.id, event)
    }
    return Exit.succeed(ids.flatMap((id) => stored.get(id) ?? []))
  })

  /** What was archived is restored by now: the function says anew. An id whose event somebody has dropped stays taken. */
  const askAgain = Effect.fnUntraced(function* (
    request: Request,
    { versions }: Archived,
    send: SendRest
  ): Effect.fn.Return<RequestResult, Reason> {
    const dropped = yield* archive.dropped([...versions.values()])
    const [id] = [...versions].find(([, version]) => version === dropped) ?? []
    return id === undefined ? yield* send(request) : Exit.fail(new DuplicateEvent({ id }))
  })

  /**
   * What requests give their callers, of what the function has said of each of them. One with archived events that fails does not
   * concern the others, which may be written.
   */
  return (
    requests: ReadonlyArray<Request>,
    rows: ReadonlyArray<Outcome>,
    found: ReadonlyArray<RequestResult | Archived>,
    sendRest: SendRest
  ): Effect.Effect<Results> => {
    const known = new Map<string, bigint>()
    for (const row of rows) if (row.outcome === "known") known.set(row.id, row.version)
    const stored = asStored(
      found.map((result) => (isArchived(result) ? undefined : result)),
      known
    )
    if (!found.some(isArchived)) return stored
    return Effect.flatMap(stored, (results) =>
      Effect.forEach(requests, (request, index): Effect.Effect<RequestResult> => {
        const result = found[index]
        if (!isArchived(result)) return Effect.succeed(results[index])
        return withArchived(request, result, sendRest).pipe(
          Effect.catchTag("Moved", () => askAgain(request, result, sendRest)),
          Effect.catch((reason) => Effect.succeed(Exit.fail(reason)))
        )
      })
    )
  }
}
