/** `SpoolStore` in memory: a driver on the table of messages. */
import { Effect, Layer } from "effect"
import type { LargeIntegers } from "../internal/ExactJson.ts"
import { type Driver, fromDriver, SpoolStore } from "../SpoolStore.ts"
import { MemoryDatabase } from "./MemoryDatabase.ts"
import * as Claiming from "./spool/Claiming.ts"
import * as Listing from "./spool/Listing.ts"
import * as Settling from "./spool/Settling.ts"
import * as SpoolTable from "./spool/SpoolTable.ts"
import * as Storing from "./spool/Storing.ts"

const driver = (table: SpoolTable.SpoolTable, largeIntegers: LargeIntegers): Driver => ({
  largeIntegers,
  store: (message) => Storing.store(table, message),
  storeMany: (messages) => Storing.storeMany(table, messages),
  get: (id) => Storing.get(table, id),
  update: (update) => Storing.update(table, update),
  remove: (id) => Storing.remove(table, id),
  move: (move) => Storing.move(table, move),
  list: (list) => Listing.list(table, list),
  iterate: (iterate) => Listing.iterate(table, iterate),
  count: (selection) => Listing.count(table, selection),
  claim: (claim) => Claiming.claim(table, claim),
  settle: (settle) => Settling.settle(table, settle),
  trySettle: (settle) => Settling.trySettle(table, settle),
  renew: (leases) => Settling.renew(table, leases),
  recover: (recover) => Claiming.recover(table, recover),
  purge: (purge) => Listing.purge(table, purge),
  forget: (forget) => Listing.forget(table, forget),
  untilReady: (selection) => Claiming.untilReady(table, selection),
  oldestReady: (selection) => Claiming.oldestReady(table, selection),
  overview: Listing.overview(table),
  changes: table.changes,
  ping: table.statement(() => Effect.void)
})

export const make = Effect.gen(function* () {
  const { largeIntegers } = yield* MemoryDatabase
  const table = yield* SpoolTable.make
  return yield* fromDriver("memory", driver(table, largeIntegers))
})

export const layer: Layer.Layer<SpoolStore, never, MemoryDatabase> = Layer.effect(SpoolStore, make)
