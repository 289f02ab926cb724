/**
 * Transactions that end when their process has fallen silent, because its host has stopped or a cable is cut: TCP would keep
 * them open for minutes, and with them the locks for which other processes wait.
 *
 * **Details**
 *
 * Such a transaction sets `idle_in_transaction_session_timeout` for itself. A process that lives says so in each of its open
 * transactions, four times within the limit, so a handler may take as long as it wants beside the database. The limit is set
 * before anything is locked. It costs no round trip where the first statement of the transaction is one of the stores that
 * returns what it has written, as the move of a projection's offset is. Otherwise it is a statement of its own.
 *
 * All goes by the machine's clock, not by Effect's: the server really waits.
 */
import { Duration, Effect } from "effect"
import type { SqlError } from "effect/sql"
import type { Connection } from "effect/sql/SqlConnection"
import { type Reason, Timeout } from "../../StoreError.ts"

/** What is said in a transaction is said so many times within the limit. */
const beatsWithinLimit = 4

/** A transaction that is watched. */
interface Watched {
  readonly connection: Connection
  /** When the process has last been seen to live, in milliseconds. */
  seenAt: number
  longestSilence: number
  isSaying: boolean
}

/** What a transaction has to know of its silence. */
export interface Watch {
  /** Runs the body of a transaction on the connection. */
  readonly during: <A, E, R>(
    connection: Connection,
    body: Effect.Effect<A, E, R>,
    beginsWithStore: boolean
  ) => Effect.Effect<A, E, R>
  /** Why the server has ended the transaction, if the process has been silent for so long that it did. */
  readonly silence: () => Reason | undefined
}

type Rows = Effect.Effect<ReadonlyArray<unknown>, SqlError.SqlError>

/** The statements that return what they have written, and can return one thing more. */
const returnsRows = /^\s*(?:INSERT|UPDATE|DELETE)\b.*\bRETURNING\b/is

export const make = Effect.fnUntraced(function* (limit: Duration.Duration) {
  const fork = Effect.runForkWith(yield* Effect.context())
  const limitMillis = Math.ceil(Duration.toMillis(limit))
  const setting = `set_config('idle_in_transaction_session_timeout', '${limitMillis}', true)`
  const open = new Set<Watched>()
  /** The connections of transactions whose limit is not set yet. */
  const unlimited = new Set<Connection>()
  /** Statements that set the limit, by their texts. The driver looks a text up by its hash, which a new string has to make anew. */
  const limiting = new Map<string, string | undefined>()
  let timer: NodeJS.Timeout | undefined

  const limitingText = (text: string): string | undefined => {
    if (!limiting.has(text))
      limiting.set(text, returnsRows.test(text) ? `${text}, ${setting} AS silence_limit` : undefined)
    return limiting.get(text)
  }

  /** Sets the limit, each time anew, as a savepoint that is rolled back undoes the setting. A failure shows in what follows. */
  const say = (watched: Watched) => {
    if (watched.isSaying) return
    watched.isSaying = true
    unlimited.delete(watched.connection)
    // It is never interrupted: the cancel request could hit another statement of the transaction.
    fork(Effect.uninterruptible(watched.connection.execute(`SELECT ${setting}`, [], undefined))).addObserver(() => {
      watched.isSaying = false
    })
  }

  const see = (watched: Watched) => {
    const now = performance.now()
    watched.longestSilence = Math.max(watched.longestSilence, now - watched.seenAt)
    watched.seenAt = now
  }

  const begin = (watched: Watched, beginsWithStore: boolean) => {
    watched.seenAt = performance.now()
    open.add(watched)
    if (beginsWithStore) {
      unlimited.add(watched.connection)
      // The body's first statement has been sent by then, unless the body has done something else first.
      queueMicrotask(() => {
        if (unlimited.has(watched.connection)) say(watched)
      })
    } else {
      // The connection sends one statement after the other, so the body's first one waits for this one.
      say(watched)
    }
    timer ??= setInterval(() => {
      for (const one of open) {
        see(one)
        say(one)
      }
    }, limitMillis / beatsWithinLimit)
  }

  const end = (watched: Watched) => {
    see(watched)
    open.delete(watched)
    unlimited.delete(watched.connection)
    if (open.size > 0) return
    clearInterval(timer)
    timer = undefined
  }

  return {
    /** Runs a statement of a transaction, and has it set the limit if nothing has set it before. */
    execute: (connection: Connection, text: string, parameters: ReadonlyArray<unknown>): Rows => {
      const limitingStatement = unlimited.has(connection) ? limitingText(text) : undefined
      if (limitingStatement === undefined) return connection.execute(text, parameters, undefined)
      unlimited.delete(connection)
      // Where it has written no row, it has set nothing.
      return Effect.tap(connection.execute(limitingStatement, parameters, undefined), (rows) =>
        Effect.sync(() => (rows.length === 0 ? unlimited.add(connection) : undefined))
      )
    },

    /** Watches one transaction. */
    watch: (): Watch => {
      let watched: Watched | undefined
      return {
        during: (connection, body, beginsWithStore) =>
          Effect.suspend(() => {
            const one: Watched = { connection, seenAt: 0, longestSilence: 0, isSaying: false }
            watched = one
            begin(one, beginsWithStore)
            return Effect.onExitPrimitive(body, () => {
              end(one)
              return undefined
            })
          }),
        silence: () => {
          if (watched === undefined) return undefined
          const { longestSilence } = watched
          if (longestSilence < limitMillis) return undefined
          return new Timeout({
            message:
              `this process said nothing for ${Math.round(longestSilence)} milliseconds in the middle of a transaction, and ` +
              `silenceLimit is ${Duration.format(limit)}: the server has ended the transaction; do what keeps the event loop ` +
              "busy for so long elsewhere, or raise silenceLimit"
          })
        }
      }
    }
  }
})

export type SilenceLimit = Effect.Success<ReturnType<typeof make>>
