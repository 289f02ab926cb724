/**
 * Which way an append goes: in the transaction of its caller, or together with the appends of other fibers.
 *
 * **Details**
 *
 * Outside of a transaction, appends that come at once are coalesced into one statement, so one commit. None of them waits
 * there for a lock. While one waited, the others would not get their results, and would keep their locks: the transaction
 * that holds the lock may itself wait for one of these, in a circle.
 */
import { Effect } from "effect"
import type { Append } from "../../Event.ts"
import type { StoredEvent } from "../../EventStore.ts"
import { idGenerator, idsOf } from "../../internal/Ids.ts"
import { Closed } from "../../StoreError.ts"
import * as Coalescing from "../database/Coalescing.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { type Request, requestOf } from "./AppendRequest.ts"
import type { Failure } from "./AppendResults.ts"
import * as AppendSending from "./AppendSending.ts"

const closed = new Closed({
  message: "the scope of this EventStore has ended before the append had; keep its layer alive"
})

export const make = Effect.gen(function* () {
  const { whether } = yield* PostgresDatabase
  const random = yield* idGenerator
  const { inside, outside } = yield* AppendSending.make
  const coalesced = yield* Coalescing.make<Request, ReadonlyArray<StoredEvent>, Failure>(outside, closed)

  return {
    append: (append: Append): AppendSending.Stored =>
      Effect.flatMap(idsOf(random, append.events), (ids) => {
        if (ids.length === 0) return Effect.succeed([])
        const request = requestOf(append, ids)
        return whether({ inside: () => inside(request), outside: () => coalesced(request) })
      })
  }
})
