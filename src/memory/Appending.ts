/** How events get into the log in memory: `append` of the contract. */
import { DateTime, Effect, Equal, Option } from "effect"
import { type Append, expectedOf } from "../Event.ts"
import * as Origins from "../events/Origins.ts"
import { DuplicateEvent, type Expected, type NewEvent, VersionConflict } from "../EventStore.ts"
import { idGenerator } from "../internal/Ids.ts"
import { EventRow, toStoredEvent } from "./EventRow.ts"
import * as Events from "./Events.ts"
import { MemoryDatabase } from "./MemoryDatabase.ts"
import type { Transaction } from "./Transaction.ts"

const isFulfilled = (expected: Exclude<Expected, "any">, actual: Option.Option<bigint>): boolean => {
  switch (expected) {
    case "none":
      return Option.isNone(actual)
    case "some":
      return Option.isSome(actual)
    default:
      return Equal.equals(actual, Option.some(expected))
  }
}

const aggregateIdsOf = ({ events }: Append) => [...new Set(events.map((event) => event.aggregateId))].sort()

/**
 * Takes every lock of an append, in one order for all appends. An append that expects something of an aggregate waits for
 * every other one to it; the others only wait for an append that expects something.
 */
const lockAll = Effect.fnUntraced(function* (tables: Events.EventTables, transaction: Transaction, append: Append) {
  for (const id of aggregateIdsOf(append)) {
    yield* transaction.lock(`aggregate ${id}`, expectedOf(append, id) === "any" ? "shared" : "exclusive")
  }
  for (const id of append.events.flatMap((event) => event.id ?? []).sort()) {
    yield* transaction.holdPlace(tables.eventIds, id)
  }
})

/** What two events have to have in common to be the same: not where they come from. */
const contentOf = ({ aggregateId, data, eventType, metadata }: EventRow) => ({
  aggregateId,
  eventType,
  data,
  metadata: Origins.contentOf(metadata)
})

/** The events that are in the log already. By the rules of `onDuplicate` each is equal to what is appended, or an error. */
const knownEvents = (
  tables: Events.EventTables,
  transaction: Transaction,
  append: Append
): ReadonlyMap<NewEvent, EventRow> | DuplicateEvent => {
  const known = new Map<NewEvent, EventRow>()
  for (const event of append.events) {
    const row = event.id === undefined ? undefined : Events.find(tables, transaction, event.id)
    if (row === undefined) continue
    const appended = new EventRow(event, row.id, row.version, row.createdAt)
    const isSame = Equal.equals(contentOf(row), contentOf(appended))
    if (append.onDuplicate !== "ignore" || !isSame) return new DuplicateEvent({ id: row.id })
    known.set(event, row)
  }
  return known
}

/** The first conflict with what the append expects of the aggregates that get new events. */
const conflictOf = (
  tables: Events.EventTables,
  transaction: Transaction,
  append: Append,
  known: ReadonlyMap<NewEvent, EventRow>
): VersionConflict | undefined => {
  for (const aggregateId of aggregateIdsOf(append)) {
    if (append.events.every((event) => event.aggregateId !== aggregateId || known.has(event))) continue
    const expected = expectedOf(append, aggregateId)
    if (expected === "any") continue
    const actual = Events.lastVersion(tables, transaction, aggregateId)
    if (!isFulfilled(expected, actual)) return new VersionConflict({ aggregateId, expected, actual })
  }
  return undefined
}

export const make = Effect.gen(function* () {
  const { inTransaction, log, nextValue, statement, tables } = yield* MemoryDatabase
  const random = yield* idGenerator

  const insert = Effect.fnUntraced(function* (transaction: Transaction, event: NewEvent) {
    const version = yield* nextValue("events_version")
    const id = event.id ?? (yield* random.uuidV7())
    const row = new EventRow(event, id, version, DateTime.makeUnsafe(transaction.startedAt))
    log.draw(transaction, version)
    transaction.set(tables.events, Events.keyOf(version), row)
    transaction.set(tables.eventIds, id, version)
    return row
  })

  // Other fibers run first, as they do while an append is on its way to a server: a program that reads, decides and appends
  // without a guard loses its races here as well.
  const onItsWay = Effect.flatMap(inTransaction, (isInside) => (isInside ? Effect.void : Effect.yieldNow))

  return (append: Append) =>
    Effect.andThen(
      onItsWay,
      statement(
        Effect.fnUntraced(function* (transaction) {
          yield* lockAll(tables, transaction, append)
          const known = knownEvents(tables, transaction, append)
          if (known instanceof DuplicateEvent) return yield* known
          const conflict = conflictOf(tables, transaction, append, known)
          if (conflict !== undefined) return yield* conflict
          const rows: Array<EventRow> = []
          for (const event of append.events) rows.push(known.get(event) ?? (yield* insert(transaction, event)))
          return rows.map(toStoredEvent)
        })
      )
    )
})
