/**
 * What the stores share on Postgres: the application's `PgClient`, the names of their tables, and how a statement runs.
 */
import { PgClient } from "@effect/sql-pg"
import { Context, Deferred, Duration, Effect, Fiber, Layer, Option, Redacted, Schedule, Schema } from "effect"
import { type SqlError, Statement } from "effect/sql"
import type { Connection } from "effect/sql/SqlConnection"
import { check } from "../../internal/Arguments.ts"
import { InvalidInput } from "../../InvalidInput.ts"
import type { Reason } from "../../StoreError.ts"
import * as Transactor from "../../Transactor.ts"
import * as Borrowing from "./Borrowing.ts"
import { Name, nameBefore, qualify } from "./Identifier.ts"
import { reasonOf } from "./Reasons.ts"

/** The name of a table, and with an ending of a function that is named after it. */
const named = (name: string, ending = "") =>
  nameBefore(ending).pipe(Schema.withConstructorDefault(Effect.succeed(name)))

/** The tables' names. The defaults are those of the Go originals. */
const Tables = Schema.Struct({
  events: named("events", "_append"),
  offsets: named("offsets_store"),
  spool: named("retryspool_messages", "_claim"),
  states: named("states_store", "_write"),
  migrations: named("strata_migrations")
})

/** Where the tables are. */
const Names = Schema.Struct({
  schema: Schema.optionalKey(Name),
  tables: Tables.pipe(Schema.withConstructorDefault(Effect.sync(() => Tables.make({}))))
})

export interface Options {
  /** The schema of the tables. Without it they are where the connection's search path finds them. */
  readonly schema?: string
  /**
   * Other names for the tables: `events` (`events`), `offsets` (`offsets_store`), `states` (`states_store`), `spool`
   * (`retryspool_messages`), `migrations` (`strata_migrations`).
   */
  readonly tables?: (typeof Tables)["~type.make.in"]
  /** How long an operation waits for a connection while the pool is exhausted: 10 seconds. Then it is `Unavailable`. */
  readonly acquireTimeout?: Duration.Input
  /**
   * How long a read that spans aggregates waits for a transaction that may still append an event among those it reads:
   * 2 seconds. Then it ends before that place.
   */
  readonly settleTimeout?: Duration.Input
  /**
   * When to try again to reach a server that subscribers have lost: after 100 milliseconds, then ever later up to 5 seconds,
   * with jitter, for ever. Once it ends, they fail.
   */
  readonly reconnect?: Schedule.Schedule<unknown, Reason>
  /**
   * `"rows"` makes the migrations install go-sync-kit's trigger, for programs that listen to its channels: each event is
   * notified in the transaction that appends it, and aggregate ids can have 56 bytes at most.
   */
  readonly notify?: "rows"
  /**
   * `"containment"` makes the migrations index what events contain, for those who query by `data` and `metadata`. It makes
   * an append about twice as expensive, and queries work without it.
   */
  readonly index?: "containment"
}

/** A statement, as far as it takes one to run it. */
export type Runnable = Pick<Statement.Statement<unknown>, "compile">

/** Runs one statement on some connection, and returns its rows. */
export type Query = (statement: Runnable) => Effect.Effect<ReadonlyArray<unknown>, Reason>

/** The Postgres backend's database: see the module's documentation. */
export class PostgresDatabase extends Context.Service<
  PostgresDatabase,
  {
    /** The application's client, without its transforms of names. */
    readonly sql: PgClient.PgClient

    readonly schema: string | undefined

    readonly names: typeof Tables.Type

    /** Each table, to be put into a statement: qualified and quoted. */
    readonly tables: { readonly [Table in keyof typeof Tables.Type]: Statement.Fragment }

    /**
     * `sql` for a statement whose text is the same each time, as all fragments in it are: put together once, where that
     * would take a tenth of the time for a short one.
     */
    readonly fixed: (strings: TemplateStringsArray, ...parts: ReadonlyArray<unknown>) => Runnable

    /**
     * Runs one statement, in the caller's transaction if there is one, and returns its rows.
     *
     * **Details**
     *
     * Straight on the connection: the span of the operation says what the driver's own span of the statement would, and
     * that costs as much again as all the rest of an operation.
     */
    readonly query: Query

    /**
     * The same for whoever cannot say how long the answer may take: a connection out of the pool, which may have lain idle
     * while the network forgot it, is asked for something that takes no time first. `Unavailable` if it does not answer.
     */
    readonly queryAlive: Query

    /** Whether the caller is in a transaction. */
    readonly inTransaction: Effect.Effect<boolean>

    /** What to do in a transaction of the caller's, and what without one. */
    readonly whether: <A, E, R>(cases: {
      readonly inside: () => Effect.Effect<A, E, R>
      readonly outside: () => Effect.Effect<A, E, R>
    }) => Effect.Effect<A, E, R>

    readonly settleTimeout: Duration.Duration

    readonly reconnect: Schedule.Schedule<unknown, Reason>

    /** Which of the migrations run that do not run unless they are asked for. */
    readonly extras: { readonly index: Options["index"] | undefined; readonly notify: Options["notify"] | undefined }

    readonly transactor: Transactor.Transactor["Service"]
  }
>()("effect-strata/postgres/PostgresDatabase") {}

const backOff = Schedule.jittered(Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced("5 seconds")]))

export const make = (options: Options = {}) =>
  Effect.gen(function* () {
    const {
      acquireTimeout = "10 seconds",
      index,
      notify,
      reconnect = backOff,
      settleTimeout = "2 seconds",
      ...where
    } = options
    const { schema, tables: names } = yield* check(Names, "Postgres", "layer", where)
    const sql = (yield* PgClient.PgClient).withoutTransforms()
    const invalid = (field: string, message: string) =>
      new InvalidInput({ store: "Postgres", operation: "layer", issues: [{ field, message }] })
    // The driver's error for a malformed URL repeats it, password and all, and its span of a transaction keeps the error.
    if (sql.config.url !== undefined && !URL.canParse(Redacted.value(sql.config.url))) {
      return yield* invalid("url", "Expected a postgres:// URL")
    }
    const patience = Option.getOrUndefined(Duration.fromInput(acquireTimeout))
    if (patience === undefined) return yield* invalid("acquireTimeout", "Expected a duration")

    const settlePatience = Option.getOrUndefined(Duration.fromInput(settleTimeout))
    if (settlePatience === undefined) return yield* invalid("settleTimeout", "Expected a duration")

    const { borrow, borrowAlive, exhausted } = yield* Borrowing.make(sql, patience)

    const queryOn =
      (lend: typeof borrow): Query =>
      (statement) =>
        Effect.withFiber((fiber) => {
          const [text, parameters] = statement.compile()
          const transaction = transactionOf(fiber.context)
          const run = (connection: Connection) => connection.execute(text, parameters, undefined)
          return Effect.mapError(transaction === undefined ? lend(run) : run(transaction[0]), reasonOf)
        })

    const transactionOf = (context: Context.Context<never>) => Context.getOrUndefined(context, sql.transactionService)
    const inTransaction = Effect.contextWith((context: Context.Context<never>) =>
      Effect.succeed(transactionOf(context) !== undefined)
    )

    const fixedOnes = new WeakMap<TemplateStringsArray, { readonly text: string; readonly places: Array<number> }>()
    const fixed = (strings: TemplateStringsArray, ...parts: ReadonlyArray<unknown>): Runnable => {
      let known = fixedOnes.get(strings)
      if (known === undefined) {
        // The driver finds what it has prepared by the text, and goes through it each time.
        const short = strings.map((string) => string.replaceAll(/\s+/g, " "))
        const [text] = sql(Object.assign(short, { raw: strings.raw }), ...parts).compile()
        known = { text, places: [...parts.keys()].filter((place) => !Statement.isFragment(parts[place])) }
        fixedOnes.set(strings, known)
      }
      const { places, text } = known
      return { compile: () => [text, places.map((place) => parts[place])] }
    }

    // Only the outermost transaction waits for a connection, in a fiber of its own, to be interrupted when that takes too
    // long. The effect stays in the caller's fiber: what it forks there may outlive the transaction.
    const outermost = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.gen(function* () {
          const begun = yield* Deferred.make<Context.Context<R>, E | SqlError.SqlError>()
          const ended = yield* Deferred.make<A, E>()
          const body = Effect.contextWith((context: Context.Context<R>) =>
            Effect.andThen(Deferred.succeed(begun, context), Deferred.await(ended))
          )
          const transaction = yield* restore(sql.withTransaction(body)).pipe(
            Effect.tapCause((cause) => Deferred.failCause(begun, cause)),
            Effect.forkDetach
          )
          const context = yield* restore(
            Effect.timeoutOrElse(Deferred.await(begun), {
              duration: patience,
              orElse: () => Effect.fail(exhausted)
            })
          ).pipe(Effect.onError(() => Fiber.interrupt(transaction)))
          yield* Deferred.done(ended, yield* Effect.exit(restore(Effect.provideContext(effect, context))))
          return yield* Fiber.join(transaction)
        })
      )

    const withTransaction = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
      Effect.flatMap(inTransaction, (inside) => (inside ? sql.withTransaction(effect) : outermost(effect)))

    return PostgresDatabase.of({
      sql,
      schema,
      names,
      tables: {
        events: sql.literal(qualify(schema, names.events)),
        offsets: sql.literal(qualify(schema, names.offsets)),
        spool: sql.literal(qualify(schema, names.spool)),
        states: sql.literal(qualify(schema, names.states)),
        migrations: sql.literal(qualify(schema, names.migrations))
      },
      fixed,
      query: queryOn(borrow),
      queryAlive: queryOn(borrowAlive),
      inTransaction,
      whether: ({ inside, outside }) =>
        Effect.withFiber((fiber) => (transactionOf(fiber.context) === undefined ? outside() : inside())),
      settleTimeout: settlePatience,
      reconnect,
      extras: { index, notify },
      transactor: Transactor.fromSqlClient({ withTransaction, afterCommit: sql.afterCommit }, reasonOf)
    })
  })

export const layer = (options?: Options): Layer.Layer<PostgresDatabase, InvalidInput, PgClient.PgClient> =>
  Layer.effect(PostgresDatabase, make(options))
