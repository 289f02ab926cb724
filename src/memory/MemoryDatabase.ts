/**
 * A database in memory that behaves like Postgres at READ COMMITTED, so that a test that passes on it means something
 * for Postgres: transactions interleave and see each other's rows only after the commit, a row that one transaction has
 * written makes the others wait, a circle of waits is `Contention`, savepoints undo their part, an error ends the
 * transaction, and numbers drawn from a sequence are gone even if the transaction rolls back.
 *
 * **Details**
 *
 * Transactions are driven by `SqlClient.makeWithTransaction`, which drives them on Postgres too, so nesting, interruption
 * and rollback are the same by construction.
 */
import { Context, Effect, Layer, SubscriptionRef } from "effect"
import type { DurableState } from "../DurableStateStore.ts"
import type { ListenerStatus } from "../EventStore.ts"
import type { LargeIntegers } from "../internal/ExactJson.ts"
import type { Offset } from "../OffsetStore.ts"
import type { Reason } from "../StoreError.ts"
import { EventLog } from "./EventLog.ts"
import type { EventRow } from "./EventRow.ts"
import * as Events from "./Events.ts"
import { Listener } from "./Listener.ts"
import { groupOf, type MessageRow, type RememberedId } from "./spool/MessageRow.ts"
import { Table } from "./Table.ts"
import * as Transactions from "./Transactions.ts"

/** The memory backend's database: see the module's documentation. */
export class MemoryDatabase extends Context.Service<
  MemoryDatabase,
  Transactions.Transactions & {
    /** The stores' tables. */
    readonly tables: Events.EventTables & {
      readonly offsets: Table<Offset>
      readonly rememberedIds: Table<RememberedId>
      readonly spool: Table<MessageRow>
      readonly states: Table<DurableState>
    }

    /** A name that no other database of this process has. */
    readonly name: string

    /** What becomes of integers beyond 2^53 in JSON. */
    readonly largeIntegers: LargeIntegers

    /** Whether events name the span that has appended them. */
    readonly traceparent: "never" | undefined

    /** The next number of a sequence, from 1. It is never given again, whatever becomes of the transaction. */
    readonly nextValue: (sequence: string) => bigint

    /** The committed events in order, and which versions are in flight. */
    readonly log: EventLog

    /** How subscribers hear of new events. */
    readonly listener: Listener

    /**
     * Cuts subscribers off from what is new, as a lost connection does, until it is restored: then they go on where they
     * were. Meanwhile they are `"reconnecting"`.
     */
    readonly cutListener: Effect.Effect<void>

    readonly restoreListener: Effect.Effect<void>

    /** Makes all subscriptions fail with this reason, as when their reconnect schedule ends. */
    readonly endListener: (reason: Reason) => Effect.Effect<void>
  }
>()("effect-strata/memory/MemoryDatabase") {}

let made = 0

/** Makes an empty database. Give it to several layers (`Memory.layerShared`) to keep its records across them. */
export const make: Effect.Effect<MemoryDatabase["Service"]> = Effect.gen(function* () {
  const sequences = new Map<string, bigint>()
  const events = new Table<EventRow>("events")
  const log = new EventLog()
  const listener = new Listener(yield* SubscriptionRef.make<ListenerStatus>("stopped"), log)
  const transactions = Transactions.make((ended) => {
    log.end(ended, (version) => events.committedRow(Events.keyOf(version)))
    listener.wake()
  })

  return MemoryDatabase.of({
    ...transactions,
    name: `memory ${++made}`,
    tables: {
      offsets: new Table("offsets_store"),
      events,
      eventIds: new Table("events_id"),
      epochs: new Table("epochs"),
      rememberedIds: new Table("remembered_ids"),
      spool: new Table<MessageRow>("messages", groupOf),
      states: new Table("states_store")
    },
    log,
    listener,
    largeIntegers: "fail",
    traceparent: undefined,
    nextValue: (sequence) => {
      const value = (sequences.get(sequence) ?? 0n) + 1n
      sequences.set(sequence, value)
      return value
    },
    cutListener: listener.cut,
    restoreListener: listener.restore,
    endListener: (reason) => listener.end(reason)
  })
})

/** A fresh, empty database. */
export const layer: Layer.Layer<MemoryDatabase> = Layer.effect(MemoryDatabase, make)
