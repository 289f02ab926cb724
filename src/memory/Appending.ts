/** How events get into the log in memory: `append` of the contract. */
import { DateTime, Effect, Equal, Option } from "effect"
import { type Append, expectedOf } from "../Event.ts"
import { matchesItem } from "../events/EventFilter.ts"
import * as Origins from "../events/Origins.ts"
import {
  ConditionFailed,
  type DecisionError,
  DuplicateEvent,
  type Expected,
  LogReplaced,
  type NewEvent,
  type QueryItem,
  type StoredEvent,
  VersionConflict
} from "../EventStore.ts"
import { idGenerator, idsOf } from "../internal/Ids.ts"
import { EventRow, eventOf } from "./EventRow.ts"
import * as Events from "./Events.ts"
import type { Mode } from "./Locks.ts"
import { MemoryDatabase } from "./MemoryDatabase.ts"
import { type Lock, lockOf, type Transaction } from "./Transaction.ts"

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

/** The tags of the new events, each with whether a condition has it first in an item. */
const tagsOf = ({ condition, events }: Append): ReadonlyMap<string, Mode> => {
  const tags = new Map<string, Mode>()
  for (const tag of events.flatMap((event) => event.tags ?? [])) tags.set(tag, "shared")
  for (const item of condition?.decided.items ?? []) {
    const [first] = item.tags ?? []
    if (first !== undefined) tags.set(first, "exclusive")
  }
  return new Map([...tags].sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** Whether the condition is about events that no tag tells apart from others. */
const isOfWholeLog = ({ condition }: Append) =>
  condition?.decided.items.some(({ tags = [] }) => tags.length === 0) ?? false

/**
 * Every lock of an append, in one order for all appends. An append that expects something of an aggregate waits for every
 * other one to it; the others only wait for an append that expects something. The same is true of an append with a
 * condition, and those that write the first tag of one of its items; an item without tags is about all appends.
 */
const locksOf = (tables: Events.EventTables, append: Append): ReadonlyArray<Lock> => {
  const locks: Array<Lock> = [{ name: "log", mode: isOfWholeLog(append) ? "exclusive" : "shared" }]
  for (const [tag, mode] of tagsOf(append)) locks.push({ name: `tag ${tag}`, mode })
  for (const id of aggregateIdsOf(append)) {
    locks.push({ name: `aggregate ${id}`, mode: expectedOf(append, id) === "any" ? "shared" : "exclusive" })
  }
  for (const id of append.events.flatMap((event) => event.id ?? []).sort()) {
    locks.push({ name: lockOf(tables.eventIds, id), mode: "exclusive" })
  }
  return locks
}

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
  where: Events.Where,
  transaction: Transaction,
  append: Append,
  known: ReadonlyMap<NewEvent, EventRow>
): VersionConflict | undefined => {
  const added = new Set(append.events.flatMap((event) => (known.has(event) ? [] : [event.aggregateId])))
  for (const aggregateId of aggregateIdsOf(append)) {
    if (!added.has(aggregateId)) continue
    const expected = expectedOf(append, aggregateId)
    if (expected === "any") continue
    const actual = Events.lastVersion(where, transaction, aggregateId)
    if (!isFulfilled(expected, actual)) return new VersionConflict({ aggregateId, expected, actual })
  }
  return undefined
}

/** Whether an event matches one of the items. */
export const matchesQuery = (items: ReadonlyArray<QueryItem>, row: EventRow): boolean =>
  items.some((item) => matchesItem(item, row.eventType, row.tags))

/** What has come that the condition does not know, or has gone that it knows. */
const overtakenBy = (
  { name, log, tables }: Pick<MemoryDatabase["Service"], "name" | "log" | "tables">,
  transaction: Transaction,
  { condition }: Append
): ConditionFailed | LogReplaced | undefined => {
  if (condition === undefined) return undefined
  const { epoch, items, mark, markId, seen, server } = condition.decided
  if (server !== name) {
    return new LogReplaced({
      version: mark,
      id: Option.fromUndefinedOr(markId),
      foundId: Option.fromUndefinedOr(log.at(mark)?.id),
      latest: log.latest,
      lastAgreed: Option.none()
    })
  }
  if (epoch !== Events.epochOf(tables, transaction)) {
    return new ConditionFailed({ change: "tagged", version: Option.none(), eventType: Option.none(), tags: [] })
  }
  const withdrawn = seen.find((version) => transaction.get(tables.events, Events.keyOf(version)) === undefined)
  if (withdrawn !== undefined) {
    return new ConditionFailed({
      change: "withdrawn",
      version: Option.some(withdrawn),
      eventType: Option.none(),
      tags: []
    })
  }
  const isNew = (row: EventRow) => !seen.includes(row.version) && matchesQuery(items, row)
  const [first] = Events.select({ log, tables }, transaction, { after: mark, keep: isNew })
  return first === undefined
    ? undefined
    : new ConditionFailed({
        change: "appended",
        version: Option.some(first.version),
        eventType: Option.some(first.eventType),
        tags: [...first.tags].sort()
      })
}

export const make = Effect.gen(function* () {
  const database = yield* MemoryDatabase
  const { inTransaction, log, nextValue, statement, tables } = database
  const random = yield* idGenerator

  const insert = (transaction: Transaction, event: NewEvent, id: string) => {
    const version = nextValue("events_version")
    const row = new EventRow(event, id, version, DateTime.makeUnsafe(transaction.startedAt))
    log.draw(transaction, version)
    transaction.set(tables.events, Events.keyOf(version), row)
    transaction.set(tables.eventIds, id, version)
    return row
  }

  /** Appends once the locks are held. `ids` has the ids of the events. */
  const write = (
    transaction: Transaction,
    append: Append,
    ids: ReadonlyArray<string>
  ): Effect.Effect<ReadonlyArray<StoredEvent>, DecisionError> => {
    const known = knownEvents(tables, transaction, append)
    if (known instanceof DuplicateEvent) return Effect.fail(known)
    const conflict = conflictOf(database, transaction, append, known)
    if (conflict !== undefined) return Effect.fail(conflict)
    const overtaken = known.size < append.events.length ? overtakenBy(database, transaction, append) : undefined
    if (overtaken !== undefined) return Effect.fail(overtaken)
    return Effect.succeed(
      append.events.map((event, place) => eventOf(known.get(event) ?? insert(transaction, event, ids[place] ?? "")))
    )
  }

  // Other fibers run first, as they do while an append is on its way to a server: a program that reads, decides and appends
  // without a guard loses its races here as well.
  const onItsWay = Effect.flatMap(inTransaction, (isInside) => (isInside ? Effect.void : Effect.yieldNow))

  return (append: Append) => {
    const stored = Effect.flatMap(idsOf(random, append.events), (ids) =>
      statement((transaction) =>
        Effect.flatMap(transaction.lockAll(locksOf(tables, append)), () => write(transaction, append, ids))
      )
    )
    return Effect.andThen(onItsWay, stored)
  }
})
