/** What every `Transactor` does, as a suite for Vitest. Offsets stand for whatever a transaction writes. */
import { assert, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Latch, type Layer, Option, Ref } from "effect"
import { OffsetStore } from "../OffsetStore.ts"
import { StoreError } from "../StoreError.ts"
import { Transactor, withTransaction as transaction } from "../Transactor.ts"

const write = (projectionName: string, value: bigint, shardNumber = 0) =>
  OffsetStore.use((offsets) => offsets.writeOffset({ projectionName, shardNumber, value }))

/** The value of a shard, -1n where there is none. */
const read = (projectionName: string, shardNumber = 0) =>
  OffsetStore.use((offsets) => offsets.getCurrentOffset({ projectionName, shardNumber })).pipe(
    Effect.map(Option.match({ onNone: () => -1n, onSome: (offset) => offset.value }))
  )

const afterCommit = (effect: Effect.Effect<void>) => Transactor.use((transactor) => transactor.afterCommit(effect))

/** A transaction that stays open until it is told how to end. */
const open = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const begun = yield* Deferred.make<void>()
    const end = yield* Deferred.make<void, "rollback">()
    const body = effect.pipe(
      Effect.ensuring(Deferred.succeed(begun, undefined)),
      Effect.andThen(Deferred.await(end)),
      transaction
    )
    const fiber = yield* Effect.forkChild(body)
    yield* Deferred.await(begun)
    return {
      commit: Effect.andThen(Deferred.succeed(end, undefined), Fiber.join(fiber)),
      rollback: Effect.andThen(Deferred.fail(end, "rollback"), Effect.exit(Fiber.join(fiber))),
      interrupt: Fiber.interrupt(fiber)
    }
  })

/**
 * Registers the suite. `interleaving: false` leaves out what takes two transactions open at once, for a backend with a
 * single connection, where the second waits for the first.
 */
export const suite = <E>(
  name: string,
  layer: Layer.Layer<OffsetStore | Transactor, E>,
  { interleaving = true }: { readonly interleaving?: boolean } = {}
): void => {
  it.layer(layer, { timeout: "2 minutes" })(`Transactor (${name})`, (it) => {
    const fresh = () => `transaction ${crypto.randomUUID()}`

    it.effect("commits everything that the effect has written, and gives its result", () =>
      Effect.gen(function* () {
        const [a, b] = [fresh(), fresh()]
        const result = yield* transaction(Effect.as(Effect.andThen(write(a, 1n), write(b, 2n)), "done"))
        assert.strictEqual(result, "done")
        assert.deepStrictEqual([yield* read(a), yield* read(b)], [1n, 2n])
      })
    )

    it.effect.each([{}, { beginsWithStore: true }])("is the same where it is watched (%o)", (options) =>
      Effect.gen(function* () {
        const [a, b] = [fresh(), fresh()]
        const { withWatchedTransaction } = yield* Transactor
        const watched = <A, E, R>(effect: Effect.Effect<A, E, R>) => withWatchedTransaction(effect, options)
        assert.strictEqual(yield* watched(Effect.as(write(a, 1n), "done")), "done")
        const exit = yield* Effect.exit(watched(Effect.andThen(write(a, 2n), Effect.fail("no"))))
        assert.deepStrictEqual(exit, Exit.fail("no"))
        yield* transaction(Effect.andThen(write(b, 1n), watched(write(b, 2n))))
        assert.deepStrictEqual([yield* read(a), yield* read(b)], [1n, 2n])
      })
    )

    it.effect.each([
      ["a failure", Effect.fail("no")],
      ["a defect", Effect.die("no")],
      ["an interruption", Effect.interrupt]
    ] as const)("rolls all of it back on %s, and passes that on", ([, end]) =>
      Effect.gen(function* () {
        const a = fresh()
        yield* write(a, 1n)
        const exit = yield* Effect.exit(transaction(Effect.andThen(write(a, 2n), end)))
        assert.deepStrictEqual(endingOf(exit), endingOf(yield* Effect.exit(end)))
        assert.strictEqual(yield* read(a), 1n)
      })
    )

    it.effect("knows whether the caller is in a transaction", () =>
      Effect.gen(function* () {
        const { afterCommit, inTransaction } = yield* Transactor
        const after = yield* Ref.make(true)
        const inside = Effect.all([inTransaction, transaction(inTransaction)])
        const told = yield* transaction(
          Effect.tap(inside, () => afterCommit(Effect.flatMap(inTransaction, (now) => Ref.set(after, now))))
        )
        assert.deepStrictEqual(told, [true, true])
        assert.deepStrictEqual([yield* inTransaction, yield* Ref.get(after)], [false, false])
      })
    )

    it.effect("rolls back when it is interrupted in the middle", () =>
      Effect.gen(function* () {
        const a = fresh()
        const held = yield* open(write(a, 1n))
        yield* held.interrupt
        assert.strictEqual(yield* read(a), -1n)
        yield* write(a, 2n)
        assert.strictEqual(yield* read(a), 2n)
      })
    )

    it.effect("undoes a nested transaction that fails, and nothing else", () =>
      Effect.gen(function* () {
        const [a, b] = [fresh(), fresh()]
        yield* transaction(
          Effect.gen(function* () {
            yield* write(a, 1n)
            const exit = yield* Effect.exit(
              transaction(Effect.andThen(write(a, 2n), Effect.andThen(write(b, 2n), Effect.fail("inner"))))
            )
            assert.deepStrictEqual(exit, Exit.fail("inner"))
            assert.deepStrictEqual([yield* read(a), yield* read(b)], [1n, -1n])
            yield* transaction(write(b, 3n))
          })
        )
        assert.deepStrictEqual([yield* read(a), yield* read(b)], [1n, 3n])
      })
    )

    it.effect("undoes a nested transaction that has succeeded when the outer one fails", () =>
      Effect.gen(function* () {
        const a = fresh()
        yield* Effect.exit(transaction(Effect.andThen(transaction(write(a, 1n)), Effect.fail("outer"))))
        assert.strictEqual(yield* read(a), -1n)
      })
    )

    it.effect("shares the transaction with the fibers it forks", () =>
      Effect.gen(function* () {
        const a = fresh()
        const shards = Array.from({ length: 10 }, (_, shard) => shard)
        const body = Effect.forEach(shards, (shard) => write(a, 1n, shard), { concurrency: "unbounded" })
        yield* Effect.exit(transaction(Effect.andThen(body, Effect.fail("no"))))
        assert.deepStrictEqual(
          yield* Effect.forEach(shards, (shard) => read(a, shard)),
          shards.map(() => -1n)
        )
        yield* transaction(body)
        assert.deepStrictEqual(
          yield* Effect.forEach(shards, (shard) => read(a, shard)),
          shards.map(() => 1n)
        )
      })
    )

    it.effect("leaves alone a child that it forked, once it has ended", () =>
      Effect.gen(function* () {
        const end = yield* Deferred.make<string>()
        const child = yield* transaction(Effect.forkChild(Deferred.await(end), { startImmediately: true }))
        yield* Deferred.succeed(end, "still there")
        assert.strictEqual(yield* Fiber.join(child), "still there")
      })
    )

    it.effect("runs afterCommit at once outside of a transaction, in order after the commit inside", () =>
      Effect.gen(function* () {
        const a = fresh()
        const seen = yield* Ref.make<ReadonlyArray<string>>([])
        const store = yield* OffsetStore
        const note = (what: string) =>
          afterCommit(
            Effect.gen(function* () {
              // It runs on a connection of its own, and sees what has been committed.
              const stored = yield* store.getCurrentOffset({ projectionName: a, shardNumber: 0 })
              const value = Option.map(stored, (offset) => offset.value)
              yield* Ref.update(seen, (all) => [...all, `${what} ${Option.getOrElse(value, () => "nothing")}`])
            }).pipe(Effect.orDie)
          )
        yield* note("outside")
        assert.deepStrictEqual(yield* Ref.get(seen), ["outside nothing"])
        yield* transaction(
          Effect.gen(function* () {
            yield* note("first")
            yield* Effect.exit(transaction(Effect.andThen(note("undone"), Effect.fail("inner"))))
            yield* transaction(note("nested"))
            yield* write(a, 1n)
            yield* note("last")
            assert.deepStrictEqual(yield* Ref.get(seen), ["outside nothing"])
          })
        )
        const committed = ["outside nothing", "first 1", "nested 1", "last 1"]
        assert.deepStrictEqual(yield* Ref.get(seen), committed)
        yield* Effect.exit(transaction(Effect.andThen(note("rolled back"), Effect.fail("outer"))))
        assert.deepStrictEqual(yield* Ref.get(seen), committed)
      })
    )

    it.effect("runs a transaction inside afterCommit", () =>
      Effect.gen(function* () {
        const a = fresh()
        const { afterCommit } = yield* Transactor
        yield* transaction(Effect.andThen(write(a, 1n), afterCommit(Effect.orDie(transaction(write(a, 2n))))))
        assert.strictEqual(yield* read(a), 2n)
      })
    )

    if (!interleaving) return

    it.effect("shows no other transaction what is not committed", () =>
      Effect.gen(function* () {
        const [a, b] = [fresh(), fresh()]
        yield* write(b, 1n)
        const held = yield* open(Effect.andThen(write(a, 1n), write(b, 2n)))
        assert.deepStrictEqual([yield* read(a), yield* read(b)], [-1n, 1n])
        yield* transaction(
          Effect.gen(function* () {
            assert.deepStrictEqual([yield* read(a), yield* read(b)], [-1n, 1n])
            yield* held.commit
            // At READ COMMITTED the next statement sees what was committed.
            assert.deepStrictEqual([yield* read(a), yield* read(b)], [1n, 2n])
          })
        )
      })
    )

    it.effect("lets transactions that touch different rows pass each other", () =>
      Effect.gen(function* () {
        const [a, b] = [fresh(), fresh()]
        const held = yield* open(write(a, 1n))
        yield* transaction(write(b, 1n))
        assert.strictEqual(yield* read(b), 1n)
        yield* held.rollback
        assert.strictEqual(yield* read(a), -1n)
      })
    )

    it.effect("makes a second writer of a row wait for the first, and see what that committed", () =>
      Effect.gen(function* () {
        const offsets = yield* OffsetStore
        const id = { projectionName: fresh(), shardNumber: 0 }
        yield* write(id.projectionName, 1n)
        for (const from of [1n, 2n]) {
          const held = yield* open(write(id.projectionName, from + 1n))
          const second = yield* Effect.forkChild(
            Effect.exit(offsets.advanceOffset(id, { from: Option.some(from), to: 100n })),
            { startImmediately: true }
          )
          yield* held.commit
          const exit = yield* Fiber.join(second)
          const error = Option.getOrThrow(Exit.findErrorOption(exit))
          assert.strictEqual(error._tag === "OffsetConflict" ? Option.getOrNull(error.actual) : error, from + 1n)
        }
      })
    )

    it.effect("makes a writer see the row that took the place of the one that it waited for", () =>
      Effect.gen(function* () {
        const offsets = yield* OffsetStore
        const id = { projectionName: fresh(), shardNumber: 0 }
        for (const [from, result] of [
          [1n, "has 2"],
          [2n, "moved to 3"]
        ] as const) {
          yield* write(id.projectionName, 1n)
          const replace = Effect.andThen(offsets.deleteOffsets(id.projectionName), write(id.projectionName, 2n))
          const held = yield* open(replace)
          const second = offsets.advanceOffset(id, { from: Option.some(from), to: 3n }).pipe(
            Effect.map(({ value }) => `moved to ${value}`),
            Effect.catchTag("OffsetConflict", ({ actual }) => Effect.succeed(`has ${Option.getOrNull(actual)}`))
          )
          const fiber = yield* Effect.forkChild(second, { startImmediately: true })
          yield* held.commit
          assert.strictEqual(yield* Fiber.join(fiber), result)
        }
      })
    )

    it.effect("gives the row on when the first writer rolls back, or only its savepoint", () =>
      Effect.gen(function* () {
        const a = fresh()
        const held = yield* open(write(a, 1n))
        const second = yield* Effect.forkChild(write(a, 2n), { startImmediately: true })
        yield* held.rollback
        yield* Fiber.join(second)
        assert.strictEqual(yield* read(a), 2n)

        const nested = Effect.exit(transaction(Effect.andThen(write(a, 3n), Effect.fail("inner"))))
        const holding = yield* open(nested)
        yield* write(a, 4n)
        yield* holding.commit
        assert.strictEqual(yield* read(a), 4n)
      })
    )

    /**
     * Runs two transactions that each hold a row and then want the other's, as `want` says. Returns how they ended, and what
     * the two rows are afterwards.
     */
    const deadlock = <E>(want: (row: string, value: bigint) => Effect.Effect<void, E, OffsetStore | Transactor>) =>
      Effect.gen(function* () {
        const [a, b] = [fresh(), fresh()]
        const both = yield* Latch.make()
        const holding = yield* Ref.make(0)
        const contender = (first: string, second: string, value: bigint) =>
          write(first, value).pipe(
            Effect.andThen(Ref.updateAndGet(holding, (count) => count + 1)),
            Effect.andThen((count) => (count === 2 ? both.open : both.await)),
            Effect.andThen(want(second, value)),
            transaction,
            Effect.exit
          )
        const exits = yield* Effect.all([contender(a, b, 1n), contender(b, a, 2n)], { concurrency: 2 })
        return { exits, rows: [yield* read(a), yield* read(b)] }
      })

    it.effect("ends one of two transactions that wait for each other with Contention, and lets the other go on", () =>
      Effect.gen(function* () {
        const { exits, rows } = yield* deadlock(write)
        const won = exits[0] !== undefined && Exit.isSuccess(exits[0]) ? 1n : 2n
        assert.deepStrictEqual(exits.flatMap(reasonOf), ["Contention"])
        assert.deepStrictEqual(rows, [won, won])
      })
    )

    it.effect("cannot commit after a StoreError, even if that was caught", () =>
      Effect.gen(function* () {
        const after: Array<string> = []
        const { exits, rows } = yield* deadlock((row, value) =>
          Effect.catchTag(write(row, value), "StoreError", () =>
            Effect.gen(function* () {
              after.push(...reasonOf(yield* Effect.exit(write(fresh(), value))))
              after.push(...reasonOf(yield* Effect.exit(transaction(write(fresh(), value)))))
            })
          )
        )
        const won = exits[0] !== undefined && Exit.isSuccess(exits[0]) ? 1n : 2n
        assert.deepStrictEqual(after, ["Unexpected", "Unexpected"])
        assert.deepStrictEqual(exits.flatMap(reasonOf), ["Unexpected"])
        assert.deepStrictEqual(rows, [won, won])
      })
    )

    it.effect("goes on after a StoreError in a nested transaction", () =>
      Effect.gen(function* () {
        const caught: Array<string> = []
        const { exits, rows } = yield* deadlock((row, value) =>
          Effect.gen(function* () {
            const exit = yield* Effect.exit(transaction(write(row, value)))
            caught.push(...reasonOf(exit))
          })
        )
        assert.deepStrictEqual(caught, ["Contention"])
        assert.deepStrictEqual(exits.flatMap(reasonOf), [])
        // The loser committed its own row first; the winner had waited for that commit, and overwrote the row.
        assert.strictEqual(rows[0], rows[1])
      })
    )
  })
}

/** How a transaction ended, whichever fiber it was. */
const endingOf = (exit: Exit.Exit<unknown, unknown>) =>
  Exit.isSuccess(exit)
    ? []
    : exit.cause.reasons.map((reason) =>
        Cause.isFailReason(reason)
          ? `failed: ${String(reason.error)}`
          : Cause.isDieReason(reason)
            ? `died: ${String(reason.defect)}`
            : "interrupted"
      )

const reasonOf = (exit: Exit.Exit<unknown, unknown>): ReadonlyArray<string> =>
  Option.match(Exit.findErrorOption(exit), {
    onNone: () => [],
    onSome: (error) => [error instanceof StoreError ? error.reason._tag : String(error)]
  })
