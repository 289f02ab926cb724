/** The operations of `SpoolStore` in memory that are about messages by their keys: to store, find, change and delete them. */
import { Effect } from "effect"
import { type Messages, type Move, type Remove, type Update } from "../../SpoolArguments.ts"
import { IdConflict, MessageExists, MessageNotFound, StateConflict, UpdateConflict } from "../../SpoolErrors.ts"
import { type Key, keyOf, keyText, type NewMessage } from "../../SpoolMessage.ts"
import { byKey, canonical, type MessageRow, type Now, rowOf, toMessage } from "./MessageRow.ts"
import { changed, moved } from "./RowChanges.ts"
import type { Rows, SpoolTable } from "./SpoolTable.ts"

/** Stores a new message, and returns the error if its id is taken. */
const put = Effect.fnUntraced(function* (rows: Rows, row: MessageRow, at: Now) {
  const isFree = yield* rows.holdFreePlace(row)
  const taken = isFree ? rows.rememberedAt(row, at) : rows.get(row)
  if (taken === undefined) {
    rows.put(row)
    return undefined
  }
  const hasPayload = canonical(taken.payload) === canonical(row.payload)
  return hasPayload ? new MessageExists(keyOf(row)) : new IdConflict({ ...keyOf(row), takenBy: "another payload" })
})

export const store = ({ now, statement }: SpoolTable, message: NewMessage) =>
  statement(
    Effect.fnUntraced(function* (rows) {
      const at = yield* now
      const taken = yield* put(rows, rowOf(message, at), at)
      if (taken !== undefined) return yield* taken
    })
  )

export const storeMany = ({ now, statement }: SpoolTable, { messages }: Messages) =>
  statement(
    Effect.fnUntraced(function* (rows) {
      const at = yield* now
      const added: Array<MessageRow> = []
      for (const message of messages) added.push(rowOf(message, yield* now))
      const errors = new Map<string, MessageExists | IdConflict>()
      for (const row of added.sort(byKey)) {
        const taken = yield* put(rows, row, at)
        if (taken !== undefined) errors.set(keyText(row), taken)
      }
      return messages.flatMap((message) => errors.get(keyText(message)) ?? [])
    })
  )

export const get = ({ statement }: SpoolTable, key: Key) =>
  statement((rows) =>
    Effect.suspend(() => {
      const row = rows.get(key)
      return row === undefined ? Effect.fail(new MessageNotFound(keyOf(key))) : Effect.succeed(toMessage(row))
    })
  )

/** Fails if the row has changed since the caller of `update` read it. */
const checkUnchanged = (input: Update, row: MessageRow) => {
  const expected = input.ifUpdated
  const actual = toMessage(row).updated
  return expected === undefined || expected.epochMilliseconds === actual.epochMilliseconds
    ? Effect.void
    : Effect.fail(new UpdateConflict({ ...keyOf(input), expected, actual }))
}

export const update = ({ now, statement }: SpoolTable, input: Update) =>
  statement(
    Effect.fnUntraced(function* (rows) {
      // As UPDATE .. WHERE on Postgres, it neither holds nor waits for a row that has changed already.
      const seen = rows.get(input)
      if (seen !== undefined) yield* checkUnchanged(input, seen)
      const row = yield* rows.hold(input)
      yield* checkUnchanged(input, row)
      return toMessage(rows.put(changed(row, input.changes, yield* now)))
    })
  )

export const remove = ({ now, statement }: SpoolTable, input: Remove) =>
  statement(
    Effect.fnUntraced(function* (rows) {
      const row = yield* rows.hold(input)
      if (input.rememberId) rows.deleteOrRemember(row, (yield* now).clock)
      else rows.delete(row)
    })
  )

export const move = ({ now, statement }: SpoolTable, input: Move) =>
  statement(
    Effect.fnUntraced(function* (rows) {
      const { changes, from, to } = input
      const row = yield* rows.hold(input)
      if (!from.includes(row.state))
        return yield* new StateConflict({ ...keyOf(input), expected: from, actual: row.state })
      rows.put(moved(row, to, changes, yield* now))
    })
  )
