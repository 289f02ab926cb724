/** The operations of `SpoolStore` in memory that are about messages by their ids: to store, find, change and delete them. */
import { Effect } from "effect"
import {
  type ById,
  MessageExists,
  MessageNotFound,
  type Messages,
  type Move,
  type NewMessage,
  StateConflict,
  type Update,
  UpdateConflict
} from "../../SpoolMessage.ts"
import { byId, type MessageRow, rowOf, toMessage } from "./MessageRow.ts"
import { changed, moved } from "./RowChanges.ts"
import type { SpoolTable } from "./SpoolTable.ts"

export const store = ({ now, statement }: SpoolTable, message: NewMessage) =>
  statement(
    Effect.fnUntraced(function* (rows) {
      const row = rowOf(message, yield* now)
      if (!(yield* rows.holdFreePlace(message.id))) return yield* new MessageExists({ id: message.id })
      rows.put(row)
    })
  )

export const storeMany = ({ now, statement }: SpoolTable, { messages }: Messages) =>
  statement(
    Effect.fnUntraced(function* (rows) {
      const added: Array<MessageRow> = []
      for (const message of messages) added.push(rowOf(message, yield* now))
      const existing = new Set<string>()
      for (const row of added.sort(byId)) {
        if (yield* rows.holdFreePlace(row.id)) rows.put(row)
        else existing.add(row.id)
      }
      return messages.flatMap(({ id }) => (existing.has(id) ? [new MessageExists({ id })] : []))
    })
  )

export const get = ({ statement }: SpoolTable, { id }: ById) =>
  statement((rows) =>
    Effect.suspend(() => {
      const row = rows.get(id)
      return row === undefined ? Effect.fail(new MessageNotFound({ id })) : Effect.succeed(toMessage(row))
    })
  )

/** Fails if the row has changed since the caller of `update` read it. */
const checkUnchanged = ({ id, ifUpdated: expected }: Update, row: MessageRow) => {
  const actual = toMessage(row).updated
  return expected === undefined || expected.epochMilliseconds === actual.epochMilliseconds
    ? Effect.void
    : Effect.fail(new UpdateConflict({ id, expected, actual }))
}

export const update = ({ now, statement }: SpoolTable, input: Update) =>
  statement(
    Effect.fnUntraced(function* (rows) {
      // As UPDATE .. WHERE on Postgres, it neither holds nor waits for a row that has changed already.
      const seen = rows.get(input.id)
      if (seen !== undefined) yield* checkUnchanged(input, seen)
      const row = yield* rows.hold(input.id)
      yield* checkUnchanged(input, row)
      return toMessage(rows.put(changed(row, input.changes, yield* now)))
    })
  )

export const remove = ({ statement }: SpoolTable, { id }: ById) =>
  statement((rows) => Effect.map(rows.hold(id), (row) => rows.delete(row.id)))

export const move = ({ now, statement }: SpoolTable, { changes, from, id, to }: Move) =>
  statement(
    Effect.fnUntraced(function* (rows) {
      const row = yield* rows.hold(id)
      if (!from.includes(row.state)) return yield* new StateConflict({ id, expected: from, actual: row.state })
      rows.put(moved(row, to, changes, yield* now))
    })
  )
