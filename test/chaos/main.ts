/**
 * What is left of the guarantees while everything fails, while 10^7 events come, or while all decide upon the same.
 *
 * `npm run chaos -- [--minutes N] [--seed N]`, `npm run chaos -- --events N`, or `npm run chaos -- --races N --decisions N`
 */
import { NodeRuntime } from "@effect/platform-node"
import { Effect } from "effect"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { lossless } from "./lossless.ts"
import * as Races from "./races.ts"
import * as Report from "./report.ts"
import { run } from "./run.ts"

const { values: options } = parseArgs({
  options: {
    minutes: { type: "string", default: "3" },
    seed: { type: "string", default: String(Math.floor(Math.random() * 1e9)) },
    events: { type: "string" },
    races: { type: "string" },
    decisions: { type: "string" }
  }
})
const { decisions, events, minutes, races, seed } = options

const reportIn = (name: string) => Report.make(join(".strata", "chaos", name))

const program =
  races !== undefined || decisions !== undefined
    ? Races.runAlone(reportIn("races"), { races: Number(races ?? 0), decisions: Number(decisions ?? 0) })
    : events !== undefined
      ? lossless(reportIn(`events-${events}`), Number(events))
      : run(reportIn(seed), { minutes: Number(minutes), seed: Number(seed) })

NodeRuntime.runMain(Effect.scoped(program))
