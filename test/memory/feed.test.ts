/** The reading that the shards of a projection share: each has every event of its own, whenever it comes. */
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { EventStore } from "effect-strata"
import * as Memory from "effect-strata/memory"
import * as Feed from "../../src/projection/run/Feed.ts"

it.live("a shard that comes back while a step is handed out begins at its own cursor", () =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const stored = yield* events.append(
      Array.from({ length: 100 }, () => ({ aggregateId: "a", eventType: "Happened", data: null }))
    )
    const versions = stored.map(({ version }) => version)
    let onEvent = (_event: EventStore.StoredEvent) => {}
    const shardOf = (event: EventStore.StoredEvent) => {
      onEvent(event)
      return 0
    }
    const reading = yield* Feed.make({ capacity: 1_000, filter: {}, shardOf })
    const add = (after: bigint) => reading.add(new Map([[0, { version: after }]])).get(0)
    const place = { feed: add(0n) }
    onEvent = ({ version }) => {
      if (version !== versions[50]) return
      onEvent = () => {}
      reading.remove(0)
      place.feed = add(versions[9] ?? 0n)
    }
    yield* Effect.forkScoped(reading.run)
    const head = versions.at(-1) ?? 0n
    yield* Effect.repeat(
      Effect.suspend(() => place.feed?.untilBeyond(place.feed.upTo) ?? Effect.void),
      { while: () => (place.feed?.upTo ?? head) < head }
    )
    const taken = place.feed?.take(1_000).events.map(({ version }) => version)
    assert.deepStrictEqual(taken, versions.slice(10))
  }).pipe(Effect.scoped, Effect.provide(Memory.layer))
)

it.live("a shard that comes back while a step waits for room is not given the step that was read ahead", () =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const append = (count: number) =>
      events.append(Array.from({ length: count }, () => ({ aggregateId: "a", eventType: "Happened", data: null })))
    const reading = yield* Feed.make({ capacity: 10, filter: {}, shardOf: () => 0 })
    const add = () => reading.add(new Map([[0, { version: 0n }]])).get(0)
    const full = add()
    yield* append(20)
    yield* Effect.forkScoped(reading.run)
    yield* Effect.repeat(Effect.yieldNow, { until: () => full?.isFull === true })
    // The reading waits for room now, and reads the next step meanwhile.
    const [last] = (yield* append(5)).slice(-1)
    yield* Effect.repeat(Effect.yieldNow, { times: 200 })
    reading.remove(0)
    const feed = add()
    if (feed === undefined || last === undefined) return assert.fail()
    yield* Effect.repeat(
      Effect.suspend(() => feed.untilBeyond(feed.upTo)),
      { while: () => feed.upTo < last.version && feed.isEmpty }
    )
    assert.strictEqual(feed.take(1)?.events[0]?.version, 1n)
  }).pipe(Effect.scoped, Effect.provide(Memory.layer))
)
