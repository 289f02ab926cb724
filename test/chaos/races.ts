/**
 * Decisions of two processes: races, in each of which 16 racers decide upon the same tag after all of them have read, and
 * decisions upon tags of their own, which nothing may overtake. Of the racers some roll back, and some are prepared first.
 */
import { Deferred, Effect, Schema } from "effect"
import * as PostgresServer from "../support/PostgresServer.ts"
import { decided, raced, type RacerCommand, RacerSaid } from "./agreed.ts"
import type { Report } from "./report.ts"
import { migrate } from "./tables.ts"
import * as Told from "./told.ts"
import { asker, type Finding } from "./verdict.ts"

const racersOfProcess = 8

/** How often progress is told. */
const every = "10 seconds"

const schema = "chaos"

const settings = { shared_buffers: "512MB", max_wal_size: "4GB", max_prepared_transactions: "100" }

const Stored = Schema.Struct({ decisions: Schema.Int, races: Schema.Int, raced: Schema.Int, others: Schema.Int })

const numbers = (length: number) => Array.from({ length }, (_, index) => index)

type Said = typeof RacerSaid.Type
type Step = "read" | "decided"

interface Racer extends Told.Child<typeof RacerCommand.Type> {
  readonly name: string
  /** Tells it what to do in a race, and returns how its racers have ended, if they have. */
  readonly race: (race: number, step: "read" | "decide") => Effect.Effect<ReadonlyArray<string>>
  /** Lets it decide so often upon tags of its own, and returns what was wrong. */
  readonly decide: (decisions: number) => Effect.Effect<ReadonlyArray<string>>
  readonly decided: () => number
}

const start = Effect.fnUntraced(function* (name: string, url: string, schema: string) {
  const steps = new Map<string, Deferred.Deferred<ReadonlyArray<string>>>()
  const key = (race: number, step: Step) => `${race} ${step}`
  const done = yield* Deferred.make<ReadonlyArray<string>>()
  let decisions = 0
  let decided = 0
  const hear = (said: Said) => {
    if ("race" in said) {
      const of = key(said.race, said.has)
      const step = steps.get(of)
      steps.delete(of)
      if (step !== undefined) Deferred.doneUnsafe(step, Effect.succeed(said.has === "read" ? [] : said.ends))
      return
    }
    decided = said.decided
    if (said.wrong.length > 0 || decided === decisions) Deferred.doneUnsafe(done, Effect.succeed(said.wrong))
  }
  const child = yield* Told.start<typeof RacerCommand.Type, Said>({
    role: "racer",
    arguments: [url, schema, name, ""],
    said: RacerSaid,
    hear
  })
  const ended = Effect.flatMap(child.ended, (code) => Effect.die(new Error(`${name} has ended by itself: ${code}`)))
  const racer: Racer = {
    ...child,
    name,
    decided: () => decided,
    race: Effect.fnUntraced(function* (race, step) {
      const end = yield* Deferred.make<ReadonlyArray<string>>()
      steps.set(key(race, step === "read" ? "read" : "decided"), end)
      yield* child.tell({ race, step })
      return yield* Effect.raceFirst(Deferred.await(end), ended)
    }),
    decide: (count) => {
      decisions = count
      return Effect.andThen(child.tell({ decisions }), Effect.raceFirst(Deferred.await(done), ended))
    }
  }
  return racer
})

/** Runs one race, and says what is wrong with how it has ended. */
const runRace = Effect.fnUntraced(function* (racers: ReadonlyArray<Racer>, race: number, ends: Map<string, number>) {
  const all = (step: "read" | "decide") =>
    Effect.forEach(racers, (racer) => racer.race(race, step), { concurrency: "unbounded" })
  // The barrier: nobody decides before all have read.
  yield* all("read")
  const found = (yield* all("decide")).flat()
  for (const end of found) ends.set(end, (ends.get(end) ?? 0) + 1)
  const strange = found.filter((end) => !["won", "overtaken", "undone"].includes(end))
  const winners = found.filter((end) => end === "won").length
  return [
    ...strange.map((end) => `race ${race}: ${end}`),
    ...(winners === 1 ? [] : [`race ${race} has ${winners} winners`]),
    ...(found.length === racers.length * racersOfProcess ? [] : [`race ${race} has ${found.length} ends`])
  ]
})

export interface Races {
  readonly url: string
  /** Has the tables of the stores. */
  readonly schema: string
  readonly races: number
  /** How many races are under way at once: some of their racers go in the same statements. */
  readonly racesAtOnce: number
  readonly decisions: number
  readonly say: (line: string) => Effect.Effect<void>
}

/** Tells how many there are, and how fast they come, until the effect has ended. */
const watched = <A, E, R>(effect: Effect.Effect<A, E, R>, say: Races["say"], what: string, count: () => number) =>
  Effect.suspend(() => {
    const began = performance.now()
    const rate = () => Math.round((count() / (performance.now() - began)) * 1000)
    const tell = Effect.suspend(() => say(`${count()} ${what}, ${rate()} a second`))
    return Effect.andThen(Effect.raceFirst(effect, Effect.forever(Effect.delay(tell, every))), (result) =>
      Effect.as(tell, result)
    )
  })

/** Runs the races beside the decisions, and gives what was found. */
export const run = Effect.fnUntraced(function* ({ decisions, races, racesAtOnce, say, schema, url }: Races) {
  const racers = yield* Effect.forEach(["racer-1", "racer-2"], (name) => start(name, url, schema))
  const ends = new Map<string, number>()
  let ran = 0
  const oneRace = (race: number) => Effect.tap(runRace(racers, race, ends), () => Effect.sync(() => void ran++))
  const allRaces = Effect.forEach(numbers(races), oneRace, { concurrency: racesAtOnce })
  const shares = [Math.ceil(decisions / 2), Math.floor(decisions / 2)]
  const allDecisions = Effect.forEach(racers, ({ decide }, index) => decide(shares[index] ?? 0), {
    concurrency: "unbounded"
  })
  const [wrongRaces, wrongDecisions] = yield* Effect.all(
    [
      watched(allRaces, say, "races", () => ran),
      watched(allDecisions, say, "decisions", () => racers.reduce((sum, racer) => sum + racer.decided(), 0))
    ],
    { concurrency: "unbounded" }
  )
  yield* Effect.forEach(racers, ({ tell }) => tell({ end: true }))
  const codes = yield* Effect.forEach(racers, ({ ended }) => ended)

  const ask = asker(url)
  const [stored] = yield* ask(
    Stored,
    `SELECT count(*) FILTER (WHERE event_type = '${decided}')::int AS decisions,
       count(*) FILTER (WHERE event_type = '${raced}')::int AS races,
       (SELECT count(DISTINCT tag)::int FROM ${schema}.events_tags WHERE tag LIKE 'race:%') AS raced,
       count(*) FILTER (WHERE event_type NOT IN ('${decided}', '${raced}'))::int AS others
     FROM ${schema}.events`
  )
  const counted = [...ends].toSorted().map(([end, count]) => `${count} ${end}`)
  const differs = (what: string, found: number | undefined, expected: number) =>
    found === expected ? [] : [`${found} ${what} are stored, and not ${expected}`]
  const findings: ReadonlyArray<Finding> = [
    {
      about: "races",
      found: `${races} of ${racers.length * racersOfProcess} racers: ${counted.join(", ")}; ${stored?.others} events beside them`,
      wrong: [
        ...wrongRaces.flat(),
        ...differs("winners", stored?.races, races),
        ...differs("races with a winner", stored?.raced, races)
      ]
    },
    {
      about: "decisions",
      found: `${decisions} upon disjoint tags, ${stored?.decisions} stored`,
      wrong: [...wrongDecisions.flat(), ...differs("decisions", stored?.decisions, decisions)]
    },
    {
      about: "processes",
      found: `${codes.length} have ended`,
      wrong: codes.flatMap((code) => (code === 0 ? [] : [`one has failed: ${code}`]))
    }
  ]
  return findings
})

/** The same on a server of its own. */
export const runAlone = Effect.fnUntraced(function* (
  { conclude, say }: Report,
  counts: Pick<Races, "decisions" | "races">
) {
  yield* say(`npm run chaos -- --races ${counts.races} --decisions ${counts.decisions}`)
  const { url, version } = yield* PostgresServer.make({ settings })
  yield* migrate(url, schema)
  yield* say(`PostgreSQL ${version}, 2 processes`)
  const findings = yield* run({ url, schema, say, racesAtOnce: 8, ...counts })
  yield* conclude(findings, "Each race had one winner, and nothing overtook what had nothing to do with it.")
})
