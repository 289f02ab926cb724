/** What the server's function says of appends, as what their callers get. */
import { Effect, Exit, Option } from "effect"
import { expectedOf } from "../../Event.ts"
import {
  type Condition,
  ConditionFailed,
  type DecisionError,
  DuplicateEvent,
  LogReplaced,
  type StoredEvent,
  VersionConflict
} from "../../EventStore.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import { type Reason, Unexpected } from "../../StoreError.ts"
import { type Request, storedEvents } from "./AppendRequest.ts"
import type * as AppendStatements from "./AppendStatements.ts"

export type Failure = DecisionError | InvalidInput | Reason

/** What came of a request. `undefined` stands for a request that would have to wait for another transaction. */
export type RequestResult = Exit.Exit<ReadonlyArray<StoredEvent>, Failure> | undefined

/** Nothing was written, as events that have given ids of the request are archived: their versions, by id. */
export class Archived {
  readonly versions: Map<string, bigint> = new Map()
}

export const wrongIsolation = new Unexpected({
  message:
    "what an append expects cannot be checked against what others have committed meanwhile; " +
    "run the transaction with isolation level READ COMMITTED"
})

/** The log is not the one that the decision has read. */
const replacedFor = (condition: Condition | undefined, foundId: string | null, latest: bigint) =>
  new LogReplaced({
    version: condition?.decided.mark ?? 0n,
    id: Option.fromUndefinedOr(condition?.decided.markId),
    foundId: Option.fromNullishOr(foundId),
    latest,
    lastAgreed: Option.none()
  })

/** What the function says of each request. Several rows may speak of one. */
export const resultsOf = (
  requests: ReadonlyArray<Request>,
  rows: ReadonlyArray<AppendStatements.Outcome>
): ReadonlyArray<RequestResult | Archived> => {
  const written = new Map<string, AppendStatements.Written>()
  const failures = new Map<number, Failure | Archived | "blocked">()
  for (const row of rows) {
    switch (row.outcome) {
      case "stored":
      case "known":
        written.set(row.id, row)
        break
      case "duplicate":
        if (!failures.has(row.request)) failures.set(row.request, new DuplicateEvent({ id: row.id }))
        break
      case "archived": {
        const archived = failures.get(row.request) ?? new Archived()
        if (!(archived instanceof Archived)) break
        archived.versions.set(row.id, row.version)
        failures.set(row.request, archived)
        break
      }
      case "conflict": {
        const append = requests[row.request]?.append
        const before = failures.get(row.request)
        // Of several conflicts the caller gets that of the first aggregate.
        if (append === undefined || (before instanceof VersionConflict && before.aggregateId < row.id)) break
        const actual = Option.fromNullishOr(row.version)
        const expected = expectedOf(append, row.id)
        failures.set(row.request, new VersionConflict({ aggregateId: row.id, expected, actual }))
        break
      }
      case "overtaken": {
        const { change, eventType, tags = [] } = row.id
        const [version, type] = [Option.fromNullishOr(row.version), Option.fromUndefinedOr(eventType)]
        failures.set(row.request, new ConditionFailed({ change, version, eventType: type, tags }))
        break
      }
      case "replaced":
        failures.set(row.request, replacedFor(requests[row.request]?.append.condition, row.id, row.version))
        break
      case "blocked":
        failures.set(row.request, "blocked")
        break
      case "isolation":
        failures.set(row.request, wrongIsolation)
    }
  }
  return requests.map((request, index) => {
    const failure = failures.get(index)
    if (failure === "blocked") return undefined
    if (failure instanceof Archived) return failure
    return failure === undefined ? Exit.succeed(storedEvents(request, (id) => written.get(id))) : Exit.fail(failure)
  })
}

/** Sends the requests that have no result yet, and puts their results at their places. */
export const completed = <E>(
  requests: ReadonlyArray<Request>,
  known: ReadonlyArray<RequestResult | "none yet">,
  send: (requests: ReadonlyArray<Request>) => Effect.Effect<ReadonlyArray<RequestResult>, E>
) => {
  const rest = requests.filter((_, index) => known[index] === "none yet")
  return Effect.map(rest.length === 0 ? Effect.succeed([]) : send(rest), (results) => {
    const inOrder = results.values()
    return known.map((result) => (result === "none yet" ? inOrder.next().value : result))
  })
}
