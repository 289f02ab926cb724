/**
 * Notices connections that are silently dead: nothing arrives on them, and no end either. What waits for an answer there
 * would wait until TCP gives up, which takes 15 minutes.
 *
 * **Details**
 *
 * It watches each connection that the stores have ever used, not each statement: whether an answer is due, and how many bytes
 * have arrived, are known to the connection. So a statement costs nothing, and those of the application are watched, too,
 * once the connection has been the stores'. One fiber looks at them each second while there are any. It asks no server while
 * answers come. `Silence` decides.
 *
 * A connection that is lost is closed: what waits there fails with `Unavailable`, and the pool opens another one in its place.
 * Its backend is ended, where the role may end it, because a server does not notice for hours that nobody is there.
 *
 * **Gotchas**
 *
 * Behind a pooler the process id of a connection is the pooler's, and says nothing about a backend. There a connection is lost
 * only while the role has no other session that does something. Otherwise a statement waits: it may be a long one.
 *
 * Transactions and statements of the application are watched on connections that the stores have used before, and from their
 * first operation of a store. A transaction that the application begins by `SqlClient` on another connection, if that is silently
 * dead, waits for BEGIN until TCP gives up. `Transactor.withTransaction` does not.
 */
import type { PgClient } from "@effect/sql-pg"
import { Duration, Effect, Latch, type Scope } from "effect"
import { onRealClock } from "../../internal/RealTime.ts"
import { Unavailable } from "../../StoreError.ts"
import * as Backends from "./Backends.ts"
import * as Line from "./Line.ts"
import * as Silence from "./Silence.ts"

/** How often all connections are looked at. */
const lookInterval = Duration.seconds(1)

/** For how long to look for the backend of a connection that was lost while nobody could be reached. */
const orphanMillis = Duration.toMillis("10 minutes")

/** How long to wait before a server that could not be reached is asked for such backends again. */
const orphanPauseMillis = 5000

/** The machine's clock, not Effect's: a server answers in real time. */
const now = () => performance.now()

interface Watched {
  readonly line: Line.Line
  readonly noticedAt: number
  seen: Silence.Seen
  /** When it is last known to have waited for nothing, and how many bytes had been sent by then. */
  quietAt: number
  quietSent: number
  /** When its backend started, in the words of the server, once it has been asked for. */
  start: string | undefined
  isProbed: boolean
}

/** A backend whose connection was closed without a word to it. */
interface Orphan {
  readonly way: Line.Way
  readonly processId: number
  readonly start: string | undefined
  readonly noticedAt: number
  readonly closedAt: number
}

export interface Watch {
  /**
   * Watches the connection from now on, until it is closed. `quietAt` says that nothing is under way on it, by
   * `performance.now()`: then more can be told of the next statement.
   */
  readonly notice: (connection: unknown, quietAt?: number) => void
  /** The same for a connection on which everything only reads, and can read again on the next one. */
  readonly noticeReader: (connection: unknown) => void
}

const noteQuiet = (watched: Watched, at: number) => {
  watched.quietAt = at
  watched.quietSent = watched.line.sent?.() ?? 0
}

/** How many bytes are on their way. A statement that only reads is short. */
const sentSince = ({ line, quietSent, seen }: Watched): number => {
  if (line.sent !== undefined) return line.sent() - quietSent
  return seen.onlyReads ? 0 : Silence.unknownSentBytes
}

const sampleOf = (watched: Watched, at: number): Silence.Sample => ({
  at,
  received: watched.line.received(),
  isAwaiting: watched.line.isAwaiting(),
  quietAt: watched.quietAt,
  sentSince: sentSince(watched)
})

const unknown = "it is unknown whether the statement on its way took effect"

const messageOf = ({ line, start }: Watched, loss: Silence.Loss, isEnded: boolean): string => {
  const { processId } = line.connection
  switch (loss._tag) {
    case "Gone":
      return `a connection was silently dead: its backend ${processId} is gone, and no answer came; ${unknown}`
    case "Idle": {
      // Behind a pooler the process id is not that of a backend, and none has been found.
      const backend = `its backend${start === undefined ? "" : ` ${processId}`}${isEnded ? " (now ended)" : ""}`
      return loss.hasArrived
        ? `a connection was silently dead: ${backend} waited for the next statement, and no answer came; ${unknown}`
        : `a connection was silently dead: ${backend} had not got the statement when the connection was closed`
    }
    case "Untold":
      return `no answer came on a connection for 10 seconds, and nobody can tell what its backend does; ${unknown}`
    case "Unreachable":
      return `no answer came on a connection for 10 seconds, and no other connection reaches the server; ${unknown}`
  }
}

/** What leads to the same server. */
interface Place {
  readonly way: Line.Way
  readonly silent: Array<Watched>
  readonly orphans: Array<Orphan>
}

const placesOf = (silent: Iterable<Watched>, orphans: Iterable<Orphan>): Iterable<Place> => {
  const places = new Map<string, Place>()
  const placeOf = (way: Line.Way) => {
    const place = places.get(way.name) ?? { way, silent: [], orphans: [] }
    places.set(way.name, place)
    return place
  }
  for (const watched of silent) placeOf(watched.line.way).silent.push(watched)
  for (const orphan of orphans) placeOf(orphan.way).orphans.push(orphan)
  return places.values()
}

class Connections {
  readonly #sql: PgClient.PgClient
  readonly #present = Latch.makeUnsafe()
  readonly #watched = new Map<object, Watched>()
  readonly #orphans = new Set<Orphan>()
  #orphansNextAt = 0
  #isBlind = false
  #hasWarned = false

  constructor(sql: PgClient.PgClient) {
    this.#sql = sql
  }

  notice(given: unknown, onlyReads: boolean, quietAt?: number): void {
    const connection = Line.connectionOf(given)
    if (connection === undefined) return
    const known = this.#watched.get(connection)
    if (known !== undefined) return quietAt === undefined ? undefined : noteQuiet(known, quietAt)
    this.#present.openUnsafe()
    const line = Line.of(connection)
    this.#isBlind ||= line === undefined
    if (line === undefined || line.isClosed()) return
    const noticedAt = now()
    const first = { at: noticedAt, received: line.received(), isAwaiting: false, quietAt: noticedAt, sentSince: 0 }
    this.#watched.set(connection, {
      line,
      noticedAt,
      seen: Silence.begin(first, onlyReads),
      quietAt: noticedAt,
      quietSent: line.sent?.() ?? 0,
      start: undefined,
      isProbed: false
    })
  }

  /** Looks at all connections each second, for as long as there are any. */
  readonly run: Effect.Effect<never> = Effect.suspend(() =>
    this.#present.await.pipe(
      Effect.andThen(Effect.sleep(lookInterval)),
      Effect.andThen(
        Effect.suspend(() => this.#look()).pipe(
          Effect.ignoreCause({ log: "Warn", message: "connections could not be watched" })
        )
      ),
      Effect.andThen(
        Effect.sync(() => {
          if (this.#watched.size === 0 && this.#orphans.size === 0) this.#present.closeUnsafe()
        })
      ),
      Effect.forever
    )
  )

  /**
   * Forgets the connections that were closed since the last look. A listener on each socket would do so at once, but a pool can have
   * many layers, and a socket keeps its listeners for longer than a layer lasts.
   */
  #forgetClosed(): void {
    for (const [connection, watched] of this.#watched) {
      if (!watched.line.isClosed()) continue
      this.#watched.delete(connection)
      // A silent one that was not closed here: something else has lost patience with it.
      if (watched.seen.silentCount > 0) this.#abandon(watched)
    }
  }

  #look(): Effect.Effect<void> {
    const at = now()
    this.#forgetClosed()
    const silent: Array<Watched> = []
    for (const watched of this.#watched.values()) {
      if (!watched.line.isAwaiting()) noteQuiet(watched, at)
      watched.seen = Silence.see(watched.seen, sampleOf(watched, at))
      if (Silence.isDue(watched.seen, at)) silent.push(watched)
    }
    for (const orphan of this.#orphans) if (at - orphan.closedAt > orphanMillis) this.#orphans.delete(orphan)
    const places = placesOf(silent, at < this.#orphansNextAt ? [] : this.#orphans)
    const asking = Effect.forEach(places, (place) => this.#askAt(place), { concurrency: "unbounded", discard: true })
    return Effect.andThen(this.#warning, asking)
  }

  readonly #warning = Effect.suspend(() => {
    if (!this.#isBlind || this.#hasWarned) return Effect.void
    this.#hasWarned = true
    return Effect.logWarning(
      "this version of @effect/sql-pg does not show its sockets where effect-strata looks for them: connections that are " +
        "silently dead are not noticed; use the version that effect-strata names as its peer, or report it"
    )
  })

  #askAt({ orphans, silent, way }: Place): Effect.Effect<void> {
    return Effect.gen({ self: this }, function* () {
      const backends = yield* Backends.open(this.#sql.config, way)
      for (const watched of silent) yield* this.#ask(watched, backends)
      for (const orphan of orphans) yield* this.#endOrphan(orphan, backends)
    }).pipe(
      Effect.scoped,
      Effect.catch(({ isServerThere }) => {
        this.#orphansNextAt = now() + orphanPauseMillis
        const finding: Silence.Finding = { _tag: isServerThere ? "Untold" : "Unreachable" }
        return Effect.forEach(silent, (watched) => this.#judge(watched, finding), { discard: true })
      })
    )
  }

  #ask(watched: Watched, backends: Backends.Backends): Effect.Effect<void, Backends.NotAsked> {
    const { line, noticedAt, start } = watched
    const { processId } = line.connection
    return Effect.flatMap(backends.find({ processId, start, noticedMillisAgo: now() - noticedAt }), (found) => {
      watched.start = found.start ?? watched.start
      return this.#judge(watched, found.finding, backends)
    })
  }

  /** Takes in a finding about a connection, if it is still silent. */
  #judge(watched: Watched, finding: Silence.Finding, backends?: Backends.Backends): Effect.Effect<void> {
    const { line } = watched
    const sample = sampleOf(watched, now())
    if (line.isClosed() || !Silence.isSilent(watched.seen, sample)) return Effect.void
    const judged = Silence.judge(watched.seen, finding, sample)
    if (Silence.isLoss(judged)) return this.#lose(watched, judged, backends)
    watched.seen = judged
    return finding._tag === "Idle" ? this.#probeOthers : Effect.void
  }

  #lose(watched: Watched, loss: Silence.Loss, backends: Backends.Backends | undefined): Effect.Effect<void> {
    const { line, start } = watched
    const { connection } = line
    this.#watched.delete(connection)
    const canEnd = loss._tag === "Idle" && backends !== undefined && start !== undefined
    const ending = canEnd ? backends.end(connection.processId, start) : Effect.succeed(false)
    const close = (isEnded: boolean) => line.close(new Unavailable({ message: messageOf(watched, loss, isEnded) }))
    // The pool holds what is probed: it is closed before its backend is ended, so that no statement gets it in between.
    if (watched.isProbed) close(false)
    return Effect.gen({ self: this }, function* () {
      const isEnded = yield* ending
      // Where only the server knows the backend, the server is asked to cancel the statement.
      if (loss._tag === "Untold") yield* connection.interrupt
      if (loss._tag === "Unreachable") this.#abandon(watched)
      close(isEnded)
      yield* this.#probeOthers
    })
  }

  /** Asks something on all other connections: if they are dead as well, that is found out now, and not by the next statement. */
  readonly #probeOthers = Effect.suspend(() =>
    Effect.forEach(
      [...this.#watched.values()].filter(({ isProbed, line }) => !isProbed && !line.isAwaiting() && !line.isClosed()),
      (watched) => {
        watched.isProbed = true
        return watched.line.connection.query("SELECT 1", [], false).pipe(
          Effect.onExit(() =>
            Effect.sync(() => {
              watched.isProbed = false
            })
          ),
          Effect.ignore,
          Effect.forkDetach
        )
      },
      { discard: true }
    )
  )

  #abandon({ line, noticedAt, start }: Watched): void {
    const { connection, way } = line
    this.#orphans.add({ way, processId: connection.processId, start, noticedAt, closedAt: now() })
    this.#present.openUnsafe()
  }

  #endOrphan(orphan: Orphan, { end, find }: Backends.Backends): Effect.Effect<void, Backends.NotAsked> {
    const { noticedAt, processId, start } = orphan
    return find({ processId, start, noticedMillisAgo: now() - noticedAt }).pipe(
      Effect.flatMap((found) => (found.start === undefined ? Effect.void : end(processId, found.start))),
      Effect.andThen(Effect.sync(() => this.#orphans.delete(orphan)))
    )
  }
}

const none: Watch = { notice: () => {}, noticeReader: () => {} }

/** Watches until the scope closes. PGlite has one session, in this process, which cannot be lost. */
export const make = (sql: PgClient.PgClient): Effect.Effect<Watch, never, Scope.Scope> => {
  if (sql.driver === "pglite") return Effect.succeed(none)
  const connections = new Connections(sql)
  return Effect.as(Effect.forkScoped(onRealClock(connections.run)), {
    notice: (connection, quietAt) => connections.notice(connection, false, quietAt),
    noticeReader: (connection) => connections.notice(connection, true)
  })
}
