/** A message whose queue is not known: what has caused an event says only its id. */
import { Effect, Schema } from "effect"
import { decodeRows } from "../postgres/database/DecodeRows.ts"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"

const Row = Schema.Struct({ queue: Schema.NullOr(Schema.String), id: Schema.String })

/** In how many queues it is looked for. */
const mostQueues = 1000

/** Looks for a message with an id in each queue, and in none. */
export const make = Effect.gen(function* () {
  const { extras, names, query, sql, tables } = yield* PostgresDatabase
  const decode = decodeRows(Row, names.messages, ["id"])

  const inSpool = (id: string) => sql`SELECT queue, id::text AS id FROM ${tables.spool} WHERE id::text = ${id}`

  // The key begins with the queue: it leads from each queue to the next, and has the id in each.
  const inQueues = (id: string) => sql`(
    WITH RECURSIVE known AS (
      (SELECT queue FROM ${tables.messages} ORDER BY queue LIMIT 1)
      UNION ALL
      SELECT (SELECT queue FROM ${tables.messages} WHERE queue > known.queue ORDER BY queue LIMIT 1)
      FROM known WHERE known.queue IS NOT NULL
    )
    SELECT message.queue, message.id::text AS id
    FROM (SELECT queue FROM known WHERE queue IS NOT NULL LIMIT ${mostQueues}) AS one
    JOIN ${tables.messages} AS message ON message.queue = one.queue AND message.id::text = ${id} AND state < 6
    LIMIT 1)`

  return (id: string) =>
    Effect.map(
      Effect.flatMap(
        query(extras.queues === "shared" ? inSpool(id) : sql`${inQueues(id)} UNION ALL ${inSpool(id)}`),
        decode
      ),
      ([found]) => found ?? null
    )
})
