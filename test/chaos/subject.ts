/** What the test of `processes.ts` supervises. It works a little, and then does as its first argument says. */
import { Schema } from "effect"

const fate = Schema.decodeUnknownSync(
  Schema.Literals(["works", "ends", "hangs", "stays", "fails at its end", "tells the time"])
)(process.argv[2])

const work = () => process.stdout.write("1\n")
const begun = { wall: Date.now(), date: new Date().getTime(), measured: performance.now() }

if (fate === "stays") process.on("SIGTERM", () => {})
if (fate === "fails at its end") process.on("SIGTERM", () => process.exit(4))
work()
if (fate === "ends") process.exit(3)
setInterval(() => {
  if (fate !== "hangs") work()
  if (fate !== "tells the time") return
  const since = (now: number, then: number) => Math.round((now - then) / 60_000)
  const { date, measured, wall } = begun
  const text = new Date(String(new Date())).getTime()
  const minutes = [
    since(Date.now(), wall),
    since(new Date().getTime(), date),
    since(text, wall),
    since(performance.now(), measured)
  ]
  process.stdout.write(`${minutes.join(" ")}, ${new Date(0).toISOString()} ${new Date() instanceof Date}\n`)
}, 10)
