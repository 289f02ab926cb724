/** Hosts that stop in the middle of a batch, for so long that others have to go on without them. */
import { Effect, Schedule, Schema } from "effect"
import { messages } from "./agreed.ts"
import { asker, type Finding } from "./verdict.ts"
import { chosen, type Inflict, type World } from "./world.ts"

/** How long others may take to go on, in milliseconds, while other faults go on, too. */
const longest = 60_000

const Answer = Schema.Struct({ answer: Schema.Boolean })
const Text = Schema.Struct({ text: Schema.String })

export const make = (
  {
    cluster,
    processes,
    projection,
    schema
  }: Pick<World, "processes" | "projection" | "schema"> & {
    readonly cluster: Pick<World["cluster"], "url">
  },
  patience = longest
) => {
  const wrong: Array<string> = []
  let stopped = 0

  /** Asks the server that there is at that moment, however often it takes. */
  const ask = <A>(row: Schema.Codec<A, unknown>, statement: string) =>
    Effect.suspend(() => asker(cluster.url())(row, statement)).pipe(Effect.retry(Schedule.spaced("200 millis")))

  const isSo = (condition: string) =>
    Effect.map(ask(Answer, `SELECT coalesce((${condition}), false) AS answer`), ([row]) => row?.answer === true)

  /** Whether the application has written in a transaction, and does something else now. */
  const isInBatch = (application: string) =>
    isSo(`SELECT bool_or(backend_xid IS NOT NULL) FROM pg_stat_activity
      WHERE application_name = '${application}' AND state = 'idle in transaction'
      AND xact_start > clock_timestamp() - interval '1 second'`)

  /** What is to be so when others have gone on: they have passed, or taken over, all that there is now. */
  const goesOn = Effect.fnUntraced(function* (name: string) {
    if (name.startsWith("projection")) {
      const [head] = yield* ask(Text, `SELECT coalesce(max(version), 0)::text AS text FROM ${schema}.events`)
      return `SELECT min(current_offset) >= ${head?.text} FROM ${schema}.offsets_store WHERE projection_name = '${projection}'`
    }
    const claimed = yield* ask(
      Text,
      `SELECT quote_literal(id) || ', ' || attempts AS text FROM ${schema}.${messages} WHERE state = 1`
    )
    const those = ["('', 0)", ...claimed.map(({ text }) => `(${text})`)].join()
    return `SELECT count(*) = 0 FROM ${schema}.${messages} WHERE state = 1 AND (id, attempts) IN (${those})`
  })

  const until = (condition: Effect.Effect<boolean, unknown>, spacing: number) =>
    Effect.repeat(condition, { until: (now) => now, schedule: Schedule.spaced(spacing) })

  /** Stops a projection or a worker, and has it go on when others have done so. */
  const stop: Inflict = ({ pick }) =>
    Effect.gen(function* () {
      const one = chosen(
        processes.filter(({ name }) => /^(projection|worker)/.test(name)),
        pick
      )
      if (one === undefined) return "nobody"
      const began = performance.now()
      for (let tries = 1; ; tries++) {
        yield* until(
          Effect.suspend(() => isInBatch(one.application())),
          5
        )
        const isOver = yield* one.pause(
          Effect.gen(function* () {
            // It may have come to the end of its batch before it was stopped.
            if (!(yield* isInBatch(one.application()))) return false
            stopped++
            const condition = yield* goesOn(one.name)
            yield* until(isSo(condition), 100).pipe(
              Effect.timeoutOrElse({
                duration: patience,
                orElse: () => Effect.sync(() => void wrong.push(`nobody went on for ${one.name} in ${patience} ms`))
              })
            )
            return true
          })
        )
        if (isOver) return `${one.name}, ${Math.round(performance.now() - began)} ms, at attempt ${tries}`
      }
    }).pipe(Effect.timeout(2 * patience))

  return { stop, finding: (): Finding => ({ about: "stopped hosts", found: `${stopped} stopped in a batch`, wrong }) }
}
