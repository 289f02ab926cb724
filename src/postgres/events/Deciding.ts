/** How the events for a decision are read, together with the condition for the append of what is decided. */
import { Effect, Schema } from "effect"
import { Condition, type ForDecision, type ReadForDecision } from "../../EventStore.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { wrongIsolation } from "./AppendSending.ts"
import * as DecisionMark from "./DecisionMark.ts"
import * as EventPages from "./EventPages.ts"
import { eventDecoder } from "./EventRow.ts"
import * as LockHolders from "./LockHolders.ts"
import * as Settling from "./Settling.ts"
import * as TagTable from "./TagTable.ts"

/** What the first row says of the log, as it was when the events were read. */
const Log = Schema.Struct({
  ...LockHolders.ServerColumns.fields,
  database: Schema.String,
  epoch: Schema.NullOr(Schema.BigInt)
})

/** The items of a query that an event matches, as bits. Beside the log there is a row without an event, if none matches. */
const Matched = Schema.Struct({ version: Schema.NullOr(Schema.BigInt), items: Schema.NullOr(Schema.BigInt) })

/** The places of the bits. */
const placesOf = (items: bigint): ReadonlyArray<number> => {
  const places: Array<number> = []
  for (let place = 0, rest = BigInt.asUintN(64, items); rest > 0n; place++, rest >>= 1n) {
    if ((rest & 1n) === 1n) places.push(place)
  }
  return places
}

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { integers, names, query, sql } = database
  const { atEnd } = yield* Settling.make
  const { matchesOf } = yield* EventPages.make
  const mark = yield* DecisionMark.make(atEnd)
  const decode = eventDecoder(names.events, integers)
  const decodeLog = decodeRows(Log, "pg_database", [])
  const decodeMatched = decodeRows(Matched, names.events, ["version"])
  const serverColumns = sql.literal(LockHolders.serverColumns(database))

  const statement = ({ items }: ForDecision) => sql`
    SELECT log.*, page.* FROM (
      SELECT ${serverColumns},
        current_database()::text AS database,
        (SELECT max(version) FROM ${TagTable.tableOf(database)} WHERE tag = ''::text) AS epoch
    ) AS log LEFT JOIN (${matchesOf(items)}) AS page ON true ORDER BY page.version`

  return {
    /** What `readForDecision` of the contract does. */
    read: Effect.fnUntraced(function* (asked: ForDecision): Effect.fn.Return<ReadForDecision, Reason> {
      // Before the statement, whose snapshot then has every event up to the mark that will ever be. A younger mark, which is
      // found while the statement runs, may lie above events that the statement does not see.
      const before = mark.current()
      const rows = yield* query(statement(asked))
      const [log] = yield* decodeLog(rows.slice(0, 1))
      const found = yield* decodeMatched(rows)
      if (log === undefined || !log.isolation.startsWith("read ")) return yield* wrongIsolation
      const matched = found.filter(({ version }) => version !== null)
      const { corrupt, events } = decode(matched.length === 0 ? [] : rows)
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
      return { events, items: matched.map(({ items }) => placesOf(items ?? 0n)), condition }
    })
  }
})
