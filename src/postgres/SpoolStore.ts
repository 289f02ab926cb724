/** `SpoolStore` on Postgres: a driver on the tables of messages. */
import { Effect, Layer } from "effect"
import { fromDriver, SpoolStore } from "../SpoolStore.ts"
import type { PostgresDatabase } from "./database/PostgresDatabase.ts"
import * as Changing from "./spool/Changing.ts"
import * as Claiming from "./spool/Claiming.ts"
import * as Overview from "./spool/Overview.ts"
import * as Queues from "./spool/Queues.ts"
import * as Recovering from "./spool/Recovering.ts"
import * as Storing from "./spool/Storing.ts"
import * as Wakeups from "./wakeups/Wakeups.ts"

export const make = Effect.gen(function* () {
  const queues = yield* Queues.make
  const { messages, spool } = queues
  const storeInQueue = yield* Storing.make(messages)
  const storeInNone = messages === spool ? storeInQueue : yield* Storing.make(spool)
  const tableOf = (key: { readonly queue?: string }) => Queues.tableOf(queues, key)
  const { changes, integers, query, sql } = spool

  return yield* fromDriver("postgres", {
    largeIntegers: integers,
    store: (message) => (message.queue === undefined ? storeInNone(message) : storeInQueue(message)),
    storeMany: (many) => Storing.storeMany(tableOf(many.messages[0] ?? {}), many),
    get: (key) => Changing.get(tableOf(key), key),
    update: (update) => Changing.update(tableOf(update), update),
    remove: (remove) => Changing.remove(tableOf(remove), remove),
    move: (move) => Changing.move(tableOf(move), move),
    list: (list) => Queues.list(queues, list),
    iterate: (iterate) => Queues.iterate(queues, iterate),
    count: (selection) => Queues.count(queues, selection),
    claim: (claim) => Claiming.claim(tableOf(claim), claim),
    settle: (settle) => Queues.settle(queues, settle),
    trySettle: (settle) => Queues.trySettle(queues, settle),
    renew: (leases) => Queues.renew(queues, leases),
    recover: (recover) => Queues.recover(queues, recover),
    purge: (purge) => Queues.purge(queues, purge),
    forget: (forget) => Queues.forget(queues, forget),
    untilReady: (selection) => Recovering.untilReady(tableOf(selection), selection),
    oldestReady: (selection) => Recovering.oldestReady(tableOf(selection), selection),
    overview: yield* Overview.make,
    changes,
    ping: Effect.asVoid(
      query(sql`
      SELECT FROM (SELECT FROM ${spool.table} LIMIT 1) AS spool, (SELECT FROM ${messages.table} LIMIT 1) AS messages`)
    )
  })
})

export const layer: Layer.Layer<SpoolStore, never, PostgresDatabase> = Layer.provide(
  Layer.effect(SpoolStore, make),
  Wakeups.layer
)
