import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Context, Effect, Layer, Redacted, Schema } from "effect"
import type { DurableStateStore, EventStore, OffsetStore, SpoolStore, Transactor } from "effect-strata"
import * as Memory from "effect-strata/memory"
import * as Postgres from "effect-strata/postgres"
import { layerSchema, postgresUrl, TestSchema } from "../support/database.ts"
import { type Backend, DecisionProgram, observe, Program, sessions, undecided } from "./program.ts"

type Stores =
  | DurableStateStore.DurableStateStore
  | EventStore.EventStore
  | OffsetStore.OffsetStore
  | SpoolStore.SpoolStore
  | Transactor.Transactor

class Backends extends Context.Service<Backends, { readonly memory: Backend; readonly postgres: Backend }>()(
  "strata-test/Backends"
) {}

const backend = (contexts: ReadonlyArray<Context.Context<Stores>>, waiting: Backend["waiting"]): Backend => ({
  provide: (session) => (effect) =>
    Effect.suspend(() => {
      const context = contexts[session]
      return context === undefined ? Effect.die(`no session ${session}`) : Effect.provideContext(effect, context)
    }),
  waiting
})

const memory = Effect.gen(function* () {
  const context = yield* Layer.build(Memory.layer)
  const { waiting } = Context.get(context, Memory.MemoryDatabase.MemoryDatabase)
  return backend(
    sessions.map(() => context),
    waiting
  )
})

const Waiting = Schema.Array(Schema.Struct({ pid: Schema.Int, blockers: Schema.Array(Schema.Int) }))

/** Whether a session waits, through others, for itself. */
const isCircle = (waiting: typeof Waiting.Type): boolean => {
  const blockers = new Map(waiting.map(({ blockers, pid }) => [pid, blockers]))
  const reaches = (from: number, to: number, seen: Set<number>): boolean =>
    (blockers.get(from) ?? []).some((pid) => pid === to || (!seen.has(pid) && reaches(pid, to, seen.add(pid))))
  return waiting.some(({ pid }) => reaches(pid, pid, new Set()))
}

/** Each session is a connection of its own, so that the server can say which of them wait. */
const postgres = Effect.gen(function* () {
  const { name } = yield* TestSchema
  const sql = yield* PgClient.PgClient
  const contexts = yield* Effect.forEach(sessions, (session) =>
    Postgres.layer().pipe(
      Layer.provide(
        PgClient.layer({
          url: Redacted.make(postgresUrl),
          applicationName: `${name}_${session}`,
          maxConnections: 1,
          startupParameters: { search_path: name }
        })
      ),
      Layer.fresh,
      Layer.build
    )
  )
  // A session that waits for a session which is not at rest may go on by itself at any moment, and so may a session that waits
  // for another process: for autovacuum when it makes a table shorter, or for the commit of another test's NOTIFY.
  const waiting = sql`
    WITH session AS MATERIALIZED (
      SELECT pid, state, pg_blocking_pids(pid) AS blockers FROM pg_stat_activity
      WHERE application_name LIKE ${`${name}\\_%`}
    )
    SELECT pid, blockers FROM session AS waiting WHERE EXISTS (
      SELECT FROM session
      WHERE pid = ANY (waiting.blockers) AND (state LIKE 'idle in transaction%' OR cardinality(blockers) > 0)
    )`.pipe(
    Effect.flatMap(Schema.decodeUnknownEffect(Waiting)),
    Effect.map((rows): number | "deadlock" => (isCircle(rows) ? "deadlock" : rows.length)),
    Effect.orDie
  )
  return backend(contexts, waiting)
})

const layer = Layer.effect(Backends, Effect.all({ memory, postgres })).pipe(Layer.provide(layerSchema()))

/** What both have observed until one of them could not decide: which of two locks comes first is the backend's business. */
const decided = (
  one: ReadonlyArray<string>,
  other: ReadonlyArray<string>
): readonly [ReadonlyArray<string>, ReadonlyArray<string>] => {
  const places = [one, other].map((trace) => trace.indexOf(undecided)).filter((place) => place >= 0)
  const end = places.length === 0 ? undefined : Math.min(...places)
  return [one.slice(0, end), other.slice(0, end)]
}

/** Runs the program on both backends, and compares what was observed. */
const compare = Effect.fnUntraced(function* (program: Program) {
  const { memory, postgres } = yield* Backends
  const run = crypto.randomUUID()
  const expected = yield* observe(postgres, run, program)
  const actual = yield* observe(memory, run, program)
  const [one, other] = decided(actual, expected)
  assert.deepStrictEqual(one, other, `memory: ${actual.join("\n")}\npostgres: ${expected.join("\n")}`)
})

it.layer(layer, { excludeTestServices: true })("random programs", (it) => {
  // Always the same programs, so that a failure is one of the change. To look for others: more runs, another seed.
  it.effect.prop("are observed alike on memory and on Postgres", [Program], ([program]) => compare(program), {
    arbitrary: { runs: 300, size: 60, seed: 2 }
  })

  it.effect.prop("of decisions are observed alike on both", [DecisionProgram], ([program]) => compare(program), {
    arbitrary: { runs: 300, size: 60, seed: 3 }
  })
})
