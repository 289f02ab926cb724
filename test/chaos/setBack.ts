/** An asynchronous failover: the standby that takes the server's place lacks what was committed last. */
import { Effect, Schedule, Schema } from "effect"
import { appendFileSync } from "node:fs"
import { join } from "node:path"
import { Placed, standing } from "../support/histories.ts"
import { followed, messages, SetBack, setBacks } from "./agreed.ts"
import { asker, Line, linesOf } from "./verdict.ts"
import type { Inflict, World } from "./world.ts"

const Id = Schema.Struct({ id: Schema.String })
const Head = Schema.Struct({ head: Schema.BigInt })

/** The reader that is to have seen something that is lost, if it comes to that in time. */
const [{ history: watched }] = followed
const longest = "10 seconds"

const nameOf = ({ id, version }: typeof Placed.Type) => `${version} ${id}`

const missing = (before: ReadonlyArray<typeof Id.Type>, now: ReadonlyArray<typeof Id.Type>) => {
  const left = new Set(now.map(({ id }) => id))
  return before.flatMap(({ id }) => (left.has(id) ? [] : [id]))
}

/** `endAgain` ends once more what was ended in two phases. */
export const make = ({ cluster, directory, schema }: World, endAgain: Effect.Effect<unknown, unknown>) => {
  /** What the server has that can be lost. */
  const content = (url: string) =>
    Effect.all({
      events: asker(url)(Placed, `SELECT version::text, id FROM ${schema}.events`),
      messages: asker(url)(Id, `SELECT id FROM ${schema}.${messages}`),
      handled: asker(url)(Id, `SELECT id FROM ${schema}.handled`)
    }).pipe(Effect.retry(Schedule.spaced("200 millis")))

  /** Lets the server go on by itself for a while, and until a reader has seen some of it. */
  const alone = (millis: number) =>
    Effect.gen(function* () {
      const [before] = yield* asker(cluster.url())(
        Head,
        `SELECT coalesce(max(version), 0) AS head FROM ${schema}.events`
      )
      const hasSeenMore = Effect.map(linesOf(directory, watched, Line), (history) => {
        const last = standing(history).at(-1)
        return last !== undefined && before !== undefined && last.version > before.head
      })
      yield* Effect.sleep(millis)
      yield* Effect.repeat(hasSeenMore, { until: (has) => has, schedule: Schedule.spaced("200 millis") }).pipe(
        Effect.timeoutOption(longest)
      )
    })

  const setBack: Inflict = ({ millis }) =>
    Effect.gen(function* () {
      const { before, now } = yield* cluster.setBack(
        Effect.suspend(() => alone(millis)),
        content
      )
      const left = new Set(now.events.map(nameOf))
      const lost: typeof SetBack.Type = {
        events: before.events.filter((event) => !left.has(nameOf(event))),
        messages: missing(before.messages, now.messages),
        handled: missing(before.handled, now.handled)
      }
      appendFileSync(join(directory, `${setBacks}.jsonl`), `${JSON.stringify(Schema.encodeSync(SetBack)(lost))}\n`)
      yield* endAgain
      return `by ${lost.events.length} events and ${lost.messages.length} messages`
    })

  return setBack
}
