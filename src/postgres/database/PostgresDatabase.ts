/**
 * What the stores share on Postgres: the application's `PgClient`, the names of their tables, and how a statement runs.
 */
import { PgClient } from "@effect/sql-pg"
import { Context, type Duration, Effect, Layer, Redacted, Result, type Schedule } from "effect"
import type { Statement } from "effect/sql"
import type { LargeIntegers } from "../../internal/ExactJson.ts"
import { maxRowBytes } from "../../internal/Fields.ts"
import { InvalidInput } from "../../InvalidInput.ts"
import type { Reason } from "../../StoreError.ts"
import type { Transactor } from "../../Transactor.ts"
import * as Borrowing from "./Borrowing.ts"
import { qualify } from "./Identifier.ts"
import * as Isolation from "./Isolation.ts"
import { type Options, settingsOf, type Tables } from "./Options.ts"
import { reasonOf } from "./Reasons.ts"
import * as SilenceLimit from "./SilenceLimit.ts"
import { fixedBy, type Query, queryOn, type Runnable } from "./Statements.ts"
import * as Transactions from "./Transactions.ts"
import * as Watch from "./Watch.ts"

export type { Options } from "./Options.ts"
export type { Query, Runnable } from "./Statements.ts"

/** The Postgres backend's database: see the module's documentation. */
export class PostgresDatabase extends Context.Service<
  PostgresDatabase,
  {
    /** The application's client, without its transforms of names. */
    readonly sql: PgClient.PgClient

    readonly schema: string | undefined

    readonly names: typeof Tables.Type

    /** Each table, qualified and quoted, to be put into a statement. */
    readonly tables: { readonly [Table in keyof typeof Tables.Type]: Statement.Fragment }

    /**
     * `sql` for a statement whose text, fragments included, is the same each time. It is put together once: that takes a
     * tenth of the time of a short statement.
     */
    readonly fixed: (strings: TemplateStringsArray, ...parts: ReadonlyArray<unknown>) => Runnable

    /**
     * Runs one statement, in the caller's transaction if there is one, else with READ COMMITTED, and returns its rows.
     *
     * **Details**
     *
     * The statement runs straight on the connection, without the driver's span. That span costs as much as all the rest of
     * an operation, and says what the span of the operation says already.
     */
    readonly query: Query

    /** Runs one statement with READ COMMITTED on a connection that is not of the pool. */
    readonly isolated: Isolation.Run

    /** Watches a connection that is not of the pool, and on which everything only reads. */
    readonly noticeReader: Watch.Watch["noticeReader"]

    /**
     * The same as that of `sql`, on a connection that is watched from the first: BEGIN does not wait for ever on one that is
     * silently dead.
     */
    readonly withTransaction: Transactions.Transactions["withTransaction"]

    /**
     * Runs an effect in no transaction, also where the caller is in one: its statements see only what is committed, and do not
     * take the connection of the transaction.
     */
    readonly withoutTransaction: Transactions.Transactions["withoutTransaction"]

    /** Whether the caller is in a transaction. */
    readonly inTransaction: Effect.Effect<boolean>

    /** Runs `inside` if the caller is in a transaction, else `outside`. */
    readonly whether: <A, E, R>(cases: Transactions.Cases<A, E, R>) => Effect.Effect<A, E, R>

    readonly settleTimeout: Duration.Duration

    readonly reconnect: Schedule.Schedule<unknown, Reason>

    /** The settings of the connection that listens, if they are not those of the client. */
    readonly listen: Options["listen"] | undefined

    /** What becomes of integers beyond 2^53 in JSON. */
    readonly integers: LargeIntegers

    /** Whether events name the span that has appended them. */
    readonly traceparent: Options["traceparent"] | undefined

    /** Roles whose tables the migrations adopt. */
    readonly owners: ReadonlyArray<string>

    /** How long a process waits for another one that migrates. */
    readonly migrationWait: Duration.Duration

    /** The choices of the application that decide which optional migrations it needs. */
    readonly extras: {
      readonly index: Options["index"] | undefined
      readonly layout: Options["layout"] | undefined
      readonly notify: Options["notify"] | undefined
      /** Whether the table of events has partitions. */
      readonly partitions: "versions" | undefined
      /** Whether messages of queues have a table of their own. */
      readonly queues: "own" | "shared"
    }

    /** How many versions a partition has that a migration makes. */
    readonly partitionSize: bigint

    readonly transactor: Transactor["Service"]
  }
>()("effect-strata/postgres/PostgresDatabase") {}

const invalidUrl = new InvalidInput({
  store: "Postgres",
  operation: "layer",
  issues: [{ field: "url", message: "Expected a postgres:// URL" }]
})

const smallMessages = new InvalidInput({
  store: "Postgres",
  operation: "layer",
  issues: [{ field: "maxMessageSize", message: `Expected at least ${maxRowBytes}, as rows can have that many bytes` }]
})

/** The role of the connections, as far as the settings name it. */
const roleOf = ({ url, username }: PgClient.PgClient["config"]): string | undefined =>
  username ??
  (url === undefined
    ? undefined
    : Result.getOrUndefined(Result.try(() => decodeURIComponent(new URL(Redacted.value(url)).username))) || undefined)

export const make = (options: Options = {}) =>
  Effect.gen(function* () {
    const {
      acquireTimeout,
      extras,
      integers,
      listen,
      migrationWait,
      owners,
      partitionSize,
      reconnect,
      schema,
      settleTimeout,
      silenceLimit,
      traceparent,
      ...where
    } = yield* settingsOf(options)
    const { tables: names } = where
    const sql = (yield* PgClient.PgClient).withoutTransforms()
    // The driver's error for a malformed URL repeats it, password and all, and its span of a transaction keeps the error.
    if (sql.config.url !== undefined && !URL.canParse(Redacted.value(sql.config.url))) return yield* invalidUrl
    if ((sql.config.maxMessageSize ?? maxRowBytes) < maxRowBytes) return yield* smallMessages
    const { notice, noticeReader } = yield* Watch.make(sql)
    const { borrow, putBack, takeOut } = yield* Borrowing.make(sql, acquireTimeout, notice)
    const silence = yield* SilenceLimit.make(silenceLimit)
    const transactions = Transactions.make(sql, { putBack, silence, takeOut })
    const { inTransaction, transactor, whether, withoutTransaction, withTransaction } = transactions
    const isolated = Isolation.make()
    const role = roleOf(sql.config)
    const tableOf = (name: string) => sql.literal(qualify(schema, name))

    return PostgresDatabase.of({
      sql,
      schema,
      names,
      tables: {
        events: tableOf(names.events),
        messages: tableOf(names.messages),
        offsets: tableOf(names.offsets),
        spool: tableOf(names.spool),
        states: tableOf(names.states),
        migrations: tableOf(names.migrations)
      },
      fixed: fixedBy(sql),
      query: queryOn(transactions, borrow, isolated, notice, (error) => reasonOf(error, { names, schema, role })),
      isolated,
      noticeReader,
      withTransaction,
      withoutTransaction,
      inTransaction,
      whether,
      settleTimeout,
      reconnect,
      listen,
      integers,
      traceparent,
      owners,
      migrationWait,
      extras,
      partitionSize,
      transactor
    })
  })

export const layer = (options?: Options): Layer.Layer<PostgresDatabase, InvalidInput, PgClient.PgClient> =>
  Layer.effect(PostgresDatabase, make(options))
