-- Comments on the tables and their columns, for those who look at the database by other means. The text is that of
-- `strata schema`: src/postgres/TableReference.ts has it, and a test compares it with this file.
--
-- Only what the role that migrates owns gets comments, only where there is none, and an adopted table of go-sync-kit gets none.
-- A comment changes no row, and waits for no reader or writer.
\if :{?events}
\else
\set events events
\endif
\if :{?offsets}
\else
\set offsets offsets_store
\endif
\if :{?states}
\else
\set states states_store
\endif
\if :{?messages}
\else
\set messages strata_messages
\endif
\if :{?spool}
\else
\set spool retryspool_messages
\endif
\if :{?migrations}
\else
\set migrations strata_migrations
\endif
\set events_log :events _log
\set events_tags :events _tags
\set events_mark :events _mark
\set events_archives :events _archives
\set events_archived :events _archived

SET strata.events TO :"events";

-- next
SET strata.events_log TO :"events_log";

-- next
SET strata.events_tags TO :"events_tags";

-- next
SET strata.events_mark TO :"events_mark";

-- next
SET strata.events_archives TO :"events_archives";

-- next
SET strata.events_archived TO :"events_archived";

-- next
SET strata.offsets TO :"offsets";

-- next
SET strata.states TO :"states";

-- next
SET strata.messages TO :"messages";

-- next
SET strata.spool TO :"spool";

-- next
SET strata.migrations TO :"migrations";

-- next
DO $do$
DECLARE
    wanted  RECORD;
    found   RECORD;
    already CONSTANT TEXT := pg_catalog.current_setting('search_path');
BEGIN
    FOR wanted IN
        -- The tables are found in the search path of the caller, and everything else where it is built in.
        SELECT tables.key, pg_catalog.to_regclass(pg_catalog.quote_ident(pg_catalog.current_setting(tables.setting))) AS relation
        FROM (VALUES
            ('events'::pg_catalog.text, 'strata.events'::pg_catalog.text),
            ('events_log'::pg_catalog.text, 'strata.events_log'::pg_catalog.text),
            ('events_tags'::pg_catalog.text, 'strata.events_tags'::pg_catalog.text),
            ('events_mark'::pg_catalog.text, 'strata.events_mark'::pg_catalog.text),
            ('events_archives'::pg_catalog.text, 'strata.events_archives'::pg_catalog.text),
            ('events_archived'::pg_catalog.text, 'strata.events_archived'::pg_catalog.text),
            ('offsets'::pg_catalog.text, 'strata.offsets'::pg_catalog.text),
            ('states'::pg_catalog.text, 'strata.states'::pg_catalog.text),
            ('messages'::pg_catalog.text, 'strata.messages'::pg_catalog.text),
            ('spool'::pg_catalog.text, 'strata.spool'::pg_catalog.text),
            ('migrations'::pg_catalog.text, 'strata.migrations'::pg_catalog.text)
        ) AS tables (key, setting)
    LOOP
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        FOR found IN
            SELECT described.name, described.text, attnum
            FROM (VALUES
                ('events', NULL, 'The log of events, to which rows are only added. go-sync-kit reads and writes the same table'),
                ('events', 'version', 'The place in the log. A sequence draws it before the commit, so there are holes'),
                ('events', 'id', 'The id of the event, of which there is one in the log: a UUIDv7 unless the writer has given one. In a compact log the type is uuid'),
                ('events', 'aggregate_id', 'What the event happened to'),
                ('events', 'event_type', 'What has happened: the tag of its class in a typed view'),
                ('events', 'data', 'The event itself. In a typed view, the fields of its class'),
                ('events', 'metadata', 'What is known beside the event, such as schemaVersion, the version of its data'),
                ('events', 'created_at', 'When the transaction began that has appended the event'),
                ('events', 'stream_name', 'stream_ and the aggregate id, as go-sync-kit names it. A compact log has no such column'),
                ('events_log', NULL, 'Names the log, beside the table of events, and keeps what strata doctor has seen last'),
                ('events_log', 'single', 'Always true: the table has one row'),
                ('events_log', 'id', 'The id of the log, which is copied and restored together with the events'),
                ('events_log', 'system_identifier', 'That of the server on which strata doctor was run last; null before'),
                ('events_log', 'timeline', 'The timeline of that server then'),
                ('events_log', 'version', 'The version of the last event then'),
                ('events_log', 'event_id', 'The id of that event'),
                ('events_log', 'seen_at', 'When that was'),
                ('events_tags', NULL, 'The tags of events, beside the log. The empty tag is of no event: its highest version rises with each later tagging'),
                ('events_tags', 'tag', 'What the event is about'),
                ('events_tags', 'version', 'The version of the event'),
                ('events_tags', 'event_type', 'The type of the event, or null in rows of earlier versions'),
                ('events_mark', NULL, 'How far the log is settled, for readers on standbys'),
                ('events_mark', 'single', 'Always true: the table has at most one row'),
                ('events_mark', 'version', 'The version up to which every event that there will ever be was committed then'),
                ('events_mark', 'server', 'The server that has settled it, by the time of its start, and the file of its sequence'),
                ('events_archives', NULL, 'The parts of the log that were written to files: always the oldest, without one that is left out'),
                ('events_archives', 'first_version', 'The first version that the part may have'),
                ('events_archives', 'end_version', 'The version after the last one that the part may have'),
                ('events_archives', 'name', 'The name of the file'),
                ('events_archives', 'events', 'How many events the file has'),
                ('events_archives', 'bytes', 'How many bytes the file had when it was written'),
                ('events_archives', 'sha256', 'The checksum of its events, which is also in its last line'),
                ('events_archives', 'last_version', 'The version of the last event of the part; null if it has none'),
                ('events_archives', 'last_id', 'The id of that event'),
                ('events_archives', 'first_created_at', 'The earliest time of an event of the part'),
                ('events_archives', 'last_created_at', 'The latest time of one'),
                ('events_archives', 'archived_at', 'When the part was archived'),
                ('events_archived', NULL, 'The aggregates that have events in the parts that were written to files'),
                ('events_archived', 'aggregate_id', 'The aggregate'),
                ('events_archived', 'first_version', 'The version of its first event there'),
                ('events_archived', 'version', 'The version of its last event there. Where later ones were restored: one that is not below it'),
                ('offsets', NULL, 'How far the shards of projections are. eGo reads and writes the same table'),
                ('offsets', 'projection_name', 'The name of the projection'),
                ('offsets', 'shard_number', 'The number of the shard, from 0'),
                ('offsets', 'current_offset', 'The version up to which the shard has handled its events, and passed those of others'),
                ('offsets', 'timestamp', 'When the offset was written last, in epoch milliseconds'),
                ('states', NULL, 'The latest state of each entity. eGo reads and writes the same table'),
                ('states', 'persistence_id', 'The id of the entity. Projections keep their records under strata/projection/'),
                ('states', 'version_number', 'The version of the state: a write with a lower one is refused'),
                ('states', 'state_payload', 'The state, as its codec has written it'),
                ('states', 'state_manifest', 'What the payload is: decides how it is read'),
                ('states', 'timestamp', 'When the state was written, in epoch nanoseconds'),
                ('states', 'shard_number', 'The shard of the entity'),
                ('messages', NULL, 'The messages of queues'),
                ('messages', 'queue', 'The queue of the message'),
                ('messages', 'id', 'The id of the message in its queue'),
                ('messages', 'state', '0 incoming, 1 active, 2 deferred, 3 hold, 4 bounce, 5 archived; 6: only the id, which stays taken for a while'),
                ('messages', 'attempts', 'How often the message was claimed'),
                ('messages', 'max_attempts', 'How often it is tried before it bounces'),
                ('messages', 'next_retry', 'When it is due, if it is deferred'),
                ('messages', 'created', 'When it was stored'),
                ('messages', 'updated', 'When it was changed last'),
                ('messages', 'last_error', 'Why the last attempt has failed, or why it was held'),
                ('messages', 'size', 'How many bytes it has, as its sender says'),
                ('messages', 'priority', 'From 1, the most urgent, to 10'),
                ('messages', 'headers', 'What the sender has added, such as traceparent'),
                ('messages', 'retry_policy_name', 'The name of the policy by which it is tried again; empty for the default'),
                ('messages', 'lease_owner', 'The worker that has the message, while it is active'),
                ('messages', 'lease_until', 'Until when the worker has it, unless it renews the lease'),
                ('messages', 'payload', 'The message itself'),
                ('messages', 'remember', 'For how long the id stays taken after the delivery; null for not at all'),
                ('messages', 'remembered_until', 'In state 6: when the id is free again'),
                ('messages', 'digest', 'In state 6: the digest of the payload'),
                ('spool', NULL, 'The messages of RetrySpool, which reads and writes the same table; with queues: shared also those of queues'),
                ('spool', 'id', 'The id of the message'),
                ('spool', 'state', '0 incoming, 1 active, 2 deferred, 3 hold, 4 bounce, 5 archived'),
                ('spool', 'attempts', 'How often the message was claimed'),
                ('spool', 'max_attempts', 'How often it is tried before it bounces'),
                ('spool', 'next_retry', 'When it is due, if it is deferred'),
                ('spool', 'created', 'When it was stored'),
                ('spool', 'updated', 'When it was changed last'),
                ('spool', 'last_error', 'Why the last attempt has failed, or why it was held'),
                ('spool', 'size', 'How many bytes it has, as its sender says'),
                ('spool', 'priority', 'From 1, the most urgent, to 10'),
                ('spool', 'headers', 'What the sender has added, such as traceparent'),
                ('spool', 'retry_policy_name', 'The name of the policy by which it is tried again; empty for the default'),
                ('spool', 'lease_owner', 'The worker that has the message, while it is active'),
                ('spool', 'lease_until', 'Until when the worker has it, unless it renews the lease'),
                ('spool', 'payload', 'The message itself'),
                ('spool', 'queue', 'The queue of the message; null or empty for a message of RetrySpool, which is in none'),
                ('migrations', NULL, 'Which files of resources/postgres have run, for which table'),
                ('migrations', 'id', 'The number of the file'),
                ('migrations', 'table_name', 'The table that the file is about'),
                ('migrations', 'file', 'The name of the file'),
                ('migrations', 'applied_at', 'When it was run')
            ) AS described (key, name, text)
            JOIN pg_class ON pg_class.oid = wanted.relation::oid AND relkind IN ('r', 'p')
            JOIN pg_roles ON pg_roles.oid = relowner AND rolname = current_user
            LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND attname::text = described.name AND NOT attisdropped
            WHERE described.key = wanted.key AND (described.name IS NULL OR attnum IS NOT NULL)
                AND NOT EXISTS (
                    SELECT FROM pg_description
                    WHERE objoid = pg_class.oid AND classoid = 'pg_class'::regclass AND objsubid = coalesce(attnum, 0)
                )
                -- The versions of go-sync-kit's own table are no identity.
                AND (wanted.key <> 'events' OR EXISTS (
                    SELECT FROM pg_attribute AS version
                    WHERE version.attrelid = pg_class.oid AND version.attname = 'version' AND version.attidentity <> ''
                ))
        LOOP
            IF found.name IS NULL THEN
                EXECUTE format('COMMENT ON TABLE %s IS %L', wanted.relation, found.text);
            ELSE
                EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', wanted.relation, found.name, found.text);
            END IF;
        END LOOP;
        PERFORM pg_catalog.set_config('search_path', already, true);
    END LOOP;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
END
$do$;

-- next
RESET strata.events;

-- next
RESET strata.events_log;

-- next
RESET strata.events_tags;

-- next
RESET strata.events_mark;

-- next
RESET strata.events_archives;

-- next
RESET strata.events_archived;

-- next
RESET strata.offsets;

-- next
RESET strata.states;

-- next
RESET strata.messages;

-- next
RESET strata.spool;

-- next
RESET strata.migrations;
