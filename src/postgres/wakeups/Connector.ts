/**
 * Keeps one connection open while a reader listens: opens the next one after each loss, as the reconnect schedule says.
 *
 * **Details**
 *
 * A connection that was of use once is opened again at once, and the schedule starts anew.
 */
import { Deferred, Duration, Effect, Fiber, Option, RcRef, Schedule, Schema, type Scope, SubscriptionRef } from "effect"
import type { ListenerStatus } from "../../EventStore.ts"
import { isPassing, makeOutage } from "../../internal/Transient.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import { PostgresDatabase, type Query } from "../database/PostgresDatabase.ts"
import * as ListeningConnection from "./ListeningConnection.ts"
import { channel, type Notifier, type Table, tables } from "./Notifications.ts"

/** How long a notification may take from the pool to the connection that listens. */
const maxDelivery = Duration.seconds(5)

/** One connection, from its opening to its loss. */
export interface Connected {
  readonly query: Query
  /** Fails when the connection is lost. Failing it gives the connection up. */
  readonly lost: Deferred.Deferred<never, Reason>
  /** How many connections there were before it, those included that were never open. */
  readonly before: number
}

export interface Connector {
  /** The connection there is, or the next one, or why there will be none. */
  readonly connected: Effect.Effect<Connected, Reason>
  /** How many connections there have been. */
  readonly count: () => number
}

/** Warns, once in a layer, if what is notified through the pool does not arrive on the connection that listens. */
const makeDeliveryCheck = Effect.gen(function* () {
  const { query, sql } = yield* PostgresDatabase
  let isDone = false

  const check = Effect.fnUntraced(function* (payload: string, arrived: Deferred.Deferred<void>) {
    const sent = yield* query(sql`SELECT pg_notify(${channel}, ${payload})`).pipe(
      Effect.retry({ schedule: Schedule.spaced("1 second"), while: ({ isRetryable }) => isRetryable }),
      Effect.option
    )
    if (Option.isNone(sent)) return
    const arrival = yield* Effect.timeoutOption(Deferred.await(arrived), maxDelivery)
    if (isDone) return
    isDone = true
    if (Option.isSome(arrival)) return
    yield* Effect.logWarning(
      "notifications do not arrive (behind a pooler in transaction mode they cannot): " +
        "new events are found by looking for them once a second; connect to the server directly to hear of them at once"
    )
  })

  /** Begins the check. Returns what to do with each payload that arrives. */
  return Effect.gen(function* () {
    const payload = `check ${crypto.randomUUID()}`
    const arrived = Deferred.makeUnsafe<void>()
    if (!isDone) yield* Effect.forkScoped(check(payload, arrived))
    return (arriving: string) => {
      if (arriving === payload) Deferred.doneUnsafe(arrived, Effect.void)
    }
  })
})

const Named = Schema.Struct({ name: Schema.String, oid: Schema.NullOr(Schema.String) })

/**
 * Opens connections that call `wake` for each notification of another process, or of go-sync-kit's trigger, and says when
 * each is lost.
 */
const makeHearing = Effect.fnUntraced(function* (wake: (table: Table) => void, { sender }: Notifier) {
  const { names, schema, sql } = yield* PostgresDatabase
  const { open } = yield* ListeningConnection.make
  const beginDeliveryCheck = yield* makeDeliveryCheck
  const decodeNamed = decodeRows(Named, "pg_class", [])
  const qualified = tables.map((table) => qualify(schema, names[table]))

  return Effect.gen(function* () {
    const connection = yield* open
    const found = yield* Effect.flatMap(
      connection.query(
        sql`SELECT name, to_regclass(name)::oid::text AS oid FROM pg_catalog.unnest(${qualified}::text[]) AS name`
      ),
      decodeNamed
    )
    const byOid = new Map(found.map(({ oid }, index) => [oid, tables[index]]))
    const lost = Deferred.makeUnsafe<never, Reason>()
    const arrives = yield* beginDeliveryCheck
    yield* connection.heard.pipe(
      Effect.tap(({ payload }) =>
        Effect.sync(() => {
          const [oid = "", from] = payload.split(" ")
          const table = byOid.get(oid)
          if (table !== undefined && from !== sender) wake(table)
          else arrives(payload)
        })
      ),
      Effect.forever,
      Effect.tapError((reason) => Deferred.fail(lost, reason)),
      Effect.ignore,
      Effect.forkScoped
    )
    // The loop above tells of the loss of the connection. A row of another table than this layer's wakes for nothing.
    yield* connection.heardOfRows.pipe(
      Effect.tap(() => Effect.sync(() => wake("events"))),
      Effect.forever,
      Effect.ignore,
      Effect.forkScoped
    )
    return { query: connection.query, lost }
  })
})

/** Returns the connector that all readers share, open while there is one, and its status. */
export const make = Effect.fnUntraced(function* (wake: (table: Table) => void, notifier: Notifier) {
  const { reconnect } = yield* PostgresDatabase
  const hearing = yield* makeHearing(wake, notifier)
  const status = yield* SubscriptionRef.make<ListenerStatus>("stopped")
  // The connector runs in the context of the layer, not in that of the reader that comes first.
  const context = yield* Effect.context<never>()

  const acquire = Effect.gen(function* () {
    let current = Deferred.makeUnsafe<Connected, Reason>()
    let hasEnded = false
    let count = 0
    const outage = makeOutage()

    /**
     * Waits for the loss of a connection. It fails with the reason if the next connection would fail for the same reason, or
     * if this one was of no use: then the schedule goes on.
     */
    const untilLost = (lost: Deferred.Deferred<never, Reason>, wasUsed: () => boolean) =>
      Effect.catch(
        Deferred.await(lost),
        Effect.fnUntraced(function* (reason: Reason) {
          current = Deferred.makeUnsafe()
          yield* SubscriptionRef.set(status, "reconnecting")
          yield* Effect.logWarning(`${reason.message}; connecting again`)
          if (!wasUsed() || !reason.isRetryable) return yield* reason
        })
      )

    const connect = Effect.gen(function* () {
      const { lost, query } = yield* Effect.tapError(hearing, (reason) =>
        // The loss of a connection has been told. A standby is something else, and may last.
        isPassing(reason) && !reason.isRetryable
          ? outage.warn(reason, `${reason.message}; connecting again until it can`)
          : Effect.void
      )
      let isUsed = false
      const markUsed = Effect.sync(() => {
        isUsed = true
      })
      const connected: Connected = {
        lost,
        before: count,
        query: (statement) => Effect.tap(query(statement), () => markUsed)
      }
      outage.end()
      yield* SubscriptionRef.set(status, "connected")
      yield* Deferred.succeed(current, connected)
      yield* untilLost(lost, () => isUsed)
    }).pipe(Effect.scoped, Effect.ensuring(Effect.sync(() => count++)))

    const run = Effect.forever(Effect.retry(connect, { schedule: reconnect, while: isPassing })).pipe(
      Effect.tapError((reason) =>
        Effect.gen(function* () {
          hasEnded = true
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
          Effect.suspend(() => (hasEnded ? Effect.void : SubscriptionRef.set(status, "stopped")))
        )
    )
    const connector: Connector = { connected: Effect.suspend(() => Deferred.await(current)), count: () => count }
    return connector
  })

  const connectors: RcRef.RcRef<Connector> = yield* RcRef.make({ acquire })
  const connector: Effect.Effect<Connector, never, Scope.Scope> = RcRef.get(connectors)
  return { connector, status }
})
