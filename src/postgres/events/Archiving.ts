/**
 * Writes the oldest partitions of the log to files, and detaches them.
 *
 * **Details**
 *
 * Each partition has a transaction of its own. In it, nobody can change an event of the partition any more; the file is written, is
 * read back, and each line is compared with its row. Then what is archived is written down, and only now, for a moment, the log is
 * locked, and the partition detached and dropped. All of that is committed together. A process that is killed leaves the
 * partition as it was, and a file that the next run writes again.
 */
import { DateTime, Effect, Option, Schema, Stream } from "effect"
import * as LastSeen from "../../events/LastSeen.ts"
import { Denied, type Reason } from "../../StoreError.ts"
import { decodeRows, NumberFromBigInt } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as ArchivedRows from "./ArchivedRows.ts"
import * as ArchiveFile from "./ArchiveFile.ts"
import * as ArchiveLocks from "./ArchiveLocks.ts"
import * as ArchiveTable from "./ArchiveTable.ts"
import { inBatches } from "./Batches.ts"
import { type ArchiveError, ArchiveRefused, EventArchive } from "./EventArchive.ts"
import { exactLineOf } from "./EventLines.ts"
import * as EventTable from "./EventTable.ts"
import * as Exporting from "./Exporting.ts"
import * as Settling from "./Settling.ts"

/** What is archived at most: what has lower versions, or what was appended before a time. */
export type Before = bigint | DateTime.Utc

/** How far it is. */
export interface Progress {
  /** The first version of the part, and the one after its last. */
  readonly firstVersion: bigint
  readonly endVersion: bigint
  readonly doing: "writing" | "verifying" | "restoring"
  /** How many of its events. */
  readonly done: number
  readonly events: number
}

/** Is told of progress. */
export type Tell = (progress: Progress) => Effect.Effect<void>

/** What was done. */
export interface Archived {
  readonly parts: ReadonlyArray<ArchiveTable.Part>
  /** Why nothing more was archived, in words for people. */
  readonly left: string
}

/** A partition of the log. */
const Partition = Schema.Struct({
  /** Qualified and quoted. */
  name: Schema.String,
  first: Schema.BigInt,
  end: Schema.BigInt
})

type Partition = typeof Partition.Type

const Facts = Schema.Struct({
  events: NumberFromBigInt,
  lastVersion: Schema.NullOr(Schema.BigInt),
  lastId: Schema.NullOr(Schema.String),
  firstCreatedAt: Schema.NullOr(Schema.String),
  lastCreatedAt: Schema.NullOr(Schema.String),
  /** A sum of hashes, which is the same for the same rows. */
  digest: Schema.String
})

type Facts = typeof Facts.Type

const Log = Schema.Struct({
  /** Whether this role may do what the owner may. */
  mayAlter: Schema.Boolean,
  /** The columns of which the lines of events know nothing. */
  unknown: Schema.Array(Schema.String)
})

const Late = Schema.Struct({ createdAt: Schema.NullOr(Schema.String) })

/** The columns that lines have, and the one that is made of them. */
const known = ["version", "id", "aggregate_id", "event_type", "data", "metadata", "created_at", "stream_name"]

/** Fails where this log is not to be archived, or by another role. */
export const checkLog = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { inTransaction, names, query, schema, sql } = database
  const table = qualify(schema, names.events)
  if (yield* inTransaction) {
    return yield* new ArchiveRefused({
      message: "parts of the log are archived and restored in transactions of their own: not in one of the caller"
    })
  }
  const { partitioned } = yield* EventTable.check
  if (!partitioned) {
    return yield* new ArchiveRefused({
      message: `only a log with partitions is archived, and ${table} has none: see Partitions in the guide to deploying`
    })
  }
  const [log] = yield* Effect.flatMap(
    query(sql`
      SELECT pg_catalog.pg_has_role(relowner, 'USAGE') AS "mayAlter", ARRAY(
        SELECT attname::text FROM pg_attribute
        WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped AND attname::text <> ALL (${known}::text[])
      )::text[] AS unknown
      FROM pg_class WHERE pg_class.oid = ${table}::regclass::oid`),
    decodeRows(Log, "pg_class", [])
  )
  if (log?.mayAlter !== true) {
    return yield* new Denied({
      message: `parts of ${table} are archived and restored by its owner: connect as that role, as for strata migrate`
    })
  }
  const [column] = log.unknown
  if (column !== undefined) {
    return yield* new ArchiveRefused({
      message: `${table} has a column that no archive file would have, ${column}: drop it, or keep the partitions`
    })
  }
})

/** The file of a partition. The digest keeps apart the files of logs that share an archive, such as a copy of a log. */
const fileNameOf = ({ end, first }: Partition, { digest }: Facts): string => {
  const padded = (version: bigint) => String(version).padStart(20, "0")
  const hash = BigInt.asUintN(64, BigInt(digest)).toString(16).padStart(16, "0")
  return `events-${padded(first)}-${padded(end)}-${hash}.jsonl.gz`
}

/** What it takes to archive the next partition. `tell` is told how far it is. */
export const make = Effect.fnUntraced(function* (tell: Tell) {
  const database = yield* PostgresDatabase
  const archive = yield* EventArchive
  const { names, query, schema, sql } = database
  const { archived, archives } = ArchiveTable.tablesOf(database)
  const { marks } = yield* Settling.make
  const log = qualify(schema, names.events)
  const run = (statement: string) => query({ compile: () => [statement, []] })

  /** The oldest partition. */
  const oldest = query(sql`
    SELECT pg_catalog.format('%I.%I', nspname, relname) AS name, coalesce(bounds[1], '0'::text)::int8 AS first, bounds[2]::int8 AS "end"
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
    CROSS JOIN LATERAL pg_catalog.regexp_match(pg_get_expr(relpartbound, pg_class.oid),
      'FROM [(]''?(?:([0-9]+)|MINVALUE)''?[)] TO [(]''?([0-9]+)''?[)]'::text) AS bounds
    WHERE inhparent = ${log}::regclass::oid AND bounds IS NOT NULL ORDER BY 3 LIMIT 1`).pipe(
    Effect.flatMap(decodeRows(Partition, "pg_inherits", ["name"])),
    Effect.map(([partition]) => partition)
  )

  /** Up to which version the log is settled. */
  const settled = Effect.map(
    // Nothing of the log was seen before that it could be compared with.
    Effect.catchTag(Stream.runLast(marks(LastSeen.of(0n))), "LogReplaced", Effect.die),
    Option.match({ onNone: () => 0n, onSome: ({ version }) => version })
  )

  /** Why a partition is not archived, if it is not. */
  const objection = Effect.fnUntraced(function* (
    { end, first, name }: Partition,
    before: Before,
    settledUpTo: bigint
  ): Effect.fn.Return<string | undefined, Reason> {
    const part = `the next part, from version ${first} up to ${end - 1n},`
    if (typeof before === "bigint" && end > before) return `${part} is not below version ${before}`
    if (settledUpTo < end) {
      return `${part} is not settled with all that comes before it, or has the newest event: the log is settled up to version ${settledUpTo}`
    }
    if (typeof before === "bigint") return undefined
    const [late] = yield* Effect.flatMap(
      query(sql`
        SELECT created_at::text AS "createdAt" FROM ${sql.literal(name)}
        WHERE created_at IS NULL OR created_at >= ${DateTime.formatIso(before)}::timestamptz LIMIT 1`),
      decodeRows(Late, names.events, [])
    )
    return late === undefined ? undefined : `${part} has an event of ${late.createdAt ?? "no time"}`
  })

  const factsOf = ({ name }: Partition) =>
    query(sql`
      SELECT count(*) AS events, max(version) AS "lastVersion",
        (SELECT id FROM ${sql.literal(name)} ORDER BY version DESC LIMIT 1) AS "lastId",
        CASE WHEN isfinite(min(created_at)) THEN min(created_at)::text END AS "firstCreatedAt",
        CASE WHEN isfinite(max(created_at)) THEN max(created_at)::text END AS "lastCreatedAt",
        coalesce(pg_catalog.sum(pg_catalog.hashtextextended((event.*)::text, 0::int8)), 0::numeric)::text AS digest
      FROM ${sql.literal(name)} AS event`).pipe(
      Effect.flatMap(decodeRows(Facts, names.events, [])),
      Effect.flatMap(([facts]) =>
        facts === undefined ? Effect.die(new Error("an aggregate gives one row")) : Effect.succeed(facts)
      )
    )

  /** Writes the file of a partition, and fails unless it has what the partition has. */
  const writeAndVerify = Effect.fnUntraced(function* (partition: Partition, facts: Facts) {
    const { end: endVersion, first: firstVersion, name } = partition
    const { events } = facts
    const file = fileNameOf(partition, facts)
    const context = yield* Effect.context<PostgresDatabase>()
    let done = 0
    const advance = (doing: Progress["doing"], count: number) => {
      done += count
      return tell({ firstVersion, endVersion, doing, done, events })
    }
    const pages = Exporting.pagesUpTo(firstVersion - 1n, endVersion - 1n).pipe(
      Stream.tap((rows) => advance("writing", rows.length)),
      Stream.map((rows) => ({ text: rows.map(exactLineOf).join(""), count: rows.length })),
      // An archive may read the stream in a fiber without this transaction, to which the statements belong.
      Stream.provideContext(context)
    )
    const written = yield* ArchiveFile.write(archive, file, pages)
    done = 0
    const lines = ArchiveFile.linesOf(archive, { ...written, events })
    yield* Stream.runForEach(
      inBatches(lines, (line) => line.length),
      (batch) =>
        Effect.gen(function* () {
          const different = yield* ArchivedRows.firstDifference(database, name, batch)
          if (different !== undefined) {
            return yield* new ArchiveRefused({
              message: `version ${different} cannot be archived: its line in ${file} does not become the same event again`
            })
          }
          yield* advance("verifying", batch.length)
        })
    )
    return written
  })

  /** Writes down what is archived. */
  const record = Effect.fnUntraced(function* (
    { end, first, name }: Partition,
    { firstCreatedAt, lastCreatedAt, lastId, lastVersion }: Facts,
    { bytes, events, name: file, sha256 }: ArchiveFile.Written
  ) {
    yield* query(sql`
      INSERT INTO ${archives} (first_version, end_version, name, events, bytes, sha256, last_version, last_id,
        first_created_at, last_created_at)
      VALUES (${first}, ${end}, ${file}, ${events}, ${bytes}, ${sha256}, ${lastVersion}, ${lastId},
        ${firstCreatedAt}::timestamptz, ${lastCreatedAt}::timestamptz)`)
    yield* query(sql`
      INSERT INTO ${archived} (aggregate_id, first_version, version)
      SELECT aggregate_id, min(version), max(version) FROM ${sql.literal(name)} GROUP BY aggregate_id
      ON CONFLICT (aggregate_id) DO UPDATE SET version = excluded.version`)
  })

  const archiveOldest = Effect.fnUntraced(function* (
    before: Before,
    settledUpTo: bigint
  ): Effect.fn.Return<string | ArchiveTable.Part, ArchiveError | ArchiveRefused | Reason, PostgresDatabase> {
    const partition = yield* oldest
    if (partition === undefined) return "there is no partition"
    const why = yield* objection(partition, before, settledUpTo)
    if (why !== undefined) return why
    yield* ArchiveLocks.freeze(database, partition.name)
    const facts = yield* factsOf(partition)
    const written = yield* writeAndVerify(partition, facts)
    yield* record(partition, facts, written)
    yield* ArchiveLocks.takeAlone(database, partition.name)
    yield* run(`ALTER TABLE ${log} DETACH PARTITION ${partition.name}`)
    yield* run(`DROP TABLE ${partition.name}`)
    const part = (yield* ArchiveTable.list(database)).at(-1)
    return part ?? (yield* Effect.die(new Error("the part was written down")))
  })

  return {
    settled,

    /** Archives the oldest partition, or says why not. */
    next: (before: Before, settledUpTo: bigint) =>
      ArchiveLocks.exclusively(
        database,
        Effect.provideService(archiveOldest(before, settledUpTo), PostgresDatabase, database)
      )
  }
})
