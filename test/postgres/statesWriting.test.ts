/** What writers of states do to each other on a server: races, rows that were replaced, and many writes at once. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Result } from "effect"
import * as Postgres from "effect-strata/postgres"
import { execute, open, query } from "./harness.ts"
import { counted, served, show, state } from "./states.harness.ts"

describe("a write", () => {
  it.live("is one round trip, whatever comes of it, and leaves a row alone that is not older", () =>
    Effect.gen(function* () {
      const { requests, stream } = counted()
      const { states, table } = yield* served({ client: { maxConnections: 1, stream } })
      const place = `SELECT xmin::text, ctid::text FROM ${table} WHERE persistence_id = 'b'`
      // The first write prepares the statements.
      yield* states.writeState(state("a", 1n, "1"))
      yield* states.writeState(state("a", 1n, "1"))
      const tripsOf = (write: Effect.Effect<unknown, unknown>) =>
        Effect.gen(function* () {
          const before = requests()
          yield* Effect.exit(write)
          return requests() - before
        })
      assert.strictEqual(yield* tripsOf(states.writeState(state("b", 2n, "1"))), 1)
      assert.strictEqual(yield* tripsOf(states.writeState(state("b", 3n, "2"))), 1)
      assert.strictEqual(yield* tripsOf(states.overwriteState(state("b", 3n, "2"))), 1)
      const written = yield* query(place)
      assert.strictEqual(yield* tripsOf(states.writeState(state("b", 3n, "2"))), 1)
      assert.strictEqual(yield* tripsOf(states.writeState(state("b", 3n, "3"))), 1)
      assert.strictEqual(yield* tripsOf(states.writeState(state("b", 1n, "1"))), 1)
      assert.deepStrictEqual(yield* query(place), written)
    })
  )

  it.live("of one version by many, from two pools: exactly one succeeds, and the others see what it wrote", () =>
    Effect.gen(function* () {
      const { schema, states } = yield* served()
      const other = yield* served({ options: { schema }, layer: Postgres.layerStorage })
      for (let version = 1n; version <= 20n; version++) {
        const results = yield* Effect.forEach(
          Array.from({ length: 20 }, (_, writer) => writer),
          (writer) =>
            Effect.result((writer % 2 === 0 ? states : other.states).writeState(state("a", version, `${writer}`))),
          { concurrency: "unbounded" }
        )
        const winners = results.flatMap((result, writer) => (Result.isSuccess(result) ? [writer] : []))
        assert.strictEqual(winners.length, 1)
        assert.strictEqual(yield* show({ states }, "a"), `${version}: ${winners[0]}`)
        for (const { failure } of results.filter(Result.isFailure)) {
          assert.isTrue(failure._tag === "StaleState" && failure.current.versionNumber === version)
        }
      }
    })
  )

  it.live("sees what took the place of the row that it waited for", () =>
    Effect.gen(function* () {
      const { states, transactor } = yield* served()
      const held = yield* Effect.forEach(["replaced", "deleted", "newer", "older"], (id) =>
        states.writeState(state(id, 5n, "5"))
      ).pipe(
        Effect.andThen(
          open(
            transactor.withTransaction,
            Effect.gen(function* () {
              for (const id of ["replaced", "deleted"]) yield* states.deleteState(id)
              yield* states.writeState(state("replaced", 9n, "9"))
              yield* states.overwriteState(state("newer", 8n, "8"))
              yield* states.overwriteState(state("older", 1n, "1"))
              yield* states.writeState(state("inserted", 9n, "9"))
            })
          )
        )
      )
      const late = yield* Effect.forEach(["replaced", "deleted", "newer", "older", "inserted"], (id) =>
        states.writeState(state(id, 7n, "7")).pipe(
          Effect.as("written"),
          Effect.catchTag("StaleState", ({ current }) => Effect.succeed(`stale: ${current.versionNumber}`)),
          Effect.forkChild({ startImmediately: true })
        )
      )
      yield* held.commit
      assert.deepStrictEqual(yield* Effect.forEach(late, (fiber) => Fiber.join(fiber)), [
        "stale: 9",
        "written",
        "stale: 8",
        "written",
        "stale: 9"
      ])
    })
  )
})

describe("writes that come at once", () => {
  it.live("share statements, and each has its own result", () =>
    Effect.gen(function* () {
      const { requests, stream } = counted()
      const { states, table } = yield* served({ client: { stream } })
      yield* states.writeState(state("stale", 5n, "5"))
      yield* states.writeState(state("same", 5n, "5"))
      yield* execute([`INSERT INTO ${table} VALUES ('corrupt', 9, '', 'm', 0, -1)`])
      yield* execute([`ALTER TABLE ${table} ADD CHECK (persistence_id <> 'refused')`])
      const ids = ["stale", "same", "corrupt", "refused", ...Array.from({ length: 400 }, (_, n) => `fine ${n}`)]
      const before = requests()
      const results = yield* Effect.forEach(
        ids,
        (id) =>
          states.writeState(state(id, 5n, id === "stale" ? "other" : "5")).pipe(
            Effect.as("written"),
            Effect.catchTags({
              StaleState: ({ current }) => Effect.succeed(`stale: ${current.versionNumber}`),
              StoreError: ({ reason }) => Effect.succeed(reason._tag),
              InvalidInput: ({ message }) => Effect.succeed(message)
            })
          ),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(results.slice(0, 4), ["stale: 5", "written", "CorruptRow", "Unexpected"])
      assert.deepStrictEqual(new Set(results.slice(4)), new Set(["written"]))
      assert.isBelow(requests() - before, 100)

      const overwriting = requests()
      const others = ids.filter((id) => id !== "refused")
      yield* Effect.forEach(others, (id) => states.overwriteState(state(id, 1n, "1")), { concurrency: "unbounded" })
      assert.isBelow(requests() - overwriting, 20)
      assert.deepStrictEqual(
        new Set((yield* states.getStates(others)).map(({ versionNumber }) => versionNumber)),
        new Set([1n])
      )
      assert.strictEqual((yield* states.getStates(ids.slice(4))).length, 400)
    })
  )

  it.live("of one entity have the results of running them one after the other, in their order", () =>
    Effect.gen(function* () {
      const { states } = yield* served()
      const ids = ["a", "b", "c"]
      const stored = new Map<string, readonly [version: number, text: string]>()
      const expected: Array<string> = []
      const writes = Array.from({ length: 300 }, (_, index) => {
        const id = ids[(index * 7) % 3] ?? ""
        const version = Math.floor(index / 10) + ((index * 13) % 7)
        const text = `${(index * 11) % 3}`
        const onDuplicate = index % 2 === 0 ? "ignore" : "fail"
        const overwriting = index % 5 === 4
        const [current, now] = stored.get(id) ?? [-1, ""]
        if (version > current || overwriting) stored.set(id, [version, text])
        const same = version === current && text === now && onDuplicate === "ignore"
        expected.push(version > current || same || overwriting ? "written" : `stale: ${current} ${now}`)
        const written = state(id, BigInt(version), text)
        return overwriting ? states.overwriteState(written) : states.writeState(written, { onDuplicate })
      })
      const results = yield* Effect.forEach(
        writes,
        (write) =>
          write.pipe(
            Effect.as("written"),
            Effect.catchTag("StaleState", ({ current }) =>
              Effect.succeed(`stale: ${current.versionNumber} ${new TextDecoder().decode(current.payload)}`)
            )
          ),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(results, expected)
      assert.isAbove(new Set(expected).size, 20)
    })
  )

  it.live("never read the whole table, whatever the statistics say", () =>
    Effect.gen(function* () {
      // One connection, whose counts can be asked for.
      const { sql, states, table } = yield* served({ client: { maxConnections: 1 } })
      yield* states.writeState(state("first", 1n))
      yield* execute([`ANALYZE ${table}`])
      const scans = Effect.andThen(
        sql`SELECT pg_stat_force_next_flush()`,
        query(`SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relid = '${table}'::regclass`)
      )
      const before = yield* scans
      const ids = Array.from({ length: 50 }, (_, n) => `entity ${n}`)
      for (const version of [1n, 2n, 3n]) {
        yield* Effect.forEach(ids, (id) => states.writeState(state(id, version)), {
          concurrency: "unbounded"
        })
      }
      const [[wholeBefore, byIndexBefore] = []] = before
      const [[whole, byIndex] = []] = yield* scans
      assert.strictEqual(whole, wholeBefore)
      assert.isAtLeast(Number(byIndex), Number(byIndexBefore) + 100)
    })
  )

  it.live("are divided neither for rows that a transaction holds, nor for one that it is about to insert", () =>
    Effect.gen(function* () {
      const { requests, stream } = counted()
      const { schema, states } = yield* served({ client: { maxConnections: 10, stream } })
      const other = yield* served({ options: { schema }, layer: Postgres.layerStorage })
      const ids = Array.from({ length: 100 }, (_, n) => `entity ${n}`)
      const writeAll = (version: bigint, some: ReadonlyArray<string>) =>
        Effect.forEach(some, (id) => states.writeState(state(id, version)), { concurrency: "unbounded" })
      yield* writeAll(1n, ids)
      for (const [held, version] of [
        [["entity 7", "entity 70"], 2n],
        [["new"], 3n]
      ] as const) {
        const holding = yield* open(
          other.transactor.withTransaction,
          Effect.forEach(held, (id) => other.states.overwriteState(state(id, 1n)))
        )
        const before = requests()
        const waiting = yield* Effect.forkChild(writeAll(version, held), { startImmediately: true })
        const others = ids.filter((id) => held.every((other) => other !== id))
        yield* writeAll(version, others)
        assert.isBelow(requests() - before, 15)
        yield* holding.commit
        yield* Fiber.join(waiting)
      }
    })
  )

  it.live("do not wait for writes whose rows a transaction holds, or is about to insert", () =>
    Effect.gen(function* () {
      const { states, transactor } = yield* served()
      const held = Array.from({ length: 6 }, (_, n) => `held ${n}`)
      const inserted = Array.from({ length: 6 }, (_, n) => `inserted ${n}`)
      yield* Effect.forEach(held, (id) => states.writeState(state(id, 1n, "1")))
      const holding = yield* open(
        transactor.withTransaction,
        Effect.forEach([...held, ...inserted], (id) => states.writeState(state(id, 3n, "3")))
      )
      const write = (id: string) =>
        Effect.forkChild(Effect.result(states.writeState(state(id, 2n, "2"))), { startImmediately: true })
      const first = yield* write("first")
      const waiting = yield* Effect.forEach([...held, ...inserted], write)
      const others = yield* Effect.forEach(
        Array.from({ length: 100 }, (_, n) => `other ${n}`),
        write
      )
      // The transaction waits for these, as an application's might.
      const results = yield* Effect.forEach([first, ...others], (fiber) => Fiber.join(fiber))
      assert.isTrue(results.every(Result.isSuccess))
      assert.isTrue(waiting.every((fiber) => fiber.pollUnsafe() === undefined))
      yield* holding.commit
      for (const fiber of waiting) {
        const result = yield* Fiber.join(fiber)
        assert.isTrue(Result.isFailure(result) && result.failure._tag === "StaleState")
      }
    })
  )
})
