/** Follows the log twice, and goes on after the last version that its histories have. */
import { Effect, Schema, Stream } from "effect"
import { EventStore } from "effect-strata"
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { followed } from "./agreed.ts"
import { directory, main, note, stop, worked } from "./child.ts"

const Page = Schema.fromJsonString(Schema.Array(Schema.String))

const cursorOf = (history: string) =>
  Effect.gen(function* () {
    const file = join(directory, `${history}.jsonl`)
    const last = existsSync(file) ? readFileSync(file, "utf8").trimEnd().split("\n").at(-1) : undefined
    if (last === undefined) return "start"
    return BigInt((yield* Schema.decodeUnknownEffect(Page)(last)).at(-1) ?? 0)
  })

const follow = Effect.fnUntraced(function* ({ history, subscription }: (typeof followed)[number]) {
  const events = yield* EventStore.EventStore
  const after = yield* cursorOf(history)
  yield* Stream.runForEachArray(events.subscribe({ ...subscription, after }), (page) =>
    Effect.sync(() => {
      note(
        history,
        page.map(({ version }) => String(version))
      )
      worked()
    })
  )
  return yield* Effect.die(`${history} has ended`)
})

main(Effect.raceFirst(Effect.forEach(followed, follow, { concurrency: "unbounded" }), stop), 4)
