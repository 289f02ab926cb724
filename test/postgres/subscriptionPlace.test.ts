/** Where a subscriber is in the log moves with its events, whenever it is cut off from them. */
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Context, Effect, Latch, Layer, Queue, Redacted, References, Stream } from "effect"
import { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { PostgresDatabase } from "../../src/postgres/database/PostgresDatabase.ts"
import * as Reading from "../../src/postgres/events/Reading.ts"
import * as Subscribing from "../../src/postgres/events/Subscribing.ts"
import * as Wakeups from "../../src/postgres/wakeups/Wakeups.ts"
import { postgresUrl } from "../support/database.ts"
import { event } from "./events.harness.ts"
import { freshSchema } from "./harness.ts"

const count = 6

/** Subscriptions of a real database, whose listening connection is taken for lost whenever the test says so. */
const serve = Effect.gen(function* () {
  const schema = yield* freshSchema()
  const pool = PgClient.layer({ url: Redacted.make(postgresUrl) })
  const stores = Layer.provideMerge(Postgres.EventStore.layer, Postgres.PostgresDatabase.layer({ schema }))
  const context = yield* Layer.build(
    Layer.provideMerge(stores, Layer.provideMerge(Postgres.layerMigrations({ schema }), pool))
  )
  const database = Context.get(context, PostgresDatabase)
  const wakeups = yield* Effect.provide(Layer.build(Wakeups.layer), context)
  const { listen, ...rest } = Context.get(wakeups, Wakeups.Wakeups)
  const losses = yield* Queue.unbounded<void>()

  /** The reader begins again, as on the connection after the one that was lost. */
  const lossy: typeof listen = (table, reader) =>
    listen(table, (ear) => {
      let { again } = ear
      return Effect.forever(
        Effect.suspend(() => {
          const running = reader({ ...ear, again })
          again = true
          return Effect.raceFirst(running, Queue.take(losses))
        })
      )
    })

  /**
   * Follows the log in pages of two events. While the first page is being handled, the connection is lost, and `turns` of the
   * scheduler later the second page comes, which the subscription drops if it knows of the loss by then.
   */
  const follow = Effect.fnUntraced(function* (turns: number) {
    let pages = 0
    // A loss that came when the run before was over would come too early for this one, which then waits for ever.
    yield* Queue.clear(losses)
    const wait = (times: number) => Effect.repeat(Effect.yieldNow, { times })
    const read = yield* Latch.make()
    const handled = yield* Latch.make()
    const query: typeof database.query = (statement) =>
      Effect.tap(database.query(statement), () =>
        statement.compile()[0].includes("ORDER BY version ASC") && ++pages === 2
          ? Queue.offer(losses, undefined).pipe(Effect.andThen(wait(turns)), Effect.andThen(read.open))
          : Effect.void
      )
    const following = yield* Effect.flatMap(Reading.make, (reading) => Subscribing.make(Effect.void, reading)).pipe(
      Effect.provideService(PostgresDatabase, { ...database, query }),
      Effect.provideService(Wakeups.Wakeups, { ...rest, listen: lossy })
    )
    yield* read.await.pipe(Effect.andThen(wait(100)), Effect.andThen(handled.open), Effect.forkScoped)
    const steps = yield* following.follow(new EventStore.Subscription({ after: "start", batchSize: 2 })).pipe(
      Stream.tap(() => handled.await),
      Stream.takeUntil(({ upTo }) => upTo.version === BigInt(count)),
      Stream.runCollect,
      // The fiber lets others run after every few steps, so that the loss can fall between any two of them.
      Effect.provideService(References.MaxOpsBeforeYield, 3)
    )
    return { seen: steps.flatMap(({ events }) => events.map(({ version }) => version)), pages }
  }, Effect.scoped)

  return { events: Context.get(context, EventStore.EventStore), follow }
})

it.live("events that have been read and not delivered are read again, and those that have been delivered are not", () =>
  Effect.gen(function* () {
    const { events, follow } = yield* serve
    const stored = yield* events.append(Array.from({ length: count }, (_, number) => event(`${number}`)))
    const seen = stored.map(({ version }) => version)
    const pages = new Set<number>()
    for (let turns = 0; turns < 50; turns++) {
      const followed = yield* follow(turns)
      assert.deepStrictEqual(followed.seen, seen, `with ${turns} turns`)
      pages.add(followed.pages)
    }
    // At least once a page was not delivered, and was read again.
    assert.isAbove(Math.max(...pages), 3)
  })
)
