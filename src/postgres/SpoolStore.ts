/** `SpoolStore` on Postgres: a driver on the table of messages. */
import { Effect, Layer } from "effect"
import { fromDriver, SpoolStore } from "../SpoolStore.ts"
import type { PostgresDatabase } from "./database/PostgresDatabase.ts"
import * as Changing from "./spool/Changing.ts"
import * as Claiming from "./spool/Claiming.ts"
import * as Listing from "./spool/Listing.ts"
import * as Recovering from "./spool/Recovering.ts"
import * as Settling from "./spool/Settling.ts"
import * as SpoolTable from "./spool/SpoolTable.ts"
import * as Storing from "./spool/Storing.ts"
import * as Wakeups from "./wakeups/Wakeups.ts"

export const make = Effect.gen(function* () {
  const spool = yield* SpoolTable.make
  const store = yield* Storing.make(spool)
  const { changes, integers, query, sql, table } = spool

  return yield* fromDriver("postgres", {
    largeIntegers: integers,
    store,
    storeMany: (messages) => Storing.storeMany(spool, messages),
    get: (id) => Changing.get(spool, id),
    update: (update) => Changing.update(spool, update),
    remove: (id) => Changing.remove(spool, id),
    move: (move) => Changing.move(spool, move),
    list: (list) => Listing.list(spool, list),
    iterate: (iterate) => Listing.iterate(spool, iterate),
    count: (selection) => Listing.count(spool, selection),
    purge: (purge) => Listing.purge(spool, purge),
    claim: (claim) => Claiming.claim(spool, claim),
    settle: (settle) => Settling.settle(spool, settle),
    trySettle: (settle) => Settling.trySettle(spool, settle),
    renew: (leases) => Settling.renew(spool, leases),
    recover: (recover) => Recovering.recover(spool, recover),
    untilReady: (selection) => Recovering.untilReady(spool, selection),
    oldestReady: (selection) => Recovering.oldestReady(spool, selection),
    changes,
    ping: Effect.asVoid(query(sql`SELECT FROM ${table} LIMIT 1`))
  })
})

export const layer: Layer.Layer<SpoolStore, never, PostgresDatabase> = Layer.provide(
  Layer.effect(SpoolStore, make),
  Wakeups.layer
)
