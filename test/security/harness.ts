/** What the attacks share: code that must not run, and a use of all that the stores do. */
import { assert } from "@effect/vitest"
import { Effect, Option, Stream } from "effect"
import { execute, type Served } from "../postgres/harness.ts"

/** A function that records who has run it: an attack has succeeded if `pwned` has a row. */
export const installPwn = (url: string) =>
  execute(
    [
      "CREATE TABLE public.pwned (by_whom TEXT)",
      "GRANT INSERT, SELECT ON public.pwned TO PUBLIC",
      `CREATE FUNCTION public.pwn() RETURNS INTEGER LANGUAGE plpgsql AS $pwn$
       BEGIN INSERT INTO public.pwned VALUES (current_user); RETURN 1; END $pwn$`
    ],
    url
  )

/** Names with which code once ran, in the words of today's files and of former ones. */
export const attackers = [
  `'::char::pg_catalog.char::int;y int:=pwn();--<events>`,
  `'::char::pg_catalog.char::int;y int:=pwn();--:"events"`,
  `'::char::pg_catalog.char::int;y int:=pwn();--:'events'`,
  `:'events'||pwn()||:"events"`
]

const payloadOf = (text: string) => new TextEncoder().encode(text)

/** Uses each statement of the log once: of one event and of many, alone and in a transaction. */
const useEvents = Effect.fnUntraced(function* ({ events, offsets, states, transactor }: Served) {
  const append = (aggregateId: string, id?: string) => ({
    aggregateId,
    eventType: "T",
    data: { a: 1 },
    ...(id === undefined ? {} : { id })
  })
  const start = yield* events.latestVersion
  const key = `k${start}`
  yield* events.append(append(key))
  yield* Effect.all([events.append(append(key)), events.append(append(`${key}b`)), events.append(append(`${key}c`))], {
    concurrency: "unbounded"
  })
  yield* events.append([append(key, `${key}-1`), append(`${key}d`)], { expected: "any", onDuplicate: "ignore" })
  yield* events.append(append(key, `${key}-1`), { onDuplicate: "ignore" })
  yield* events.append(append(`${key}e`), { expected: "none" })
  yield* transactor.withTransaction(
    Effect.gen(function* () {
      yield* events.append(append(`${key}f`))
      yield* offsets.writeOffset({ projectionName: key, shardNumber: 0, value: 1n })
      yield* states.writeState({ persistenceId: key, versionNumber: 1n, payload: payloadOf("1"), manifest: "m" })
    })
  )
  assert.strictEqual((yield* events.load(start)).length, 8)
  assert.strictEqual((yield* events.loadByAggregate(key, start)).length, 3)
  assert.strictEqual((yield* events.get(`${key}-1`)).aggregateId, key)
  const filtered = events.read({
    aggregateIds: [key, `${key}b`],
    eventTypes: ["T"],
    data: { a: 1 },
    direction: "backward"
  })
  assert.strictEqual((yield* Stream.runCollect(filtered)).length, 4)
  const live = events.subscribe({ after: start, eventTypes: ["T"] }).pipe(Stream.take(8), Stream.runCollect)
  assert.strictEqual((yield* live).length, 8)
  yield* events.stats
  return key
})

/** Uses each statement of the offsets and the states once. */
const useRows = Effect.fnUntraced(function* ({ offsets, states }: Served, key: string) {
  yield* offsets.advanceOffset({ projectionName: key, shardNumber: 0 }, { from: Option.some(1n), to: 2n })
  yield* offsets.advanceOffset({ projectionName: key, shardNumber: 1 }, { from: Option.none(), to: 2n })
  yield* Effect.flip(offsets.advanceOffset({ projectionName: key, shardNumber: 1 }, { from: Option.some(9n), to: 10n }))
  assert.strictEqual((yield* Stream.runCollect(offsets.listOffsets(key))).length, 2)
  assert.strictEqual(yield* offsets.resetOffset(key, 0n), 2)
  assert.strictEqual(yield* offsets.deleteOffsets(key), 2)

  const state = (id: string, versionNumber: bigint) => ({
    persistenceId: id,
    versionNumber,
    payload: payloadOf("x"),
    manifest: "m"
  })
  yield* Effect.all(
    [1, 2, 3].map((n) => states.writeState(state(`${key}${n}`, 1n))),
    { concurrency: "unbounded" }
  )
  yield* states.writeState(state(key, 2n))
  yield* Effect.flip(states.writeState(state(key, 1n)))
  yield* states.overwriteState(state(key, 1n))
  assert.isTrue(Option.isSome(yield* states.getLatestState(key)))
  assert.strictEqual((yield* states.getStates([key, `${key}1`])).length, 2)
  assert.isAtLeast((yield* Stream.runCollect(states.listStates({ manifest: "m", shard: 0 }))).length, 4)
  assert.isTrue(yield* states.deleteState(key))
})

/** Uses the statements of the spool. */
const useSpool = Effect.fnUntraced(function* ({ spool, transactor }: Served, key: string) {
  yield* transactor.withTransaction(spool.storeMeta({ queue: "q", id: `${key}m`, payload: { a: 1 } }))
  yield* spool.storeMany([
    { queue: "q", id: `${key}n` },
    { queue: "q", id: `${key}o` }
  ])
  const claimed = yield* spool.claim({ queue: "q", owner: "w", limit: 10, lease: "1 minute" })
  assert.isAtLeast(claimed.length, 3)
  const leases = claimed.map(({ attempts, id }) => ({ queue: "q", id, owner: "w", attempt: attempts }))
  yield* spool.heartbeat(leases, "1 minute")
  yield* spool.settle(leases.map(({ attempt, id, owner, queue }) => ({ queue, id, owner, attempt, outcome: "done" })))
})

/** Uses all stores. */
export const useStores = Effect.fnUntraced(function* (served: Served) {
  const key = yield* useEvents(served)
  yield* useRows(served, key)
  yield* useSpool(served, key)
})
