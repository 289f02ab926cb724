/**
 * The lossless property by the number: writers in processes of their own, long foreign transactions, and readers that keep
 * up. Whatever is kept of it grows with the writes, or by a bit with each event.
 */
import { PgClient } from "@effect/sql-pg"
import { Effect, Fiber, Redacted, Schema } from "effect"
import { Reactivity } from "effect/reactivity"
import { withConnection } from "../support/connection.ts"
import { Counted, miscounted } from "../support/histories.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { type Command, type Pace, Said } from "./agreed.ts"
import type { Report } from "./report.ts"
import { migrate } from "./tables.ts"
import * as Told from "./told.ts"
import { asker, type Finding, linesOf } from "./verdict.ts"

const schema = "chaos"

/** How many versions a reader may be behind. Further behind it would see no holes any more, so the writers wait for it. */
const furthest = 20_000n

/** How long a transaction that has appended stays open, now and then. */
const holdingFor = "1 second"
const between = "20 seconds"

const start = (role: string, name: string, url: string, directory: string) => {
  let said: typeof Said.Type = {}
  const child = Told.start<typeof Command.Type, typeof Said.Type>({
    role,
    arguments: [url, schema, name, directory],
    said: Said,
    hear: (more) => {
      said = { ...said, ...more }
    }
  })
  return Effect.map(child, (child) => ({ ...child, said: () => said }))
}

/** One transaction that is open all the time, and has written elsewhere. */
const unrelated = (url: string) =>
  withConnection(url, (sql) =>
    Effect.gen(function* () {
      yield* sql`BEGIN`.unprepared
      yield* sql.unsafe(`INSERT INTO ${schema}.unrelated VALUES ('open')`).unprepared
      return yield* Effect.never
    })
  )

/** Transactions that append and take their time. */
const held = (url: string) =>
  withConnection(url, (sql) =>
    Effect.gen(function* () {
      const run = (statement: string) => sql.unsafe(statement).unprepared
      yield* run("BEGIN")
      yield* run(
        `INSERT INTO ${schema}.events (id, aggregate_id, event_type, data) VALUES (uuidv7(), 'held', 'held', '{}')`
      )
      yield* Effect.sleep(holdingFor)
      yield* run("COMMIT")
    })
  )

const Heads = Schema.Array(Schema.Struct({ head: Schema.BigInt }))
const Stored = Schema.Struct({ write: Schema.String, events: Schema.Int })
const History = Schema.fromJsonString(Counted)

/** The last version that is stored. */
const headOf = (sql: PgClient.PgClient) =>
  sql.unsafe(`SELECT coalesce(max(version), 0) AS head FROM ${schema}.events`).pipe(
    Effect.flatMap(Schema.decodeUnknownEffect(Heads)),
    Effect.map(([row]) => row?.head ?? 0n)
  )

export const lossless = Effect.fnUntraced(function* ({ conclude, directory, say }: Report, total: number) {
  yield* say(`npm run chaos -- --events ${total}; histories in ${directory}`)
  const { url, version } = yield* PostgresServer.make({ settings: { shared_buffers: "512MB", max_wal_size: "4GB" } })
  yield* migrate(url, schema)
  const sql = yield* PgClient.makeClient({ url: Redacted.make(url) }).pipe(Effect.provide(Reactivity.layer))
  const begin = (role: string) => (name: string) => start(role, name, url, directory)
  const names = ["writer-1", "writer-2"]
  const writers = yield* Effect.forEach(names, begin("losslessWriter"))
  const readers = yield* Effect.forEach(["reader-1", "reader-2"], begin("losslessReader"))
  yield* say(`PostgreSQL ${version}, ${writers.length} processes that write, ${readers.length} that read`)
  yield* Effect.forkScoped(unrelated(url))
  let holds = 0
  const holding = yield* Effect.forkScoped(
    Effect.forever(Effect.andThen(Effect.sleep(between), Effect.uninterruptible(Effect.map(held(url), () => holds++))))
  )

  const written = () => writers.reduce((sum, { said }) => sum + (said().written ?? 0), 0)
  const tellWriters = (pace: Pace) => Effect.forEach(writers, ({ tell }) => tell({ pace }))
  const began = performance.now()
  const rate = () => Math.round((written() / (performance.now() - began)) * 1000)
  let told = began
  let pace: Pace = "wait"
  while (written() < total) {
    yield* Effect.sleep(100)
    const head = yield* headOf(sql)
    const behind = readers.map(({ said }) => head - BigInt(said().at ?? 0)).reduce((a, b) => (a > b ? a : b))
    const next: Pace = behind > furthest ? "wait" : behind < furthest / 4n ? "go" : pace
    if (next !== pace) yield* tellWriters(next)
    pace = next
    if (performance.now() - told > 10_000) {
      told = performance.now()
      yield* say(`${written()} events written, ${rate()} a second; the last reader is ${behind} versions behind`)
    }
    for (const { code } of [...writers, ...readers]) {
      if (code() !== undefined) return yield* Effect.die(`a process has ended by itself: ${code()}`)
    }
  }
  yield* tellWriters("end")
  for (const { ended } of writers) yield* ended
  yield* Fiber.interrupt(holding)
  const seconds = Math.round((performance.now() - began) / 1000)
  yield* say(`${written()} events written, ${rate()} a second; now everything is compared`)
  yield* Effect.forEach(readers, ({ tell }) => tell({ pace: "end" }))
  const codes = yield* Effect.forEach([...writers, ...readers], ({ ended }) => ended)

  const histories = yield* Effect.forEach(names, (name) => linesOf(directory, name, History))
  const foreign: typeof Counted.Type = { write: "held", events: holds, end: "acknowledged" }
  const counted = yield* asker(url)(
    Stored,
    `SELECT event_type AS write, count(*)::int AS events FROM ${schema}.events GROUP BY 1`
  )
  const stored = counted.reduce((sum, { events }) => sum + events, 0)
  const checked = miscounted(
    [...histories.flat(), foreign],
    new Map(counted.map(({ events, write }) => [write, events]))
  )
  const ends = Object.entries(checked.counts).map(([end, count]) => `${count} ${end}`)
  const head = yield* headOf(sql)
  const all: ReadonlyArray<Finding> = [
    {
      about: "writes",
      found: `${ends.join(", ")}; ${stored} events stored in ${seconds} seconds, ${head - BigInt(stored)} versions rolled back`,
      wrong: checked.wrong
    },
    ...readers.flatMap(
      ({ said }) => said().findings ?? [{ about: "reader", found: "nothing", wrong: ["it did not come to its end"] }]
    ),
    {
      about: "processes",
      found: `${codes.length} have ended`,
      wrong: codes.flatMap((code) => (code === 0 ? [] : [`one has failed: ${code}`]))
    }
  ]
  yield* conclude(all, "Nothing was lost, repeated or reordered.")
})
