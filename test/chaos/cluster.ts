/** The server that has the log, and standbys that take its place. */
import { Effect, Exit, Schedule, Scope, Semaphore } from "effect"
import { execute, withConnection } from "../support/connection.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import * as Proxy from "../support/Proxy.ts"
import { standbyOf } from "../support/Replicas.ts"

type Server = PostgresServer.PostgresServer

// Few connections, so that they can be used up.
const settings = { max_connections: "80" }

/** For statements that have to be done, whatever else goes on: a server may be full, or kill its backends. */
const persistently = Effect.retry(Schedule.spaced("200 millis"))

const set = (server: Server, setting: string) =>
  persistently(execute(server.url, [`ALTER SYSTEM ${setting}`, "SELECT FROM pg_reload_conf()"]))

/** Asks until the answer is yes. */
const until = (server: Server, condition: string) =>
  withConnection(server.url, (sql) =>
    Effect.repeat(sql.unsafe(`SELECT 1 WHERE ${condition}`).values, {
      until: ({ length }) => length > 0,
      schedule: Schedule.spaced("20 millis")
    })
  )

/** Lets commits wait for the standby. Returns when the standby has all that was committed, and will have the rest. */
const synchronise = Effect.fnUntraced(function* (primary: Server) {
  const commit = persistently(
    execute(primary.url, ["SELECT FROM pg_logical_emit_message(true, 'chaos', 'a commit that waits')"])
  )
  // Nobody can answer these, so none is left that does not wait, once one of them does.
  yield* set(primary, "SET synchronous_standby_names = 'nobody'")
  const waits = until(primary, "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')")
  yield* Effect.raceFirst(Effect.forever(commit), waits)
  yield* set(primary, "SET synchronous_standby_names = '*'")
  yield* commit
})

const promote = (standby: Server) =>
  persistently(
    execute(standby.url, ["SELECT FROM pg_promote(true, 600) WHERE pg_is_in_recovery()"]).pipe(
      Effect.andThen(until(standby, "NOT pg_is_in_recovery()"))
    )
  )

export const make = Effect.gen(function* () {
  const scope = yield* Effect.scope
  /** Servers that are replaced are thrown away before the end of the run. */
  const begin = <E>(making: Effect.Effect<Server, E, Scope.Scope>) =>
    Effect.gen(function* () {
      const own = yield* Scope.fork(scope)
      const server = yield* Scope.provide(making, own)
      return { server, discard: Scope.close(own, Exit.void) }
    })

  let current = yield* begin(PostgresServer.make({ settings }))
  const proxy = yield* Proxy.make({ host: "127.0.0.1", port: current.server.port })
  const serving = yield* Semaphore.make(1)

  /**
   * Replaces the server by a standby. If `follow` fails, the server stays. `move` has the address moved to the standby by
   * `take`, and promotes it.
   */
  const replace = <A, E, E2>(
    follow: (primary: Server, standby: Server) => Effect.Effect<unknown, E>,
    move: (primary: Server, standby: Server, take: Effect.Effect<void>) => Effect.Effect<A, E2>
  ) =>
    Effect.gen(function* () {
      const [old, next] = [current, yield* begin(standbyOf(current.server, settings))]
      yield* follow(old.server, next.server).pipe(
        Effect.onError(() =>
          Effect.andThen(Effect.orDie(set(old.server, "RESET synchronous_standby_names")), next.discard)
        )
      )
      const take = Effect.suspend(() => {
        current = next
        return proxy.lead(next.server.port)
      })
      return yield* Effect.ensuring(move(old.server, next.server, take), old.discard)
    }).pipe(serving.withPermit)

  return {
    proxy,
    version: current.server.version,
    /** The DSN of the server that has the log now. */
    url: () => current.server.url,
    start: Effect.suspend(() => current.server.start),
    /** No other fault takes the server away meanwhile. */
    undisturbed: serving.withPermit,
    /** Takes the server down and starts it again after a time. */
    outage: (down: (server: Server) => Effect.Effect<void>, millis: number) =>
      Effect.suspend(() => {
        const { server } = current
        return Effect.andThen(Effect.andThen(down(server), Effect.sleep(millis)), server.start)
      }).pipe(serving.withPermit),
    /** Clients meet a standby that is not promoted yet. What was connected before stays with the primary for a while. */
    promoteLate: (millis: number) =>
      replace(
        synchronise,
        Effect.fnUntraced(function* (primary, standby, take) {
          yield* take
          yield* Effect.sleep(millis / 2)
          yield* primary.kill
          yield* Effect.sleep(millis / 2)
          yield* promote(standby)
        })
      ),
    /** Nobody answers for a while, though the standby is promoted. */
    promoteEarly: (millis: number) =>
      replace(
        synchronise,
        Effect.fnUntraced(function* (primary, standby, take) {
          yield* primary.kill
          yield* promote(standby)
          yield* Effect.sleep(millis)
          yield* take
        })
      ),
    /**
     * Promotes a standby that has not got what was committed during `alone`. Gives what `read` gives on both servers: where
     * clients go on, and what the other server had at its end.
     */
    setBack: <A, E, E2>(alone: Effect.Effect<unknown, E>, read: (url: string) => Effect.Effect<A, E2>) =>
      replace(
        Effect.fnUntraced(function* (primary, standby) {
          yield* set(standby, "SET primary_conninfo = ''")
          yield* until(primary, "NOT EXISTS (SELECT FROM pg_stat_replication)")
          yield* alone
        }),
        Effect.fnUntraced(function* (primary, standby, take) {
          yield* primary.kill
          yield* promote(standby)
          const now = yield* read(standby.url)
          yield* take
          yield* primary.start
          return { now, before: yield* read(primary.url) }
        })
      )
  }
})

export type Cluster = Effect.Success<typeof make>
