/** How the events for a decision are read, together with the condition for the append of what is decided. */
import { Effect, Schema, Stream } from "effect"
import type { Fragment } from "effect/sql/Statement"
import type { ForDecision, StoredEvent } from "../../Event.ts"
import { Condition, type ReadForDecision } from "../../EventStore.ts"
import { Closed, type Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as SharedReads from "../database/SharedReads.ts"
import { wrongIsolation } from "./AppendResults.ts"
import * as ArchivedEnd from "./ArchivedEnd.ts"
import { type Moved, versionIn } from "./ArchivedEnd.ts"
import * as ArchivedEvents from "./ArchivedEvents.ts"
import type * as ArchiveTable from "./ArchiveTable.ts"
import * as DecisionMark from "./DecisionMark.ts"
import * as DecisionMatches from "./DecisionMatches.ts"
import * as DecisionStatements from "./DecisionStatements.ts"
import { eventDecoder } from "./EventRow.ts"
import * as LockHolders from "./LockHolders.ts"
import * as Partitions from "./Partitions.ts"
import * as Settling from "./Settling.ts"
import * as TagTable from "./TagTable.ts"

/** The first row says of the log how it was when the events were read. The others are the events. */
const First = Schema.Struct({
  log: Schema.fromJsonString(
    Schema.Struct({
      ...LockHolders.ServerColumns.fields,
      database: Schema.String,
      epoch: Schema.NullOr(Schema.BigIntFromString),
      /** The version below which the log is archived. */
      archivedEnd: Schema.optionalKey(Schema.BigIntFromString),
      /** The versions of archived events with the tags of items, with the bits of these items: `12 3`. */
      archived: Schema.optionalKey(Schema.NullOr(Schema.Array(Schema.String)))
    })
  )
})

const closed = new Closed({
  message: "the scope of this EventStore has ended before the read had; keep its layer alive"
})

const firstItem: ReadonlyArray<number> = [0]

/** The places of the items that an event matches, of their bits. */
const placesOf = (items: bigint): ReadonlyArray<number> => {
  if (items === 1n) return firstItem
  const places: Array<number> = []
  for (let place = 0, rest = BigInt.asUintN(64, items); rest > 0n; place++, rest >>= 1n) {
    if ((rest & 1n) === 1n) places.push(place)
  }
  return places
}

/** The same of a row. */
const itemsOf = (row: unknown): ReadonlyArray<number> => placesOf(versionIn(row, "items") ?? 0n)

/** The bits of items by version, of texts such as `12 3`. */
const bitsOf = (texts: ReadonlyArray<string>): ReadonlyMap<bigint, bigint> =>
  new Map(
    texts.map((text) => {
      const space = text.indexOf(" ")
      return [BigInt(text.slice(0, space)), BigInt(text.slice(space + 1))]
    })
  )

/** Events of a decision, and which items each of them matches. */
interface Matches {
  readonly events: Array<StoredEvent>
  readonly items: Array<ReadonlyArray<number>>
}

const noMatches: Matches = { events: [], items: [] }

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { integers, names, query, sql, whether } = database
  const { atEnd } = yield* Settling.make
  const { matchesOf, taggedOf } = DecisionMatches.make(database)
  const { read: readLog } = yield* Partitions.make
  const archive = yield* ArchivedEvents.make
  const { end } = ArchivedEnd.make(database)
  const mark = yield* DecisionMark.make(atEnd)
  const decode = eventDecoder(names.events, integers)
  const decodeFirst = decodeRows(First, "pg_database", [])
  const serverColumns = sql.literal(LockHolders.serverColumns(database))

  /** What is archived of the tags of a decision. Its types are in the files. */
  const archivedOf = (items: ForDecision["items"]) => {
    const tagged = taggedOf(items)
    const versions =
      tagged === undefined
        ? sql.literal("NULL::text[]")
        : sql`CASE WHEN ${end} > 0::bigint THEN ARRAY(
          SELECT version::text || ' '::text || pg_catalog.bit_or(item)::text FROM (${tagged}) AS tagged
          WHERE version < ${end} GROUP BY version
        ) END`
    return sql`, ${end}::text AS "archivedEnd", ${versions} AS archived`
  }

  // One row for the log, as its columns would cost as much in each row as the event.
  const statementBy = (archived: (items: ForDecision["items"]) => Fragment) =>
    DecisionStatements.make(
      database,
      (items) => sql`
    SELECT pg_catalog.row_to_json(state)::text AS log, NULL::bigint AS version, NULL::text AS id, NULL::text AS "aggregateId",
      NULL::text AS "eventType", NULL::text AS data, NULL::text AS metadata, NULL::timestamptz AS "createdAt",
      NULL::bigint AS items
    FROM (
      SELECT ${serverColumns}, current_database()::text AS database,
        (SELECT max(version)::text FROM ${TagTable.tableOf(database)} WHERE tag = ''::text) AS epoch ${archived(items)}
    ) AS state
    UNION ALL
    SELECT NULL, page.* FROM (${matchesOf(items)}) AS page
    ORDER BY version NULLS FIRST`
    )
  const ofPlainTable = statementBy(() => sql.literal(""))
  const ofPartitions = statementBy(archivedOf)

  const share = yield* SharedReads.make<ReadForDecision, Reason>(closed)

  /** The archived events that match, of which `tagged` has those that do by their tags. */
  const archivedMatches = Effect.fnUntraced(function* (
    { items }: ForDecision,
    last: bigint,
    tagged: ReadonlyMap<bigint, bigint>
  ): Effect.fn.Return<Matches, Reason | Moved> {
    const untagged = items.reduce(
      (bits, { tags = [] }, place) => (tags.length === 0 ? bits | (1n << BigInt(place)) : bits),
      0n
    )
    const found: Matches = { events: [], items: [] }
    if (untagged === 0n && tagged.size === 0) return found
    const versions = [...tagged.keys()]
    const isNeeded = (part: ArchiveTable.Part) =>
      untagged !== 0n || versions.some((version) => version >= part.firstVersion && version < part.endVersion)
    const rows = archive.partsUpTo(0n, last).pipe(
      Stream.filter(isNeeded),
      Stream.flatMap((part) => archive.rowsAfter(part, 0n)),
      Stream.flattenIterable
    )
    yield* Stream.runForEach(rows, (row) => {
      const bits = untagged | BigInt.asUintN(64, tagged.get(row.version) ?? 0n)
      const places = placesOf(bits).filter((place) => items[place]?.eventTypes?.includes(row.eventType) ?? true)
      return places.length === 0
        ? Effect.void
        : Effect.map(archive.eventOf(row), (event) => {
            found.events.push(event)
            found.items.push(places)
          })
    })
    return found
  })

  const attempt = Effect.fnUntraced(function* (asked: ForDecision): Effect.fn.Return<ReadForDecision, Reason | Moved> {
    // Before the statement, whose snapshot then has every event up to the mark that will ever be. A younger mark, which is
    // found while the statement runs, may lie above events that the statement does not see.
    const before = mark.current()
    const rows = yield* readLog({
      ofPlainTable: () => query(ofPlainTable(asked.items)),
      ofPartitions: () => query(ofPartitions(asked.items))
    })
    const [first] = yield* decodeFirst(rows.slice(0, 1))
    if (first === undefined || !first.log.isolation.startsWith("read ")) return yield* wrongIsolation
    const { log } = first
    const matched = rows.slice(1)
    const { corrupt, events: live } = decode(matched)
    if (corrupt !== undefined) return yield* corrupt
    // All that is archived is settled, so the mark is not below it.
    const archivedLast = (log.archivedEnd ?? 0n) - 1n
    const { events: old, items: oldItems } =
      archivedLast > 0n ? yield* archivedMatches(asked, archivedLast, bitsOf(log.archived ?? [])) : noMatches
    const events = old.length === 0 ? live : [...old, ...live]
    const settled = before.server === log.server ? before : DecisionMark.start
    const { id, version } = settled.version < archivedLast ? { id: undefined, version: archivedLast } : settled
    const seen = events.filter((event) => event.version > version).map((event) => event.version)
    mark.counted(seen.length)
    const condition = new Condition({
      items: asked.items,
      server: `${log.server} ${log.database}`,
      epoch: log.epoch ?? 0n,
      mark: version,
      markId: id,
      matches: events.length - seen.length,
      seen
    })
    return { events, items: [...oldItems, ...matched.map(itemsOf)], condition }
  })

  const readNow = (asked: ForDecision): Effect.Effect<ReadForDecision, Reason> => ArchivedEnd.again(attempt(asked))

  return {
    /** What `readForDecision` of the contract does. Decisions upon the same thing that read at once share a statement. */
    read: (asked: ForDecision): Effect.Effect<ReadForDecision, Reason> =>
      whether({
        inside: () => readNow(asked),
        outside: () => share(JSON.stringify(asked.items), readNow(asked))
      })
  }
})
