/**
 * What the tables and their columns are for: the one description, from which `strata schema` and the comments in the database
 * (`resources/postgres/0069_events_comments.sql`) are made.
 */

export interface ColumnReference {
  readonly name: string
  /** As Postgres names it. */
  readonly type: string
  readonly description: string
}

export interface TableReference {
  /** The key of its name in the option `tables`; what begins with `events_` stands beside the table of events. */
  readonly key:
    | "events"
    | "events_log"
    | "events_tags"
    | "events_mark"
    | "events_archives"
    | "events_archived"
    | "events_ids"
    | "offsets"
    | "states"
    | "messages"
    | "spool"
    | "migrations"
  /** Its name, unless the option `tables` gives another one. */
  readonly name: string
  readonly description: string
  readonly columns: ReadonlyArray<ColumnReference>
}

const column = (name: string, type: string, description: string): ColumnReference => ({ name, type, description })

const time = "timestamp with time zone"
const shortText = "character varying(255)"

const states = "0 incoming, 1 active, 2 deferred, 3 hold, 4 bounce, 5 archived"

const eventColumns = [
  column("version", "bigint", "The place in the log. A sequence draws it before the commit, so there are holes"),
  column(
    "id",
    "text",
    "The id of the event, of which there is one in the log: a UUIDv7 unless the writer has given one. In a compact log the type is uuid"
  ),
  column("aggregate_id", "text", "What the event happened to"),
  column("event_type", "text", "What has happened: the tag of its class in a typed view"),
  column("data", "jsonb", "The event itself. In a typed view, the fields of its class"),
  column("metadata", "jsonb", "What is known beside the event, such as schemaVersion, the version of its data"),
  column("created_at", time, "When the transaction began that has appended the event"),
  column(
    "stream_name",
    "text",
    "stream_ and the aggregate id, as go-sync-kit names it. A compact log has no such column"
  )
]

const logColumns = [
  column("single", "boolean", "Always true: the table has one row"),
  column("id", "uuid", "The id of the log, which is copied and restored together with the events"),
  column("system_identifier", "text", "That of the server on which strata doctor was run last; null before"),
  column("timeline", "integer", "The timeline of that server then"),
  column("version", "bigint", "The version of the last event then"),
  column("event_id", "text", "The id of that event"),
  column("seen_at", time, "When that was")
]

const archiveColumns = [
  column("first_version", "bigint", "The first version that the part may have"),
  column("end_version", "bigint", "The version after the last one that the part may have"),
  column("name", "text", "The name of the file"),
  column("events", "bigint", "How many events the file has"),
  column("bytes", "bigint", "How many bytes the file had when it was written"),
  column("sha256", "text", "The checksum of its events, which is also in its last line"),
  column("last_version", "bigint", "The version of the last event of the part; null if it has none"),
  column("last_id", "text", "The id of that event"),
  column("first_created_at", time, "The earliest time of an event of the part"),
  column("last_created_at", time, "The latest time of one"),
  column("archived_at", time, "When the part was archived")
]

const offsetColumns = [
  column("projection_name", shortText, "The name of the projection"),
  column("shard_number", "bigint", "The number of the shard, from 0"),
  column(
    "current_offset",
    "bigint",
    "The version up to which the shard has handled its events, and passed those of others"
  ),
  column("timestamp", "bigint", "When the offset was written last, in epoch milliseconds")
]

const stateColumns = [
  column("persistence_id", shortText, "The id of the entity. Projections keep their records under strata/projection/"),
  column("version_number", "bigint", "The version of the state: a write with a lower one is refused"),
  column("state_payload", "bytea", "The state, as its codec has written it"),
  column("state_manifest", shortText, "What the payload is: decides how it is read"),
  column("timestamp", "bigint", "When the state was written, in epoch nanoseconds"),
  column("shard_number", "bigint", "The shard of the entity")
]

/** What both tables of messages have. */
const messageColumns = (stateText: string) => [
  column("state", "integer", stateText),
  column("attempts", "integer", "How often the message was claimed"),
  column("max_attempts", "integer", "How often it is tried before it bounces"),
  column("next_retry", time, "When it is due, if it is deferred"),
  column("created", time, "When it was stored"),
  column("updated", time, "When it was changed last"),
  column("last_error", "text", "Why the last attempt has failed, or why it was held"),
  column("size", "bigint", "How many bytes it has, as its sender says"),
  column("priority", "integer", "From 1, the most urgent, to 10"),
  column("headers", "jsonb", "What the sender has added, such as traceparent"),
  column("retry_policy_name", "text", "The name of the policy by which it is tried again; empty for the default"),
  column("lease_owner", "text", "The worker that has the message, while it is active"),
  column("lease_until", time, "Until when the worker has it, unless it renews the lease"),
  column("payload", "jsonb", "The message itself")
]

const [state, ...rest] = messageColumns(`${states}; 6: only the id, which stays taken for a while`)

/** The table that only a log with partitions has. The migration that makes it gives it its comments. */
export const ofPartitions: TableReference = {
  key: "events_ids",
  name: "events_ids",
  description: "The ids of all events of a log that has partitions",
  columns: [
    column("id", "text", "The id of the event, of which there is one in the log"),
    column("version", "bigint", "The version of the event")
  ]
}

/** Every table that each database has, with all of its columns. */
export const tables: ReadonlyArray<TableReference> = [
  {
    key: "events",
    name: "events",
    description: "The log of events, to which rows are only added. go-sync-kit reads and writes the same table",
    columns: eventColumns
  },
  {
    key: "events_log",
    name: "events_log",
    description: "Names the log, beside the table of events, and keeps what strata doctor has seen last",
    columns: logColumns
  },
  {
    key: "events_tags",
    name: "events_tags",
    description:
      "The tags of events, beside the log. The empty tag is of no event: its highest version rises with each later tagging",
    columns: [
      column("tag", "text", "What the event is about"),
      column("version", "bigint", "The version of the event"),
      column("event_type", "text", "The type of the event, or null in rows of earlier versions")
    ]
  },
  {
    key: "events_mark",
    name: "events_mark",
    description: "How far the log is settled, for readers on standbys",
    columns: [
      column("single", "boolean", "Always true: the table has at most one row"),
      column("version", "bigint", "The version up to which every event that there will ever be was committed then"),
      column("server", "text", "The server that has settled it, by the time of its start, and the file of its sequence")
    ]
  },
  {
    key: "events_archives",
    name: "events_archives",
    description: "The parts of the log that were written to files: always the oldest, without one that is left out",
    columns: archiveColumns
  },
  {
    key: "events_archived",
    name: "events_archived",
    description: "The aggregates that have events in the parts that were written to files",
    columns: [
      column("aggregate_id", "text", "The aggregate"),
      column("first_version", "bigint", "The version of its first event there"),
      column(
        "version",
        "bigint",
        "The version of its last event there. Where later ones were restored: one that is not below it"
      )
    ]
  },
  {
    key: "offsets",
    name: "offsets_store",
    description: "How far the shards of projections are. eGo reads and writes the same table",
    columns: offsetColumns
  },
  {
    key: "states",
    name: "states_store",
    description: "The latest state of each entity. eGo reads and writes the same table",
    columns: stateColumns
  },
  {
    key: "messages",
    name: "strata_messages",
    description: "The messages of queues",
    columns: [
      column("queue", "text", "The queue of the message"),
      column("id", shortText, "The id of the message in its queue"),
      ...(state === undefined ? [] : [state]),
      ...rest,
      column("remember", "interval", "For how long the id stays taken after the delivery; null for not at all"),
      column("remembered_until", time, "In state 6: when the id is free again"),
      column("digest", "bytea", "In state 6: the digest of the payload")
    ]
  },
  {
    key: "spool",
    name: "retryspool_messages",
    description:
      "The messages of RetrySpool, which reads and writes the same table; with queues: shared also those of queues",
    columns: [
      column("id", shortText, "The id of the message"),
      ...messageColumns(states),
      column("queue", "text", "The queue of the message; null or empty for a message of RetrySpool, which is in none")
    ]
  },
  {
    key: "migrations",
    name: "strata_migrations",
    description: "Which files of resources/postgres have run, for which table",
    columns: [
      column("id", "integer", "The number of the file"),
      column("table_name", "text", "The table that the file is about"),
      column("file", "text", "The name of the file"),
      column("applied_at", time, "When it was run")
    ]
  }
]

const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`

/** A row of the list in the migration: of the table itself where there is no column. */
const row = (key: string, name: string | undefined, description: string): string =>
  `            (${literal(key)}, ${name === undefined ? "NULL" : literal(name)}, ${literal(description)})`

/** The lines of the migration that say what each table and column is for. */
export const commentRows: string = tables
  .flatMap(({ columns, description, key }) =>
    [row(key, undefined, description)].concat(columns.map((column) => row(key, column.name, column.description)))
  )
  .join(",\n")
