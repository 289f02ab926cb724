/** How the events for a decision are read, together with the condition for the append of what is decided. */
import { Effect, Predicate, Schema } from "effect"
import type { ForDecision } from "../../Event.ts"
import { Condition, type ReadForDecision } from "../../EventStore.ts"
import { Closed, type Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as SharedReads from "../database/SharedReads.ts"
import { wrongIsolation } from "./AppendSending.ts"
import * as DecisionMark from "./DecisionMark.ts"
import * as DecisionStatements from "./DecisionStatements.ts"
import * as EventPages from "./EventPages.ts"
import { eventDecoder } from "./EventRow.ts"
import * as LockHolders from "./LockHolders.ts"
import * as OwnAppends from "./OwnAppends.ts"
import * as Settling from "./Settling.ts"
import * as TagTable from "./TagTable.ts"

/** The first row says of the log how it was when the events were read. The others are the events. */
const First = Schema.Struct({
  log: Schema.fromJsonString(
    Schema.Struct({
      ...LockHolders.ServerColumns.fields,
      database: Schema.String,
      epoch: Schema.NullOr(Schema.BigIntFromString)
    })
  )
})

const closed = new Closed({
  message: "the scope of this EventStore has ended before the read had; keep its layer alive"
})

const firstItem: ReadonlyArray<number> = [0]

/** The places of the items that an event matches: the row has them as bits. */
const itemsOf = (row: unknown): ReadonlyArray<number> => {
  const items = Predicate.hasProperty(row, "items") && typeof row.items === "bigint" ? row.items : 0n
  if (items === 1n) return firstItem
  const places: Array<number> = []
  for (let place = 0, rest = BigInt.asUintN(64, items); rest > 0n; place++, rest >>= 1n) {
    if ((rest & 1n) === 1n) places.push(place)
  }
  return places
}

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { integers, names, query, sql, whether } = database
  const { atEnd } = yield* Settling.make
  const { matchesOf } = yield* EventPages.make
  const mark = yield* DecisionMark.make(atEnd)
  const decode = eventDecoder(names.events, integers)
  const decodeFirst = decodeRows(First, "pg_database", [])
  const serverColumns = sql.literal(LockHolders.serverColumns(database))

  // One row for the log, as its columns would cost as much in each row as the event.
  const statement = DecisionStatements.make(
    database,
    (items) => sql`
    SELECT pg_catalog.row_to_json(state)::text AS log, NULL::bigint AS version, NULL::text AS id, NULL::text AS "aggregateId",
      NULL::text AS "eventType", NULL::text AS data, NULL::text AS metadata, NULL::timestamptz AS "createdAt",
      NULL::text AS "streamName", NULL::bigint AS items
    FROM (
      SELECT ${serverColumns}, current_database()::text AS database,
        (SELECT max(version)::text FROM ${TagTable.tableOf(database)} WHERE tag = ''::text) AS epoch
    ) AS state
    UNION ALL
    SELECT NULL, page.* FROM (${matchesOf(items)}) AS page
    ORDER BY version NULLS FIRST`
  )

  const readNow = Effect.fnUntraced(function* (asked: ForDecision): Effect.fn.Return<ReadForDecision, Reason> {
    const began = performance.now()
    // Before the statement, whose snapshot then has every event up to the mark that will ever be. A younger mark, which is
    // found while the statement runs, may lie above events that the statement does not see.
    const before = mark.current()
    const rows = yield* query(statement(asked.items))
    const [first] = yield* decodeFirst(rows.slice(0, 1))
    if (first === undefined || !first.log.isolation.startsWith("read ")) return yield* wrongIsolation
    const { log } = first
    const matched = rows.slice(1)
    const { corrupt, events } = decode(matched)
    if (corrupt !== undefined) return yield* corrupt
    const { id, version } = before.server === log.server ? before : DecisionMark.start
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
    OwnAppends.begun(condition, began)
    return { events, items: matched.map(itemsOf), condition }
  })
  const share = yield* SharedReads.make<ReadForDecision, Reason>(closed)

  return {
    /** What `readForDecision` of the contract does. Decisions upon the same thing that read at once share a statement. */
    read: (asked: ForDecision): Effect.Effect<ReadForDecision, Reason> =>
      whether({
        inside: () => readNow(asked),
        outside: () => share(JSON.stringify(asked.items), readNow(asked))
      })
  }
})
