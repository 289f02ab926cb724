/**
 * What is left of the guarantees while everything fails, or while 10^7 events come.
 *
 * `npm run chaos -- [--minutes N] [--seed N]`, or `npm run chaos -- --events N`
 */
import { NodeRuntime } from "@effect/platform-node"
import { Effect } from "effect"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { lossless } from "./lossless.ts"
import * as Report from "./report.ts"
import { run } from "./run.ts"

const { values: options } = parseArgs({
  options: {
    minutes: { type: "string", default: "3" },
    seed: { type: "string", default: String(Math.floor(Math.random() * 1e9)) },
    events: { type: "string" }
  }
})
const { events, minutes, seed } = options

const reportIn = (name: string) => Report.make(join(".strata", "chaos", name))

const program =
  events === undefined
    ? run(reportIn(seed), { minutes: Number(minutes), seed: Number(seed) })
    : lossless(reportIn(`events-${events}`), Number(events))

NodeRuntime.runMain(Effect.scoped(program))
