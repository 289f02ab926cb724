/**
 * How the readers of a table hear, in every process, that there is something new in it.
 *
 * A wake-up is a hint: the table is the truth, and who waits for wake-ups looks by itself now and then. One can be lost:
 * when a process ends between its commit and the wake-up, when the listener's connection is lost, behind a pooler that does
 * not pass it on.
 *
 * **Details**
 *
 * A transaction that runs NOTIFY takes a lock of the whole instance for its commit: 23k commits/s became 7.7k. So nothing
 * is notified in the transaction: after its commit readers in this process are woken at once, and those in others by an
 * empty notification of a transaction of its own, at most one every few milliseconds. All listening is done on one
 * connection, which is there while somebody listens.
 */
import {
  Context,
  Deferred,
  Duration,
  Effect,
  Fiber,
  Latch,
  Layer,
  Option,
  Queue,
  RcRef,
  Schedule,
  Schema
} from "effect"
import { type Scope, Stream, SubscriptionRef } from "effect"
import type { ListenerStatus } from "../../EventStore.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import { PostgresDatabase, type Query } from "../database/PostgresDatabase.ts"
import * as ListeningConnection from "./ListeningConnection.ts"

/** The tables whose readers are woken. */
type Table = "events" | "offsets" | "spool"

/** The time between two notifications of a process. */
const interval = Duration.millis(5)

/** How long to wait for the end of one notification before the next, if it has not ended by then. */
const patience = "1 second"

/** How long to hear nothing before asking whether the connection still lives. */
const heartbeat = "1 minute"

/** What a reader has to hear with: as long as the connection lasts. */
export interface Ear {
  /** Runs a statement on the connection that listens. Its failure is the end of that connection. */
  readonly query: Query
  /** Waits for a wake-up, but not longer than this; one that has come since the last wait counts. Says whether it came. */
  readonly wait: (atMost: Duration.Input) => Effect.Effect<Option.Option<void>>
  /** Whether a connection has been lost, or could not be had, since the reader ran last or first wanted to. */
  readonly again: boolean
}

export class Wakeups extends Context.Service<
  Wakeups,
  {
    /** Wakes all readers of the table, at once and without waiting for anything. For after the commit. */
    readonly announce: (table: Table) => void

    /**
     * Runs the reader on a connection that listens, from its start again on the next one after each loss, until the
     * reconnect schedule ends. Begins listening before the reader runs, so nothing falls between its reading and its
     * waiting.
     */
    readonly listen: (
      table: Table,
      reader: (ear: Ear) => Effect.Effect<never, Reason>
    ) => Effect.Effect<never, Reason, Scope.Scope>

    /** Emits once it listens, again after each loss of the connection, and whenever the table is announced. */
    readonly changes: (table: Table) => Stream.Stream<void, Reason>

    readonly status: SubscriptionRef.SubscriptionRef<ListenerStatus>
  }
>()("effect-strata/postgres/Wakeups") {}

const Named = Schema.Struct({ name: Schema.String, oid: Schema.NullOr(Schema.String) })

/** One connection, from its opening to its loss. */
interface Epoch {
  readonly query: Query
  readonly lost: Deferred.Deferred<never, Reason>
  /** How many there were before it, those included that were never open. */
  readonly before: number
}

/** Keeps a connection open while somebody listens. */
interface Connector {
  /** The connection there is, or the next one, or why there will be none. */
  readonly epoch: Effect.Effect<Epoch, Reason>
  /** How many connections there have been. */
  readonly count: () => number
}

const make = Effect.gen(function* () {
  const { fixed, names, query, reconnect, schema, sql } = yield* PostgresDatabase
  const { open } = yield* ListeningConnection.make
  // What readers share runs in the context of the layer, not in that of whoever comes first.
  const context = yield* Effect.context<never>()
  const status = yield* SubscriptionRef.make<ListenerStatus>("stopped")
  const decodeNamed = decodeRows(Named, "pg_class", [])
  const tables: ReadonlyArray<Table> = ["events", "offsets", "spool"]
  const nameOf = (table: Table) => qualify(schema, names[table])

  const signals = new Map(tables.map((table) => [table, new Set<Latch.Latch>()]))
  const wake = (table: Table) => {
    for (const signal of signals.get(table) ?? []) signal.openUnsafe()
  }

  // Announcing

  // Who hears his own notification has been woken before it was sent.
  const self = crypto.randomUUID()
  const unsaid = new Set<Table>()
  const due = yield* Latch.make()

  const notify = Effect.suspend(() => {
    const announced = [...unsaid].map(nameOf)
    unsaid.clear()
    due.closeUnsafe()
    return Effect.ignore(
      query(fixed`
        SELECT pg_notify(${ListeningConnection.channel}, name::regclass::oid || ${` ${self}`}) FROM unnest(${announced}::text[]) AS name`),
      { log: "Debug" }
    )
  })

  yield* Effect.addFinalizer(() =>
    Effect.suspend(() => (unsaid.size === 0 ? Effect.void : Effect.timeoutOption(notify, "1 second")))
  )
  yield* due.await.pipe(
    // Apart, as one that is sent on a dead connection waits for its answer: the next ones go on others.
    Effect.andThen(Effect.forkDetach(notify, { startImmediately: true })),
    Effect.tap(Effect.sleep(interval)),
    Effect.flatMap((fiber) =>
      fiber.pollUnsafe() === undefined ? Effect.timeoutOption(Fiber.await(fiber), patience) : Effect.void
    ),
    Effect.forever,
    Effect.forkScoped
  )

  // Listening

  let verified = false
  /** Whether what is notified through the pool arrives here: not behind a pooler that lends connections by transaction. */
  const verify = Effect.fnUntraced(function* (token: string, arrived: Deferred.Deferred<void>) {
    const sent = yield* query(sql`SELECT pg_notify(${ListeningConnection.channel}, ${token})`).pipe(
      Effect.retry({ schedule: Schedule.spaced("1 second"), while: ({ isRetryable }) => isRetryable }),
      Effect.option
    )
    if (Option.isNone(sent)) return
    const arrival = yield* Effect.timeoutOption(Deferred.await(arrived), "5 seconds")
    if (verified) return
    verified = true
    if (Option.isSome(arrival)) return
    yield* Effect.logWarning(
      "notifications do not arrive (behind a pooler in transaction mode they cannot): " +
        "new events are found by looking for them once a second; connect to the server directly to hear of them at once"
    )
  })

  const connectors: RcRef.RcRef<Connector> = yield* RcRef.make({
    acquire: Effect.gen(function* () {
      let current = Deferred.makeUnsafe<Epoch, Reason>()
      let ended = false
      let count = 0

      const connection = Effect.gen(function* () {
        const line = yield* open
        const found = yield* Effect.flatMap(
          line.query(
            sql`SELECT name, to_regclass(name)::oid::text AS oid FROM unnest(${tables.map(nameOf)}::text[]) AS name`
          ),
          decodeNamed
        )
        const byOid = new Map(found.map(({ oid }, index) => [oid, tables[index]]))
        const lost = Deferred.makeUnsafe<never, Reason>()
        const token = `check ${crypto.randomUUID()}`
        const arrived = Deferred.makeUnsafe<void>()
        yield* line.heard.pipe(
          Effect.tap(({ payload }) =>
            Effect.sync(() => {
              const [oid = "", from] = payload.split(" ")
              const table = byOid.get(oid)
              if (table !== undefined && from !== self) wake(table)
              else if (payload === token) Deferred.doneUnsafe(arrived, Effect.void)
            })
          ),
          Effect.forever,
          Effect.tapError((reason) => Deferred.fail(lost, reason)),
          Effect.ignore,
          Effect.forkScoped
        )
        if (!verified) yield* Effect.forkScoped(verify(token, arrived))

        let worked = false
        const epoch: Epoch = {
          lost,
          before: count,
          query: (statement) =>
            Effect.tap(line.query(statement), () =>
              Effect.sync(() => {
                worked = true
              })
            )
        }
        yield* SubscriptionRef.set(status, "connected")
        yield* Deferred.succeed(current, epoch)
        return yield* Effect.catch(Deferred.await(lost), (reason: Reason) =>
          Effect.gen(function* () {
            current = Deferred.makeUnsafe()
            yield* SubscriptionRef.set(status, "reconnecting")
            yield* Effect.logWarning(`${reason.message}; connecting again`)
            // One that was of use once is opened again at once, and the schedule starts anew. But not for what would only
            // fail again: a table that is gone.
            if (!worked || !reason.isRetryable) return yield* reason
          })
        )
      }).pipe(Effect.scoped, Effect.ensuring(Effect.sync(() => count++)))

      const run = Effect.forever(
        Effect.retry(connection, { schedule: reconnect, while: ({ isRetryable }) => isRetryable })
      ).pipe(
        Effect.tapError((reason) =>
          Effect.gen(function* () {
            ended = true
            yield* RcRef.invalidate(connectors)
            yield* SubscriptionRef.set(status, "stopped")
            yield* Deferred.fail(current, reason)
          })
        )
      )

      yield* SubscriptionRef.set(status, "reconnecting")
      yield* Effect.acquireRelease(
        Effect.sync(() => Effect.runForkWith(context)(run)),
        (fiber) =>
          Effect.andThen(
            Fiber.interrupt(fiber),
            Effect.suspend(() => (ended ? Effect.void : SubscriptionRef.set(status, "stopped")))
          )
      )
      return { epoch: Effect.suspend(() => Deferred.await(current)), count: () => count }
    })
  })

  const listen = Effect.fnUntraced(function* (
    table: Table,
    reader: (ear: Ear) => Effect.Effect<never, Reason>
  ): Effect.fn.Return<never, Reason, Scope.Scope> {
    const { count, epoch } = yield* RcRef.get(connectors)
    let known = count()
    const signal = yield* Effect.acquireRelease(
      Effect.tap(Latch.make(), (latch) => Effect.sync(() => signals.get(table)?.add(latch))),
      (latch) => Effect.sync(() => signals.get(table)?.delete(latch))
    )
    const wait = (atMost: Duration.Input) =>
      Effect.tap(Effect.timeoutOption(signal.await, atMost), () => Effect.sync(() => signal.closeUnsafe()))
    return yield* Effect.forever(
      Effect.gen(function* () {
        const { before, lost, query } = yield* epoch
        const again = before > known
        known = before
        const reason = yield* Effect.flip(Effect.raceFirst(reader({ query, wait, again }), Deferred.await(lost)))
        yield* Deferred.fail(lost, reason)
      })
    )
  })

  const changes = (table: Table) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const queue = yield* Queue.sliding<void, Reason>(1)
        const tell = Effect.asVoid(Queue.offer(queue, undefined))
        const reader = ({ query, wait }: Ear) =>
          Effect.andThen(
            tell,
            Effect.forever(
              Effect.flatMap(wait(heartbeat), (woken) =>
                Option.isSome(woken) ? tell : Effect.asVoid(query(sql`SELECT 1`))
              )
            )
          )
        yield* listen(table, reader).pipe(
          Effect.catch((reason: Reason) => Queue.fail(queue, reason)),
          Effect.forkScoped
        )
        return Stream.fromQueue(queue)
      })
    )

  const announce = (table: Table) => {
    wake(table)
    unsaid.add(table)
    due.openUnsafe()
  }

  return Wakeups.of({ status, listen, changes, announce })
})

export const layer: Layer.Layer<Wakeups, never, PostgresDatabase> = Layer.effect(Wakeups, make)
