/** Writers that know nothing of this library. */
import { Effect, Random } from "effect"

export const oneIn = (count: number) => Effect.map(Random.nextIntBetween(0, count), (number) => number === 0)

/** A transaction as other programs make it: many rows in one statement, savepoints, two phases, rollbacks. */
export const plainTransaction = Effect.fnUntraced(function* <E>(
  run: (statement: string) => Effect.Effect<unknown, E>,
  options: {
    readonly table: string
    /** Names the transaction, and is the type of its events. */
    readonly write: string
    /** How many events one statement writes at most. */
    readonly most: number
    readonly pause: Effect.Effect<unknown>
  }
) {
  const { most, pause, table, write } = options
  const insert = (type: string, count: number) =>
    run(`INSERT INTO ${table} (id, aggregate_id, event_type, data)
      SELECT gen_random_uuid(), 'plain', '${type}', '{}' FROM generate_series(1, ${count})`)
  const size = yield* Random.nextIntBetween(1, most)
  yield* run("BEGIN")
  yield* insert(write, size)
  yield* pause
  if (yield* oneIn(3)) {
    yield* run("SAVEPOINT part")
    yield* insert(`${write}, undone`, 3)
    yield* run("ROLLBACK TO part")
  }
  yield* insert(write, 1)
  const isCommitted = !(yield* oneIn(5))
  const end = isCommitted ? "COMMIT" : "ROLLBACK"
  const phases = (yield* oneIn(3)) ? [`PREPARE TRANSACTION '${write}'`, `${end} PREPARED '${write}'`] : [end]
  for (const phase of phases) {
    yield* run(phase)
    yield* pause
  }
  return { events: size + 1, end: isCommitted ? ("acknowledged" as const) : ("rolled back" as const) }
})
