/** The one poll that all pages share. */
import { assert, it } from "@effect/vitest"
import { Context, Effect, Latch, Layer, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import { Live } from "../../src/console/Live.ts"
import { onServer } from "./places.ts"
import { storesOf } from "./serving.ts"

it.live("gives a page that is too slow the newest moment next", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const { options, pool } = yield* onServer
      yield* storesOf({ options, pool })
      const stores = Layer.merge(Postgres.layerStorage(options), Postgres.PostgresDatabase.layer(options))
      const context = yield* Layer.build(Live.layer.pipe(Layer.provide(stores), Layer.provide(pool)))
      const { hurry, moments } = Context.get(context, Live)
      const gate = yield* Latch.make()
      const slow: Array<number> = []
      yield* moments.pipe(
        Stream.runForEach(({ look }) =>
          Effect.andThen(
            Effect.sync(() => void slow.push(look)),
            gate.await
          )
        ),
        Effect.forkScoped
      )
      let newest = 0
      yield* Effect.forkScoped(Stream.runForEach(moments, ({ look }) => Effect.sync(() => void (newest = look))))
      // Each change has all looked at anew.
      yield* Effect.repeat(Effect.delay(hurry, "10 millis"), { until: () => newest >= 12 })
      assert.lengthOf(slow, 1)
      yield* gate.open
      yield* Effect.repeat(Effect.delay(hurry, "10 millis"), { until: () => slow.some((look) => look >= 12) })
      assert.isBelow(slow.filter((look) => look < 12).length, 6)
    })
  )
)
