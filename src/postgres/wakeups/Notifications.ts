/** What is notified, and how notifications are sent to other processes: few, and outside of the transactions that cause them. */
import { Duration, Effect, Fiber, FiberSet, Latch } from "effect"
import { onRealClock } from "../../internal/RealTime.ts"
import { qualify } from "../database/Identifier.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"

/** The channel on which processes wake each other up. A payload is the oid of a table and the id of the sender. */
export const channel = "strata_wakeups"

/** The channel on which go-sync-kit's trigger notifies of each event, of whatever table in the database it is. */
export const rowChannel = "events_global"

/** The tables whose readers are woken. */
export type Table = "events" | "offsets" | "spool"

export const tables: ReadonlyArray<Table> = ["events", "offsets", "spool"]

/** The least time between two notifications of a process. */
const minInterval = Duration.millis(5)

/** How long the next notification waits for the answer to the one before. */
const maxWaitForAnswer = Duration.seconds(1)

/** How long the end of the layer waits for the last notifications. */
const maxWaitForLast = Duration.seconds(1)

export interface Notifier {
  /** The id of this sender: a process has woken its own readers before it sends, so it passes over its own notifications. */
  readonly sender: string
  /** Sends a wake-up of the table's readers soon, without waiting for anything. */
  readonly notify: (table: Table) => void
}

export const make = Effect.gen(function* () {
  const { fixed, names, query, schema } = yield* PostgresDatabase
  const sender = crypto.randomUUID()
  const unsent = new Set<Table>()
  const due = yield* Latch.make()

  const send = Effect.suspend(() => {
    const changed = [...unsent].map((table) => qualify(schema, names[table]))
    unsent.clear()
    due.closeUnsafe()
    return Effect.ignore(
      query(fixed`
        SELECT pg_notify(${channel}, name::regclass::oid::text || ${` ${sender}`}) FROM pg_catalog.unnest(${changed}::text[]) AS name`),
      { log: "Debug" }
    )
  })

  /** Those whose answer is still to come. */
  const sending = yield* FiberSet.make()
  yield* Effect.addFinalizer(() =>
    Effect.suspend(() => (unsent.size === 0 ? Effect.void : FiberSet.run(sending, send))).pipe(
      Effect.andThen(FiberSet.awaitEmpty(sending)),
      // Those that are left are interrupted with the layer: the pool would wait for them on a dead connection.
      Effect.timeoutOption(maxWaitForLast),
      onRealClock
    )
  )
  yield* due.await.pipe(
    // Each is sent in a fiber of its own: on a dead connection it waits for an answer, while the next ones go on others.
    Effect.andThen(FiberSet.run(sending, send)),
    Effect.tap(Effect.sleep(minInterval)),
    Effect.flatMap((fiber) =>
      fiber.pollUnsafe() === undefined ? Effect.timeoutOption(Fiber.await(fiber), maxWaitForAnswer) : Effect.void
    ),
    Effect.forever,
    onRealClock,
    Effect.forkScoped
  )

  const notifier: Notifier = {
    sender,
    notify: (table) => {
      unsent.add(table)
      due.openUnsafe()
    }
  }
  return notifier
})
