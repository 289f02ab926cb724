/**
 * Reads pages in which the JSON of an event is short as it is stored, and as text longer than the server can make: a thousand
 * times `1e131000` is 12 KB, and 131 MB as text. Only other programs can write such an event. The statement that finds it fails
 * as a whole, so the page is read once more, event by event, up to that one, whose JSON is held back.
 */
import { Effect, Result } from "effect"
import type { Reason } from "../../StoreError.ts"
import type { Query, Runnable } from "../database/PostgresDatabase.ts"
import { isTextTooLong } from "../database/Reasons.ts"
import { bareColumns, columnsOf, type Columns } from "./EventRow.ts"
import { versionOf } from "./TailItems.ts"

/** What a statement reads of a page: all, or the rows without JSON, or the event with a version. */
export type Part = "all" | "bare" | bigint

/** The columns of the part. `bytes` and `without` are those of `columnsOf`. */
export const columnsOfPart = (part: Part, bytes: number, without?: string): Columns =>
  part === "bare" ? bareColumns : columnsOf(bytes, without)

const readEach = Effect.fnUntraced(function* (
  query: Query,
  page: (part: Part) => Runnable,
  failed: Reason
): Effect.fn.Return<ReadonlyArray<unknown>, Reason> {
  const rows: Array<unknown> = []
  // After the failure nothing can be read in a transaction of the caller: then the page fails for what it failed before.
  for (const bare of yield* Effect.mapError(query(page("bare")), () => failed)) {
    const found = yield* Effect.result(query(page(versionOf(bare))))
    if (Result.isSuccess(found)) rows.push(...found.success)
    else if (isTextTooLong(found.failure)) return [...rows, bare]
    else return yield* found.failure
  }
  return rows
})

/** The rows of a page. */
export const readPage = (query: Query, page: (part: Part) => Runnable): Effect.Effect<ReadonlyArray<unknown>, Reason> =>
  Effect.catch(query(page("all")), (reason) =>
    isTextTooLong(reason) ? readEach(query, page, reason) : Effect.fail(reason)
  )
