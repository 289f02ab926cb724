/**
 * Follows the log twice, and reads it again and again. Each goes on after the last event that its history has, and goes back
 * where it is told that the log was replaced.
 */
import { Effect, Option, Schema, Stream } from "effect"
import { EventStore } from "effect-strata"
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { isTransient, transientDelays } from "../../src/internal/Transient.ts"
import { Noted, type Placed, standing } from "../support/histories.ts"
import { followed, polled } from "./agreed.ts"
import { directory, main, note, stop, worked } from "./child.ts"

const Lines = Schema.Array(Schema.fromJsonString(Noted))
const encode = Schema.encodeSync(Noted)

/** What a history still goes by. */
const seenIn = (history: string) =>
  Effect.suspend(() => {
    const file = join(directory, `${history}.jsonl`)
    const lines = existsSync(file) ? readFileSync(file, "utf8").trimEnd().split("\n") : []
    return Effect.map(Schema.decodeUnknownEffect(Lines)(lines), standing)
  })

const see = (history: string, page: ReadonlyArray<typeof Placed.Type>) =>
  Effect.sync(() => {
    note(history, encode(page.map(({ id, version }) => ({ id, version }))))
    worked()
  })

/**
 * After how many events in a row that are still there the operator believes that all before them are. A log is not cut at one
 * version: what was committed late is gone, and higher versions that were committed before it are still there.
 */
const enough = 100

/**
 * What an operator does where the log was replaced: the reader goes back to the last event up to which the log agrees with
 * what it has seen. Everything after it is taken back.
 */
const goBack = Effect.fnUntraced(function* (history: string, error: EventStore.LogReplaced) {
  const events = yield* EventStore.EventStore
  const isThere = ({ id, version }: typeof Placed.Type) =>
    events.get(id).pipe(
      Effect.map((event) => event.version === version),
      Effect.catchTag("EventNotFound", () => Effect.succeed(false)),
      Effect.retry({ while: isTransient, schedule: transientDelays })
    )
  const seen = yield* seenIn(history)
  const agreed = Option.getOrElse(error.lastAgreed, () => error.version)
  let last = seen.findLastIndex(({ version }) => version <= agreed)
  for (let index = last, inARow = 0; index >= 0 && inARow < enough; index--) {
    const one = seen[index]
    inARow = one !== undefined && (yield* isThere(one)) ? inARow + 1 : 0
    if (inARow === 0) last = index - 1
  }
  yield* Effect.logWarning(error.message)
  note(history, encode({ told: seen[last]?.version ?? 0n }))
})

type Failure = Effect.Error<ReturnType<EventStore.EventStore["Service"]["load"]>>

/** Reads on after the last event that the history has, for ever. */
const reading = (
  history: string,
  read: (after: typeof Placed.Type | undefined) => Effect.Effect<unknown, Failure, EventStore.EventStore>
) =>
  seenIn(history).pipe(
    Effect.tap(() => Effect.sync(() => note(history, encode({ begun: true })))),
    Effect.flatMap((seen) => read(seen.at(-1))),
    Effect.catchTag("LogReplaced", (error) => goBack(history, error)),
    Effect.forever
  )

const follow = ({ history, subscription }: (typeof followed)[number]) =>
  reading(history, (after = undefined) =>
    EventStore.EventStore.use((events) =>
      Stream.runForEachArray(events.subscribe({ ...subscription, after: after ?? "start" }), (page) =>
        see(history, page)
      )
    ).pipe(Effect.andThen(Effect.die(`${history} has ended`)))
  )

const poll = ({ history }: typeof polled) =>
  reading(history, (first) =>
    Effect.gen(function* () {
      const events = yield* EventStore.EventStore
      let after = first
      while (true) {
        const page = yield* Stream.runCollect(events.read({ ...(after && { after }), limit: 500 })).pipe(
          Effect.retry({ while: isTransient, schedule: transientDelays })
        )
        if (page.length > 0) yield* see(history, page)
        after = page.at(-1) ?? after
        yield* Effect.sleep(50)
      }
    })
  )

main(Effect.raceAllFirst([...followed.map(follow), poll(polled), stop]), 4)
