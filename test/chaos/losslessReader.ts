/** Readers that keep up with the writers. At the end each compares what it has seen with what is stored. */
import { PgClient } from "@effect/sql-pg"
import { Deferred, Effect, Fiber, Schema, Stream } from "effect"
import { EventStore } from "effect-strata"
import { makeTally } from "../support/histories.ts"
import { Command, type Said } from "./agreed.ts"
import { main, name, schema } from "./child.ts"
import type { Finding } from "./verdict.ts"

/** How many milliseconds the stored events may take to arrive, after the last write. */
const patience = 60_000

const until = Deferred.makeUnsafe<void>()
process.on("message", (message) => {
  if (Schema.decodeUnknownSync(Command)(message).pace === "end") Deferred.doneUnsafe(until, Effect.void)
})

const Last = Schema.Array(Schema.Struct({ version: Schema.BigInt }))
const Page = Schema.Array(Schema.Struct({ versions: Schema.NullOr(Schema.String) }))

/** Reads versions as one piece of text: as rows they would take longer than the run. */
const versions = Effect.fnUntraced(function* (after: bigint, where: string, limit: number) {
  const sql = yield* PgClient.PgClient
  const rows = yield* sql.unsafe(
    `SELECT string_agg(version::text, ' ' ORDER BY version) AS versions FROM (
       SELECT version FROM ${schema}.events WHERE version > ${after} AND ${where} ORDER BY version LIMIT ${limit}
     ) AS page`
  )
  const [page] = yield* Schema.decodeUnknownEffect(Page)(rows)
  return page?.versions?.split(" ").map(BigInt) ?? []
})

const subscription = (
  about: string,
  where: string,
  filter: { readonly aggregateIds?: Array<string>; readonly batchSize?: number }
) => {
  const tally = makeTally()
  const run = EventStore.EventStore.use((events) =>
    Stream.runForEachArray(events.subscribe({ ...filter, after: "start" }), (page) =>
      Effect.sync(() => {
        for (const { version } of page) tally.see(version)
      })
    )
  )
  return { about, where, tally, run, isGood: true }
}

const polling = (
  about: string,
  isGood: boolean,
  next: (after: bigint) => Effect.Effect<ReadonlyArray<bigint>, unknown, EventStore.EventStore | PgClient.PgClient>
) => {
  const tally = makeTally()
  const run = Effect.gen(function* () {
    while (true) {
      const page = yield* next(tally.last())
      for (const version of page) tally.see(version)
      if (page.length === 0) yield* Effect.sleep(5)
    }
  })
  return { about, where: "true", tally, run, isGood }
}

const readers = {
  "reader-1": [subscription("subscriber", "true", {})],
  "reader-2": [
    subscription("filtered", "aggregate_id IN ('shared', 'aggregate 3')", {
      aggregateIds: ["shared", "aggregate 3"],
      batchSize: 7
    }),
    polling("read", true, (after) =>
      EventStore.EventStore.use((events) =>
        Effect.map(Stream.runCollect(events.read({ after, limit: 5000 })), (page) => page.map(({ version }) => version))
      )
    ),
    // The naive reader shows that the others had something to lose.
    polling("naive", false, (after) => versions(after, "true", 5000))
  ]
}

type Reader = (typeof readers)["reader-2"][number]

const compare = Effect.fnUntraced(function* ({ about, isGood, tally, where }: Reader) {
  let stored = 0
  let page = yield* versions(0n, where, 50_000)
  while (page.length > 0) {
    for (const version of page) tally.store(version)
    stored += page.length
    page = yield* versions(page.at(-1) ?? 0n, where, 50_000)
  }
  const mistakes = Object.entries(tally.mistakes()).flatMap(([mistake, count]) =>
    count > 0 ? [`${mistake}: ${count}`] : []
  )
  const memory = Math.round(process.resourceUsage().maxRSS / 1024)
  const found = `${tally.seen()} events seen, ${stored} stored, in ${memory} MB at most`
  const finding: Finding = isGood
    ? { about, found, wrong: mistakes }
    : {
        about,
        found: `a reader that ignores holes, ${mistakes.join()} of ${stored}`,
        wrong: mistakes.length > 0 ? [] : ["it has lost nothing: no reader had anything to lose"]
      }
  return finding
})

const tell = (said: typeof Said.Type) => Effect.sync(() => process.send?.(said))

main(
  Effect.gen(function* () {
    const own: ReadonlyArray<Reader> = name === "reader-1" ? readers["reader-1"] : readers["reader-2"]
    const running = yield* Effect.forkChild(
      Effect.all(
        own.map(({ run }) => run),
        { concurrency: "unbounded" }
      )
    )
    const whole = own.filter(({ isGood, where }) => isGood && where === "true")
    const progress = Effect.suspend(() =>
      tell({ at: String(whole.map(({ tally }) => tally.last()).reduce((a, b) => (a < b ? a : b))) })
    )
    yield* Effect.forkChild(Effect.forever(Effect.delay(progress, "50 millis")))
    yield* Effect.raceFirst(Deferred.await(until), Fiber.join(running))
    const sql = yield* PgClient.PgClient
    for (const { tally, where } of own) {
      const rows = yield* sql.unsafe(`SELECT coalesce(max(version), 0) AS version FROM ${schema}.events WHERE ${where}`)
      const [last] = yield* Schema.decodeUnknownEffect(Last)(rows)
      const end = performance.now() + patience
      while (tally.last() < (last?.version ?? 0n) && performance.now() < end) yield* Effect.sleep(50)
    }
    // An event that should not come has a moment to come.
    yield* Effect.sleep(1000)
    yield* Fiber.interrupt(running)
    yield* tell({ findings: yield* Effect.forEach(own, compare) })
    yield* Effect.sleep(200)
  }),
  8
)
