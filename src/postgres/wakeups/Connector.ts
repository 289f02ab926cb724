/**
 * Keeps one connection open while a reader listens: opens the next one after each loss, as the reconnect schedule says.
 *
 * **Details**
 *
 * A connection that was of use once is opened again at once, and the schedule starts anew.
 */
import {
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Option,
  RcRef,
  Schedule,
  Schema,
  type Scope,
  SubscriptionRef
} from "effect"
import type { ListenerStatus } from "../../EventStore.ts"
import * as Outage from "../../internal/Outage.ts"
import { onRealClock } from "../../internal/RealTime.ts"
import { isPassing, transientDelays } from "../../internal/Transient.ts"
import { type Reason, Unexpected } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import { PostgresDatabase, type Query } from "../database/PostgresDatabase.ts"
import * as ListeningConnection from "./ListeningConnection.ts"
import { channel, type Notifier, type Table, tables } from "./Notifications.ts"

/** How often it is asked, at most, whether a notification has arrived on the connection that listens. */
const mostLooks = 5

const lookInterval = Duration.millis(200)

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

/**
 * How many notifications have to arrive, one after the other. A pooler in transaction mode passes one on by chance, if it comes just
 * while the connection runs a statement on that backend which has run its LISTEN.
 */
const neededArrivals = 3

/** A notification that has to arrive. */
interface Probe {
  readonly payload: string
  readonly arrived: Deferred.Deferred<void>
}

const makeProbe = (): Probe => ({ payload: `check ${crypto.randomUUID()}`, arrived: Deferred.makeUnsafe<void>() })

/**
 * Whether what is notified through the pool arrives on the connection that listens. If it does not, a warning says so, once
 * in a layer, and all readers are woken: from now on they have to look.
 */
const makeDeliveryCheck = Effect.fnUntraced(function* (wake: (table: Table) => void) {
  const { query, sql } = yield* PostgresDatabase
  let isHeard: boolean | undefined
  let isWarned = false

  /** Whether a notification arrives. Undefined if the connection is lost, or none can be sent. */
  const arrives = Effect.fnUntraced(function* (
    connection: Pick<Connected, "query" | "lost">,
    { arrived, payload }: Probe
  ) {
    const sent = yield* query(sql`SELECT pg_notify(${channel}, ${payload})`).pipe(
      Effect.retry({ schedule: Schedule.spaced("1 second"), while: ({ isRetryable }) => isRetryable }),
      Effect.option
    )
    if (Option.isNone(sent)) return undefined
    for (let look = 0; look <= mostLooks; look++) {
      if (look > 0) {
        // What was notified before comes before the answer. So a process that is too busy to read takes longer, and is not deaf.
        const answer = yield* Effect.exit(
          Effect.tapError(connection.query(sql`SELECT 1`), (reason) => Deferred.fail(connection.lost, reason))
        )
        if (Exit.isFailure(answer)) return undefined
      }
      if (Option.isSome(yield* Effect.timeoutOption(Deferred.await(arrived), lookInterval))) return true
    }
    return false
  })

  /** Looks until it is known. `next` gives the notification that has to arrive next. */
  const check = Effect.fnUntraced(function* (
    connection: Pick<Connected, "query" | "lost">,
    next: Effect.Effect<Probe>
  ) {
    let hasArrived: boolean | undefined = true
    for (let count = 0; count < neededArrivals && hasArrived; count++) {
      hasArrived = yield* Effect.flatMap(next, (probe) => arrives(connection, probe))
    }
    if (hasArrived === undefined) return
    isHeard = hasArrived
    if (isHeard) return
    tables.forEach(wake)
    if (isWarned) return
    isWarned = true
    yield* Effect.logWarning(
      "notifications do not arrive (behind a pooler in transaction mode they cannot): new events and messages are found by " +
        "looking for them, once a second while there are some; to hear of them at once, connect to the server directly, or " +
        "let the option listen name a connection that does"
    )
  })

  return {
    /** Whether it is known that no notification arrives. */
    isDeaf: () => isHeard === false,
    /** Whether it is known that notifications arrive. */
    isHeard: () => isHeard === true,
    /** Begins the check of a connection. Returns what to do with what arrives. */
    begin: Effect.fnUntraced(function* (connection: Pick<Connected, "query" | "lost">) {
      let probe = makeProbe()
      const next = Effect.sync(() => (probe = makeProbe()))
      yield* Effect.forkScoped(check(connection, next))
      return ({ isMore, payloads }: ListeningConnection.Heard) => {
        // Where there were too many, this one may have been dropped. That others arrive says as much.
        if (isMore || payloads.has(probe.payload)) Deferred.doneUnsafe(probe.arrived, Effect.void)
      }
    })
  }
})

/** Names a database, of all servers there are. */
const Identity = Schema.Struct({ id: Schema.String })

const elsewhere = new Unexpected({
  message: "the connection that the option listen names leads to another database than the pool: give both the same one"
})

/** Fails where the connection that listens leads to another database than the pool. */
const makeIdentityCheck = Effect.gen(function* () {
  const { listen, query, sql } = yield* PostgresDatabase
  const decode = decodeRows(Identity, "pg_database", [])
  const identity = sql`
    SELECT system_identifier::text || '/' || oid::text AS id FROM pg_control_system(), pg_database WHERE datname = current_database()`
  const identityBy = (run: Query) => Effect.map(Effect.flatMap(run(identity), decode), ([row]) => row?.id)

  return Effect.fnUntraced(function* (connection: Pick<Connected, "query">) {
    if (listen === undefined) return
    if ((yield* identityBy(query)) !== (yield* identityBy(connection.query))) return yield* elsewhere
  })
})

const isOid = /^\d{1,10}$/

/** How many tables of others are remembered. Where so many have been heard of, no other table is looked for. */
const mostForeign = 1000

const Named = Schema.Struct({ name: Schema.String, oid: Schema.NullOr(Schema.String) })

/**
 * Opens connections that call `wake` for each notification of another process, or of go-sync-kit's trigger, and says when
 * each is lost.
 */
const makeHearing = Effect.fnUntraced(function* (wake: (table: Table) => void, { sender }: Notifier) {
  const { names, schema, sql } = yield* PostgresDatabase
  const { open } = yield* ListeningConnection.make
  const delivery = yield* makeDeliveryCheck(wake)
  const checkIdentity = yield* makeIdentityCheck
  const decodeNamed = decodeRows(Named, "pg_class", [])
  const qualified = tables.map((table) => qualify(schema, names[table]))

  const hearing = Effect.gen(function* () {
    const connection = yield* open
    yield* checkIdentity(connection)
    const nameTables = Effect.map(
      Effect.flatMap(
        connection.query(
          sql`SELECT name, to_regclass(name)::oid::text AS oid FROM pg_catalog.unnest(${qualified}::text[]) AS name`
        ),
        decodeNamed
      ),
      (found) => new Map(found.map(({ oid }, index) => [oid, tables[index]]))
    )
    let byOid = yield* nameTables
    const foreign = new Set<string>()

    /** Finds the tables of other oids: one of ours has another oid once it is divided into partitions, or restored. */
    const meet = (oids: ReadonlyArray<string>) =>
      Effect.map(nameTables, (found) => {
        byOid = found
        for (const oid of oids) {
          const table = found.get(oid)
          if (table === undefined) foreign.add(oid)
          else wake(table)
        }
      })

    const lost = Deferred.makeUnsafe<never, Reason>()
    const arrives = yield* delivery.begin({ query: connection.query, lost })
    yield* connection.heard.pipe(
      Effect.tap((heard) =>
        Effect.suspend(() => {
          arrives(heard)
          const unknown: Array<string> = []
          for (const payload of heard.payloads) {
            const [oid = "", from] = payload.split(" ")
            const table = byOid.get(oid)
            if (table === undefined) {
              if (isOid.test(oid) && !foreign.has(oid) && foreign.size < mostForeign) unknown.push(oid)
            } else if (from !== sender) wake(table)
          }
          if (heard.isMore) tables.forEach(wake)
          return unknown.length === 0 ? Effect.void : meet(unknown)
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
  return { hearing, isDeaf: delivery.isDeaf, isHeard: delivery.isHeard }
})

/**
 * Returns the connector that all readers share, open while there is one, its status, and whether it is known that
 * notifications arrive, or that none does.
 */
export const make = Effect.fnUntraced(function* (wake: (table: Table) => void, notifier: Notifier) {
  const { reconnect } = yield* PostgresDatabase
  const { hearing, isDeaf, isHeard } = yield* makeHearing(wake, notifier)
  const status = yield* SubscriptionRef.make<ListenerStatus>("stopped")
  // The connector runs in the context of the layer, not in that of the reader that comes first.
  const context = yield* Effect.context<never>()

  const acquire = Effect.gen(function* () {
    let current = Deferred.makeUnsafe<Connected, Reason>()
    let hasEnded = false
    let count = 0
    const outage = Outage.make({
      waits: "new events and messages are not heard of",
      next: `connecting again ${reconnect === transientDelays ? "within a second, until it succeeds" : "as the option reconnect says"}`,
      over: "new events and messages are heard of again"
    })

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
          yield* outage.warn(reason)
          if (!wasUsed() || !reason.isRetryable) return yield* reason
        })
      )

    const connect = Effect.gen(function* () {
      const { lost, query } = yield* Effect.tapError(hearing, (reason) =>
        isPassing(reason) ? outage.warn(reason) : Effect.void
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
      yield* outage.end
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
      Effect.sync(() => Effect.runForkWith(context)(onRealClock(run))),
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
  return { connector, isDeaf, isHeard, status }
})
