/**
 * Asks a server what the backends of other connections do, and ends them, on a connection that is opened for it: the pool may
 * consist of connections that are dead.
 */
import { PgConnection } from "@effect/sql-pg"
import { Duration, Effect, Predicate, Schema, type Scope } from "effect"
import type { SqlError } from "effect/sql"
import { Unavailable } from "../../StoreError.ts"
import { decodeRows } from "./DecodeRows.ts"
import * as Line from "./Line.ts"
import type { Finding } from "./Silence.ts"

/** How long an answer may take. To connect has the time limit of the application's client. */
const answerLimit = Duration.seconds(5)

/** By how much a server's clock may have been set back since a connection was opened. */
const clockStepMillis = 60_000

/** Nothing was found out, because there is no server or because it refuses. */
export class NotAsked extends Schema.TaggedError<NotAsked>("effect-strata/postgres/NotAsked")("NotAsked", {
  isServerThere: Schema.Boolean,
  message: Schema.String
}) {}

/** A backend whose connection was seen alive so many milliseconds ago. */
export interface Wanted {
  readonly processId: number
  readonly noticedMillisAgo: number
  /** When it started, in the words of the server, if it has been found before. */
  readonly start: string | undefined
}

export interface Found {
  readonly finding: Finding
  /** When the backend started. Absent unless it was found. */
  readonly start: string | undefined
}

export interface Backends {
  readonly find: (wanted: Wanted) => Effect.Effect<Found, NotAsked>
  /** Ends a backend, if the role may, and says whether it did. */
  readonly end: (processId: number, start: string) => Effect.Effect<boolean>
}

const Self = Schema.Struct({ pid: Schema.Int, busy: Schema.Boolean })

const Activity = Schema.Struct({
  start: Schema.String,
  ageMillis: Schema.Number,
  isTold: Schema.Boolean,
  isIdle: Schema.Boolean,
  since: Schema.String,
  lastCameMillisAgo: Schema.Number
})

const Ended = Schema.Struct({ isEnded: Schema.Boolean })

const decodeSelf = decodeRows(Self, "pg_stat_activity", [])
const decodeActivity = decodeRows(Activity, "pg_stat_activity", [])
const decodeEnded = decodeRows(Ended, "pg_stat_activity", [])

/** `busy` is about the sessions that a pooler may have given to a client of this role. */
const askSelf = `
  SELECT pg_backend_pid() AS pid, EXISTS (
    SELECT FROM pg_stat_activity WHERE datname = current_database() AND usename = session_user
    AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND state IS DISTINCT FROM 'idle'
  ) AS busy`

/**
 * A backend that reads from its client in the middle of a statement, or writes to it, waits for its client as well. A backend
 * that has never got a statement is idle without the time of one.
 */
const askActivity = `
  SELECT extract(epoch FROM backend_start)::text AS start,
    (extract(epoch FROM clock_timestamp() - backend_start) * 1000::numeric)::float8 AS "ageMillis",
    coalesce(state <> 'disabled', false) AS "isTold",
    coalesce(state LIKE 'idle%' OR wait_event_type = 'Client', false) AS "isIdle",
    coalesce(extract(epoch FROM state_change)::text, '') AS since,
    coalesce((extract(epoch FROM
      clock_timestamp() - coalesce(query_start, CASE state WHEN 'idle' THEN backend_start END)
    ) * 1000::numeric)::float8, 0) AS "lastCameMillisAgo"
  FROM pg_stat_activity WHERE pid = $1`

/** The function stands in the result, which is made of the one row: among the conditions it can come first, for every row. */
const askEnd = `
  SELECT pg_terminate_backend(pid) AS "isEnded" FROM pg_stat_activity
  WHERE pid = $1 AND extract(epoch FROM backend_start)::text = $2 AND usename = session_user`

/** A server that refuses has a code for it. */
const notAsked = ({ message, reason }: SqlError.SqlError) => {
  const { cause } = reason
  const code = Predicate.hasProperty(cause, "code") ? cause.code : undefined
  return new NotAsked({
    isServerThere: typeof code === "string" && /^[0-9A-Z]{5}$/.test(code),
    message: cause instanceof Error ? cause.message : message
  })
}

const findingOf = ({ isIdle, isTold, lastCameMillisAgo, since }: typeof Activity.Type): Finding => {
  if (isIdle) return { _tag: "Idle", since, lastCameMillisAgo }
  return { _tag: isTold ? "Working" : "Untold" }
}

/** Another session can have got the process id of one that has ended. */
const isSame = ({ ageMillis, start }: typeof Activity.Type, wanted: Wanted): boolean =>
  wanted.start === undefined ? ageMillis + clockStepMillis >= wanted.noticedMillisAgo : start === wanted.start

/** What can be said behind a pooler, which has process ids of its own: whether the role's sessions are all idle. */
const behindPooler = (isBusy: boolean): Backends => ({
  find: () =>
    Effect.succeed({
      finding: isBusy ? { _tag: "Untold" } : { _tag: "Idle", since: "", lastCameMillisAgo: 0 },
      start: undefined
    }),
  end: () => Effect.succeed(false)
})

const isSameAddress = (one: Line.Address, other: Line.Address) => one.host === other.host && one.port === other.port

/** Opens a connection to the server of a line. */
export const open = Effect.fnUntraced(function* (
  config: PgConnection.Config,
  { address, settings }: Line.Way
): Effect.fn.Return<Backends, NotAsked, Scope.Scope> {
  const connection = yield* Effect.mapError(PgConnection.make({ ...settings(config), multiplex: false }), notAsked)
  const line = Line.of(connection)
  if (address !== undefined && line?.way.address !== undefined && !isSameAddress(line.way.address, address)) {
    // The application's stream has found another server. It knows nothing of the backends of this one.
    const isServerThere = yield* Line.accepts(address, Duration.toMillis(answerLimit))
    return yield* new NotAsked({ isServerThere, message: `${address.host} does not answer` })
  }
  // An answer that does not come ends the connection: to interrupt the statement would wait for the server.
  const limit = Effect.sync(() => line?.close(new Unavailable({ message: "the server has not answered in 5 seconds" })))
  const ask = (text: string, parameters: ReadonlyArray<unknown>) =>
    Effect.scoped(
      Effect.andThen(
        Effect.forkScoped(Effect.delay(limit, answerLimit)),
        Effect.map(Effect.mapError(connection.query(text, parameters, false), notAsked), ({ rows }) => rows)
      )
    )
  const undecoded = () => new NotAsked({ isServerThere: true, message: "the server's answer has another form" })
  const [self] = yield* Effect.mapError(Effect.flatMap(ask(askSelf, []), decodeSelf), (error) =>
    error._tag === "NotAsked" ? error : undecoded()
  )
  if (self === undefined) return yield* undecoded()
  if (self.pid !== connection.processId) return behindPooler(self.busy)
  return {
    find: (wanted) =>
      ask(askActivity, [wanted.processId]).pipe(
        Effect.flatMap((rows) => Effect.mapError(decodeActivity(rows), undecoded)),
        Effect.map(([row]) =>
          row === undefined || !isSame(row, wanted)
            ? { finding: { _tag: "Gone" }, start: undefined }
            : { finding: findingOf(row), start: row.start }
        )
      ),
    end: (processId, start) =>
      ask(askEnd, [processId, start]).pipe(
        Effect.flatMap(decodeEnded),
        Effect.map(([row]) => row?.isEnded ?? false),
        // A role may end its own backends, unless it has become another one.
        Effect.orElseSucceed(() => false)
      )
  }
})
