/**
 * The wall clock of this process, which its parent sets while it runs. Imported before anything else, by `--import`.
 *
 * As where a machine's clock is set, `Date` jumps, and time that is measured goes on: timers, `performance.now`,
 * `process.hrtime`.
 */
import { Schema } from "effect"

/** Milliseconds that the wall clock is ahead of the machine's. */
export const Setting = Schema.Struct({ ahead: Schema.Number })

const real = Date.now
let ahead = Number(process.env["CHAOS_CLOCK"] ?? 0)

Date.now = () => real() + ahead
globalThis.Date = new Proxy(Date, {
  apply: (date) => new date(date.now()).toString(),
  construct: (date, given, target) => Reflect.construct(date, given.length === 0 ? [date.now()] : [...given], target)
})

process.on("message", (message) => {
  ahead = Schema.decodeUnknownSync(Setting)(message).ahead
})
// A process that has nothing else to do may end, and none outlives its parent.
process.channel?.unref()
process.once("disconnect", () => process.exit(1))
