/**
 * How states get into the table.
 *
 * **Details**
 *
 * The functions of `resources/postgres/0020_states_write.sql` and `0021_states_write_many.sql` write states: a write is one
 * round trip, whatever comes of it. Outside of a transaction, writes that come at once are coalesced into one statement, so
 * one commit, with at most one write of each entity. None of them waits there for a row. While one waited, the others would
 * not get their results, and would keep their rows: the transaction that holds the row may itself wait for one of these, in a
 * circle.
 */
import { Effect, Exit, Schema } from "effect"
import { isSame, type OverwriteAndGet, type Write } from "../../DurableState.ts"
import { type DurableState, StaleState } from "../../DurableStateStore.ts"
import { Closed, type Reason } from "../../StoreError.ts"
import * as Coalescing from "../database/Coalescing.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { isRefusal } from "../database/Reasons.ts"
import { stateDecoder } from "./StateRow.ts"
import * as StateStatements from "./StateStatements.ts"

type Failure = StaleState | Reason
/** What came of a write. `undefined` stands for a write that would have to wait for another transaction. */
type Result = Exit.Exit<void, Failure> | undefined

interface Request extends Coalescing.Job {
  readonly kind: StateStatements.Kind
  readonly state: Write
}

const requestOf = (kind: Request["kind"], state: Write): Request => ({
  kind,
  shared: [],
  exclusive: [state.persistenceId],
  unordered: [],
  size: state.payload.length,
  state
})

/** Whether another transaction has the row, or is about to insert it. */
const isBlocked = Schema.is(Schema.Struct({ versionNumber: Schema.Null }))

const closed = new Closed({
  message: "the scope of this DurableStateStore has ended before the write had; keep its layer alive"
})

const Key = Schema.Struct({ persistenceId: Schema.String })

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { names, query, whether } = database
  const { overwriteAndGet, overwriteOne, writeMany, writeOne } = StateStatements.make(database)
  const decode = stateDecoder(names.states)
  const decodeKeys = decodeRows(Key, names.states, ["persistenceId"])

  const resultOf = ({ onDuplicate = "ignore", ...state }: Write, rows: ReadonlyArray<unknown>) =>
    Effect.flatMap(decode(rows), ([current]): Effect.Effect<void, StaleState> => {
      if (current === undefined) return Effect.void
      return onDuplicate === "ignore" && isSame(current, state)
        ? Effect.void
        : Effect.fail(new StaleState({ persistenceId: state.persistenceId, attempted: state.versionNumber, current }))
    })

  const patiently = ({ kind, state }: Request): Effect.Effect<void, Failure> =>
    kind === "overwrite"
      ? Effect.asVoid(query(overwriteOne(state)))
      : Effect.flatMap(query(writeOne(state)), (rows) => (rows.length === 0 ? Effect.void : resultOf(state, rows)))

  const run = Effect.fnUntraced(function* (requests: ReadonlyArray<Request>, inserting: boolean) {
    const states = requests.map(({ state }) => state)
    const rows = yield* query(writeMany(requests[0]?.kind ?? "write", states, inserting))
    const keys = yield* decodeKeys(rows)
    const rest = new Map(keys.map(({ persistenceId }, index) => [persistenceId, rows[index]]))
    return yield* Effect.forEach(states, (state): Effect.Effect<Result> => {
      if (!rest.has(state.persistenceId)) return Effect.succeed(Exit.void)
      const row = rest.get(state.persistenceId)
      return isBlocked(row) ? Effect.undefined : Effect.exit(resultOf(state, [row]))
    })
  })

  /** Writes one half after the other. */
  const halves = (requests: ReadonlyArray<Request>) => {
    const middle = requests.length >> 1
    return Effect.zipWith(together(requests.slice(0, middle)), together(requests.slice(middle)), (first, second) => [
      ...first,
      ...second
    ])
  }

  const together = (requests: ReadonlyArray<Request>): Effect.Effect<ReadonlyArray<Result>> =>
    Effect.catch(run(requests, true), (reason) =>
      reason._tag === "Contention"
        ? insertable(requests)
        : requests.length > 1 && isRefusal(reason)
          ? // The server has written nothing. In halves, the write that it refuses fails alone in the end.
            halves(requests)
          : Effect.succeed(requests.map(() => Exit.fail(reason)))
    )

  /** Another transaction is about to insert one of these rows. The other rows that are not there yet must not wait with it. */
  const insertable = Effect.fnUntraced(function* (requests: ReadonlyArray<Request>) {
    const results = yield* Effect.orElseSucceed(run(requests, false), (): ReadonlyArray<Result> =>
      requests.map(() => undefined)
    )
    const rest = requests.filter((_, index) => results[index] === undefined)
    if (rest.length < 2) return results
    const inserted = (yield* halves(rest)).values()
    return results.map((result) => result ?? inserted.next().value)
  })

  const coalesced = yield* Coalescing.make<Request, void, Failure>(
    { alone: patiently, attempt: together, patiently },
    closed
  )

  const done = (request: Request) => whether({ inside: () => patiently(request), outside: () => coalesced(request) })

  return {
    /** Writes a state, unless what is stored is newer or different. */
    write: (state: Write): Effect.Effect<void, Failure> => done(requestOf("write", state)),
    /** Writes a state, whatever is stored. */
    overwrite: (state: DurableState): Effect.Effect<void, Reason> =>
      Effect.catchTag(done(requestOf("overwrite", state)), "StaleState", () => Effect.void),
    /** Writes a state, whatever is stored, and returns states as they were before. */
    overwriteAndGet: (both: OverwriteAndGet): Effect.Effect<Array<DurableState>, Reason> =>
      Effect.flatMap(query(overwriteAndGet(both)), decode)
  }
})
