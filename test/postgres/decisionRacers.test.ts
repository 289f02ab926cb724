/** The decisions of `npm run chaos -- --races 10000 --decisions 1000000`, with fewer of each. */
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Races from "../chaos/races.ts"
import { postgresUrl } from "../support/database.ts"
import { serveEvents } from "./events.harness.ts"

it.live("each race of decisions in two processes has one winner, and decisions on disjoint tags never conflict", () =>
  Effect.gen(function* () {
    const { schema } = yield* serveEvents()
    const counts = { races: 200, racesAtOnce: 2, decisions: 400 }
    const findings = yield* Races.run({ url: postgresUrl, schema, say: () => Effect.void, ...counts })
    for (const { about, found, wrong } of findings) assert.deepStrictEqual(wrong, [], `${about}: ${found}`)
  })
)
