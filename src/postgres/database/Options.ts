/** What an application can set of the Postgres backend: where the tables are, and how long operations wait. */
import type { PgConnection } from "@effect/sql-pg"
import { Duration, Effect, Option, type Schedule, Schema } from "effect"
import { check } from "../../internal/Arguments.ts"
import { transientDelays } from "../../internal/Transient.ts"
import { InvalidInput } from "../../InvalidInput.ts"
import type { Reason } from "../../StoreError.ts"
import { Name, nameBefore } from "./Identifier.ts"

/** The name of a table: short enough to be that of a function, too, which has the table's name with an ending. */
const named = (name: string, ending = "") =>
  nameBefore(ending).pipe(Schema.withConstructorDefault(Effect.succeed(name)))

/** The tables' names. The defaults are those of the Go originals. */
export const Tables = Schema.Struct({
  events: named("events", "_append"),
  offsets: named("offsets_store"),
  messages: named("strata_messages", "_claim"),
  spool: named("retryspool_messages", "_claim"),
  states: named("states_store", "_write"),
  migrations: named("strata_migrations")
})

const Owners = Schema.Array(Name)

/** Where the tables are. */
const Names = Schema.Struct({
  schema: Schema.optionalKey(Name),
  tables: Tables.pipe(Schema.withConstructorDefault(Effect.sync(() => Tables.make({}))))
})

/** What each layer of `effect-strata/postgres` takes. */
export interface Options {
  /**
   * The schema of the tables. Without it they are where the connection's search path finds them.
   *
   * **Details**
   *
   * What the stores call in their statements is built in, also where other roles may create in a schema of the search path,
   * as in `public` before Postgres 15: each call names `pg_catalog`, or has exactly the types of what is built in, which is
   * found first. A search path that names `pg_catalog` itself has to name it first. The application's own SQL is not
   * protected. Where others may create in a schema in front of that of the tables, name the schema here.
   */
  readonly schema?: string
  /**
   * Other names for the tables: `events` (`events`), `offsets` (`offsets_store`), `states` (`states_store`), `messages`
   * (`strata_messages`), `spool` (`retryspool_messages`), `migrations` (`strata_migrations`). A name has at
   * most 63 bytes; that of `events` 56, and those of `states`, `messages` and `spool` 57, as functions are named after them.
   */
  readonly tables?: (typeof Tables)["~type.make.in"]
  /** How long an operation waits for a connection while the pool is exhausted: 10 seconds. Then it is `Unavailable`. */
  readonly acquireTimeout?: Duration.Input
  /**
   * How long a read that spans aggregates waits for a transaction that may still append an event among those it reads:
   * 2 seconds. Then the read ends before the place of that event.
   */
  readonly settleTimeout?: Duration.Input
  /**
   * How long the server waits for a process that has stopped in the middle of a transaction of a projection or a worker: 5
   * seconds, and at least 1. Then it ends the transaction, and other processes go on. A process that lives says so from time
   * to time, so a handler may take longer. A handler that keeps the event loop busy for longer fails.
   */
  readonly silenceLimit?: Duration.Input
  /**
   * When to connect again to a server that subscribers have lost: after 100 milliseconds, then ever later up to a
   * second, with jitter, for ever. Once the schedule ends, the subscribers fail.
   */
  readonly reconnect?: Schedule.Schedule<unknown, Reason>
  /**
   * How to connect to the server itself, where the client goes through a pooler in transaction mode: subscribers listen and
   * read on that connection, one for the layer, and hear of new events and messages at once. It has to lead to the same
   * database. Without it they connect as the client does: behind such a pooler they look once a second.
   */
  readonly listen?: PgConnection.Config
  /**
   * `"rows"` makes the migrations install go-sync-kit's trigger, for programs that listen to its channels: each event is
   * notified in the transaction that appends it, and aggregate ids can have 56 bytes at most. Any role that may connect to the
   * database can listen, and hears the ids and types of all events.
   */
  readonly notify?: "rows"
  /**
   * Roles, beside the one that migrates and superusers, whose tables, functions, sequences and triggers the migrations adopt:
   * the role of a Go service that has made its tables. What belongs to another role is refused as `Denied`, as its owner
   * decides what runs there, as the role that uses it.
   */
  readonly owners?: ReadonlyArray<string>
  /**
   * How long a process waits for another one that migrates: 10 minutes unless given. Then its layer fails with a `Contention` that
   * names the process and the role. Any role that may connect can keep out all migrations, with an advisory lock.
   */
  readonly migrationWait?: Duration.Input
  /**
   * `"containment"` makes the migrations index what events contain, for queries by `data` and `metadata`: see `Filter`. It makes an
   * append about twice as expensive. Queries work without it, and read the log.
   */
  readonly index?: "containment"
  /**
   * `"bigint"` gives integers beyond 2^53 in events and payloads as `bigint`, which the type of JSON does not say, and takes
   * them so: `Json.Int64` is a field for them. Without it, `InvalidInput` refuses them, and reads of what another program has
   * written fail with `CorruptRow`.
   */
  readonly largeIntegers?: "bigint"
  /**
   * `"never"` leaves `traceparent` out of the metadata of events: without it, `append` names its span there, where spans are
   * collected. See `Origin`.
   */
  readonly traceparent?: "never"
  /**
   * `"shared"` keeps the messages of queues in RetrySpool's table, for Go services that handle some of them: unless given, they
   * are in a table of their own, which Go never sees. All processes on the tables must agree, from the first migration on.
   *
   * **Gotchas**
   *
   * RetrySpool's worker takes every message of its table that its handler accepts, and deletes a message whose data it does not
   * find in its data storage, also with `WithDisableRecovery`. So each message that Go is to leave alone needs a header, and
   * `CanHandle` of Go's handler must return false for messages that have it. Go must also run with `WithDisableRecovery`, as
   * its recovery takes messages from our workers. Ids are those of all queues together: one that a message of another queue has
   * is an `IdConflict`. No id is remembered.
   */
  readonly queues?: "shared"
  /**
   * `"compact"` makes the migrations give the table of events a form that takes less room, on a log without events that no Go
   * service shares: ids are stored as UUIDs, of 16 bytes, and the name of a stream is not stored. All processes work on such a
   * log without the option, too, and a log keeps the form that it has.
   *
   * **Gotchas**
   *
   * Events that bring ids of their own have to bring UUIDs, in lower case: `append` refuses others as `InvalidInput`.
   * go-sync-kit fails at its start, as there is no column `stream_name`. Processes that ran while the log got the form have to
   * be started again.
   */
  readonly layout?: "compact"
  /**
   * Makes the migrations divide the table of events into partitions of so many versions each, while others go on reading and
   * writing. A table that has had events becomes the first partition, with room for some versions more. Partitions are made ahead,
   * three at least, by the transactions that append. All processes work on such a log without the option, too. `size` is at least
   * 16; 1,000,000 and more is of use.
   *
   * **Gotchas**
   *
   * Where the log has had events, every process must run this version before: an earlier one takes other locks afterwards.
   *
   * One statement, or one transaction, cannot insert more events than three partitions have, unless it appends them all by one
   * `append`. A role that appends needs EXECUTE on `events_extend` for that, and SELECT on `events_ids`: `strata grants` prints it.
   */
  readonly partitions?: { readonly size: bigint }
}

/** What a partition has at least: with fewer versions it would have no sixteen steps at which the next ones are made. */
const leastPartition = 16n

/** What the migrations put in for those who run them on a log with partitions, but do not name the option. */
const defaultPartition = 1_000_000n

/** A process that is only busy can be silent for so long. */
const leastSilenceLimit = Duration.seconds(1)

const invalidOption = (field: string, message: string) =>
  new InvalidInput({ store: "Postgres", operation: "layer", issues: [{ field, message }] })

/** The duration that was given, by the name of its option. */
export const durationOf = (field: string, input: Duration.Input) =>
  Option.match(Duration.fromInput(input), {
    onNone: () => Effect.fail(invalidOption(field, "Expected a duration")),
    onSome: (duration) => Effect.succeed(duration)
  })

/** Checks the options, and fills in what they leave out. */
export const settingsOf = Effect.fnUntraced(function* (options: Options) {
  const {
    acquireTimeout = "10 seconds",
    index,
    largeIntegers,
    layout,
    listen,
    migrationWait = "10 minutes",
    notify,
    owners = [],
    partitions,
    queues,
    reconnect = transientDelays,
    settleTimeout = "2 seconds",
    silenceLimit = "5 seconds",
    traceparent,
    ...where
  } = options
  const { schema, tables } = yield* check(Names, "Postgres", "layer", where)
  const silence = yield* durationOf("silenceLimit", silenceLimit)
  if (Duration.isLessThan(silence, leastSilenceLimit) || !Duration.isFinite(silence)) {
    return yield* invalidOption("silenceLimit", "Expected a finite duration of at least 1 second")
  }
  if (partitions !== undefined && partitions.size < leastPartition) {
    return yield* invalidOption("partitions", `Expected a size of at least ${leastPartition}`)
  }
  return {
    schema,
    tables,
    acquireTimeout: yield* durationOf("acquireTimeout", acquireTimeout),
    settleTimeout: yield* durationOf("settleTimeout", settleTimeout),
    migrationWait: yield* durationOf("migrationWait", migrationWait),
    silenceLimit: silence,
    reconnect,
    listen,
    traceparent,
    integers: largeIntegers ?? ("fail" as const),
    owners: yield* check(Owners, "Postgres", "layer", owners),
    extras: {
      index,
      layout,
      notify,
      partitions: partitions && ("versions" as const),
      queues: queues ?? ("own" as const)
    },
    partitionSize: partitions?.size ?? defaultPartition
  }
})
