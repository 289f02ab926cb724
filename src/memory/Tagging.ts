/** How events that are in the log get tags in memory: `tag` of the contract. */
import { Effect } from "effect"
import type { Tagging } from "../Event.ts"
import { type Found, planOf } from "../events/Tagging.ts"
import * as Events from "./Events.ts"
import { MemoryDatabase } from "./MemoryDatabase.ts"
import type { Transaction } from "./Transaction.ts"

export const make = Effect.gen(function* () {
  const { log, nextValue, statement, tables } = yield* MemoryDatabase

  const look = (transaction: Transaction, events: Tagging["events"]) => {
    const found = new Map<bigint, Found>()
    for (const { version } of events) {
      const row = transaction.get(tables.events, Events.keyOf(version))
      if (row !== undefined) found.set(version, row)
    }
    return planOf(events, found)
  }

  return ({ dryRun = false, events }: Tagging) =>
    statement(
      Effect.fnUntraced(function* (transaction) {
        const before = yield* look(transaction, events)
        if (dryRun || before.tags === 0) return { events: before.events, tags: before.tags }
        yield* transaction.lockAll([{ name: "taggings", mode: "exclusive" }])
        const { missing, touched, ...counts } = yield* look(transaction, events)
        // Those of an append of these tags, in its order: a decision that is under way comes first.
        const tags = [...touched].sort().map((tag) => ({ name: `tag ${tag}`, mode: "shared" as const }))
        yield* transaction.lockAll([{ name: "log", mode: "shared" }, ...tags])
        for (const [version, tags] of Map.groupBy(missing, ({ version }) => version)) {
          const key = Events.keyOf(version)
          const row = transaction.get(tables.events, key)
          transaction.set(tables.events, key, row?.tagged(tags.map(({ tag }) => tag)))
          log.change(transaction, version)
        }
        if (missing.length > 0) Events.setEpoch(tables, transaction, nextValue("epoch"))
        return counts
      })
    )
})
