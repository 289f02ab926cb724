import { Effect } from "effect"
import * as Memory from "effect-strata/memory"
import { suite } from "../events/largeIntegers.ts"

suite(
  "memory",
  Effect.map(Memory.MemoryDatabase.make, (database) => ({
    exact: Memory.layerShared(database, { largeIntegers: "bigint" }),
    plain: Memory.layerShared(database)
  }))
)
