/**
 * How states get into the table.
 *
 * **Details**
 *
 * A write is one round trip. Outside a transaction, those that come at once are coalesced into one statement, so one
 * commit, at most one of each entity. None of them waits there for a row: it would keep the others from their results, and
 * the rows of the others from those who hold what it waits for, in a circle.
 */
import { Effect, Exit, Schema } from "effect"
import { isSame, StaleState, type Write } from "../DurableStateStore.ts"
import { Closed, type Reason } from "../StoreError.ts"
import * as Coalescing from "./Coalescing.ts"
import { decodeRows, PostgresDatabase } from "./PostgresDatabase.ts"
import { isRefusal } from "./Reasons.ts"
import { columns, content, replace, Row, stored, toDurableState } from "./StateRow.ts"

type Failure = StaleState | Reason
type Result = Exit.Exit<void, Failure>

interface Request extends Coalescing.Job {
  readonly state: Write
}

/** Somebody else has the row, or is about to. */
const isBlocked = Schema.is(Schema.Struct({ versionNumber: Schema.Null }))

const Key = Schema.Struct({ persistenceId: Schema.String })

export const make = Effect.gen(function* () {
  const { inTransaction, names, query, sql, tables } = yield* PostgresDatabase
  const table = tables.states
  const key = ["persistenceId"]
  const decode = decodeRows(Row, names.states, key)
  const decodeKeys = decodeRows(Key, names.states, key)

  // Statements

  const into = sql`INSERT INTO ${table} AS states (${sql.literal(stored)})`
  const all = sql.literal(stored)

  // Each returns what is stored where nothing was written.

  // A plain SELECT would not see what another transaction committed while this one waited for it. But the row that is in the
  // way is locked by then, so a second INSERT is sure to meet it, and to return it, updated to itself.
  const writeOne = ({ manifest, payload, persistenceId, shard, timestamp, versionNumber }: Write) => sql`
    WITH new (${all}) AS MATERIALIZED (
      VALUES (${persistenceId}, ${versionNumber}, ${payload}, ${manifest}, ${timestamp}, ${BigInt(shard)})
    ), written AS (
      ${into} SELECT ${all} FROM new
      ON CONFLICT (persistence_id) DO UPDATE SET ${sql.literal(replace)}
      WHERE states.version_number < excluded.version_number
      RETURNING persistence_id
    )
    ${into} SELECT ${all} FROM new WHERE NOT EXISTS (SELECT FROM written)
    ON CONFLICT (persistence_id) DO UPDATE SET version_number = states.version_number
    RETURNING ${sql.literal(columns)}`

  // Rows that somebody else has are left out. Whether somebody else is about to insert one cannot be known: `inserting` says
  // whether to try, and not for long. In one order for everybody, so that two of these cannot block each other in a circle.
  const writeMany = (states: ReadonlyArray<Write>, inserting: boolean) => sql`
    WITH new (${all}) AS MATERIALIZED (
      SELECT * FROM unnest(
        ${states.map(({ persistenceId }) => persistenceId)}::text[],
        ${states.map(({ versionNumber }) => versionNumber)}::bigint[],
        ${states.map(({ payload }) => payload)}::bytea[],
        ${states.map(({ manifest }) => manifest)}::text[],
        ${states.map(({ timestamp }) => timestamp)}::bigint[],
        ${states.map(({ shard }) => BigInt(shard))}::bigint[]
      ) WHERE (SELECT set_config('lock_timeout', '100ms', true)) IS NOT NULL
    ), held AS MATERIALIZED (
      SELECT states.* FROM ${table} AS states JOIN new USING (persistence_id) FOR UPDATE OF states SKIP LOCKED
    ), written AS (
      ${into} SELECT new.* FROM new LEFT JOIN held USING (persistence_id)
      WHERE held.version_number < new.version_number OR ${inserting} AND held.persistence_id IS NULL AND NOT EXISTS (
        SELECT FROM ${table} AS known WHERE known.persistence_id = new.persistence_id
      )
      ORDER BY persistence_id
      ON CONFLICT (persistence_id) DO UPDATE SET ${sql.literal(replace)}
      WHERE states.version_number < excluded.version_number
      RETURNING persistence_id
    )
    SELECT rest.persistence_id AS "persistenceId", ${sql.literal(content)}
    FROM (SELECT persistence_id FROM new EXCEPT SELECT persistence_id FROM written) AS rest
    LEFT JOIN held USING (persistence_id)`

  // What came of them

  const resultOf = ({ onDuplicate = "ignore", ...state }: Write, rows: ReadonlyArray<unknown>) =>
    Effect.flatMap(decode(rows), ([row]): Effect.Effect<void, StaleState> => {
      if (row === undefined) return Effect.void
      const current = toDurableState(row)
      return onDuplicate === "ignore" && isSame(current, state)
        ? Effect.void
        : Effect.fail(new StaleState({ persistenceId: state.persistenceId, attempted: state.versionNumber, current }))
    })

  const patiently = ({ state }: Request) => Effect.flatMap(query(writeOne(state)), (rows) => resultOf(state, rows))

  const together = Effect.fnUntraced(function* (requests: ReadonlyArray<Request>, inserting: boolean) {
    const states = requests.map(({ state }) => state)
    const rows = yield* query(writeMany(states, inserting))
    const keys = yield* decodeKeys(rows)
    const rest = new Map(keys.map(({ persistenceId }, index) => [persistenceId, rows[index]]))
    return yield* Effect.forEach(states, (state): Effect.Effect<Result | undefined> => {
      if (!rest.has(state.persistenceId)) return Effect.succeed(Exit.void)
      const row = rest.get(state.persistenceId)
      return isBlocked(row) ? Effect.undefined : Effect.exit(resultOf(state, [row]))
    })
  })

  const attempt = (
    requests: ReadonlyArray<Request>,
    inserting = true
  ): Effect.Effect<ReadonlyArray<Result | undefined>> => {
    const [first] = requests
    if (first !== undefined && requests.length === 1) {
      return Effect.map(Effect.exit(patiently(first)), (result) => [result])
    }
    return Effect.catch(together(requests, inserting), (reason) => {
      if (reason._tag === "Contention") {
        // Somebody is about to insert one of them. The next time all that are not there are left out.
        return inserting ? attempt(requests, false) : Effect.succeed(requests.map(() => undefined))
      }
      if (!isRefusal(reason)) return Effect.succeed(requests.map(() => Exit.fail(reason)))
      // Nothing was written. Whoever is to blame fails alone.
      const middle = requests.length >> 1
      return Effect.zipWith(attempt(requests.slice(0, middle)), attempt(requests.slice(middle)), (a, b) => [...a, ...b])
    })
  }

  const coalesced = yield* Coalescing.make<Request, void, Failure>(
    { attempt, patiently },
    new Closed({ message: "the scope of this DurableStateStore has ended before the write had; keep its layer alive" })
  )

  /** Writes a state, unless what is stored is newer or different. */
  return (state: Write): Effect.Effect<void, Failure> => {
    const request: Request = {
      kind: "write",
      shared: [],
      exclusive: [state.persistenceId],
      bytes: state.payload.length,
      state
    }
    return Effect.flatMap(inTransaction, (inside) => (inside ? patiently(request) : coalesced(request)))
  }
})
