-- Runs appends that expect something of an aggregate, have a condition, or bring ids or tags of events, several appends in
-- one call. No two appends of a call have an id in common, or an aggregate of which one of them expects something, and no
-- append of a call brings what matches the condition of another one. An append with an item that has no tags is alone.
--
-- A row of the result says what came of an event, or of an append that writes nothing:
--
--   stored      the event was written
--   known       the event was there already: the append ignores duplicates
--   duplicate   an event that is there already has the id in the key
--   archived    an archived event has the id in the key, and may be the same: with its version
--   conflict    the aggregate in the key is not as it was expected: with its version
--   overtaken   an event has come that the condition does not know: resources/postgres/0059_events_missed.sql has the key
--   replaced    the log is not the one that the decision has read: with the event at the mark, and the end of the log
--   blocked     the append would have to wait, and the caller is not patient
--   isolation   the transaction does not see what others have committed meanwhile
--
-- As a function a call is one round trip, and each of its statements sees what others committed while the statement before
-- waited for a lock. The plans are made once: for arrays the planner would make new ones at each call (16 calls at once:
-- 3.3k appends/s instead of 5.1k), and never compiled: with some hundred partitions that would take seconds at each call.
-- Appends that only take shared locks need no function: src/postgres/events/AppendStatements.ts.
\if :{?events}
\else
\set events events
\endif
\set events_append :events _append

SET strata.function TO :"events_append";

-- next
SET check_function_bodies TO off;

-- next
-- The version before this file knew no tags. Its processes that still run go on: the defaults complete their calls.
DROP FUNCTION IF EXISTS :"events_append" (
    INTEGER[], TEXT[], TEXT[], TEXT[], TEXT[], TEXT[], BOOLEAN[], BOOLEAN[], TEXT[], BOOLEAN
);

-- next
-- The version before this file gave each item of a condition without its types.
DROP FUNCTION IF EXISTS :"events_append" (
    INTEGER[], TEXT[], TEXT[], TEXT[], TEXT[], TEXT[], BOOLEAN[], BOOLEAN[], TEXT[], BOOLEAN, TEXT[], TEXT[], INTEGER[], TEXT[],
    BIGINT[], TEXT, BIGINT, JSONB
);

-- next
CREATE OR REPLACE FUNCTION :"events_append" (
    requests      INTEGER[], -- for each event: the append that it belongs to
    ids           TEXT[],
    aggregate_ids TEXT[],
    event_types   TEXT[],
    datas         TEXT[],
    metadatas     TEXT[],
    given         BOOLEAN[], -- whether the caller chose the id
    ignoring      BOOLEAN[], -- whether it is fine if the event is stored already
    expected      TEXT[],    -- of the aggregate: any, none, some, or a version
    patient       BOOLEAN,   -- whether to wait for locks; if not, appends that would have to wait are blocked
    tagged        TEXT[] DEFAULT '{}', -- for each tag: the id of the event that has it
    tags          TEXT[] DEFAULT '{}',
    deciding      INTEGER[] DEFAULT '{}', -- for each item of a condition, and each of its types: the append that has the condition
    decided       TEXT[] DEFAULT '{}', -- its first tag, or an empty text where the item has no tags
    marks         BIGINT[] DEFAULT '{}', -- the mark of the condition, or -1 where one look at the tag does not decide
    server        TEXT   DEFAULT '',   -- what the first condition says of the log; -1 is the mark of those that say something else
    epoch         BIGINT DEFAULT 0,
    conditions    JSONB  DEFAULT NULL, -- of appends that have one: see src/postgres/events/AppendRequest.ts
    kinds         TEXT[] DEFAULT '{}', -- beside `deciding`: the type, or an empty text for all types
    known_above   TEXT[] DEFAULT '{}'  -- beside `deciding`: the versions above the mark that the decision has seen, as an array
)
RETURNS TABLE (outcome TEXT, request INTEGER, key TEXT, version BIGINT, created_at TIMESTAMPTZ)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET jit = off
AS $body$
#variable_conflict use_column
DECLARE
    -- The key of an aggregate's lock is the hash of its id by this seed, and the key of an event's lock the hash of its id by
    -- the next seed. They are made of a number that the log keeps: resources/postgres/0061_events_key.sql. The empty text stands
    -- for all aggregates, or for all events. The same keys are made for statements of TypeScript by
    -- src/postgres/events/AppendLocks.ts: change both or none. The key of a tag's lock is the hash of the tag by a seed of its
    -- own, below those of all tables, so that no tag is taken for an aggregate.
    seed      CONSTANT BIGINT  := 2 * :"events_key"();
    tag_seed  CONSTANT BIGINT  := -1 - :"events_key"();
    -- Locks live in shared memory, which has room for some 6,400 by default. A call with more aggregates than this number, or
    -- with more aggregates, ids and tags together, locks all aggregates, and so all appends: each of them shares that lock. A
    -- call with more ids locks all events.
    max_locks CONSTANT INTEGER := 250;
    named     CONSTANT INTEGER := (SELECT count(*) FROM unnest(given) AS it WHERE it);
    has_tags  CONSTANT BOOLEAN := cardinality(tags) > 0;
    coarse    CONSTANT BOOLEAN := (SELECT count(DISTINCT name) FROM unnest(aggregate_ids) AS name)
        + CASE WHEN has_tags OR conditions IS NOT NULL
            THEN named + (SELECT count(DISTINCT tag) FROM unnest(tags || decided) AS tag) ELSE 0 END > max_locks
        OR '' = ANY (decided);
    -- The text of metadata that a compact log does not store.
    nothing   CONSTANT TEXT    := CASE WHEN :'events.id' = 'uuid' THEN 'null' END;
    -- Whether the log has partitions, and a table of the ids beside it. It stays so once the log is locked.
    divided   BOOLEAN := to_regclass(:'events_ids') IS NOT NULL;
    lock      RECORD;
    before    CONSTANT TEXT := current_setting('lock_timeout');
    failed    INTEGER[] := '{}'; -- the appends that write nothing
    stored    TEXT[]    := '{}'; -- the ids that are in the log already
    known     TEXT[]    := '{}'; -- the given ids that are in the log already, and the versions of their events
    places    BIGINT[]  := '{}';
    gone      TEXT[]; -- the aggregates with archived events, and the last version of these
    ends      BIGINT[];
    wrong     INTEGER[];
    names     TEXT[];
    actual    BIGINT[];
    outcomes  TEXT[];
    suspects  INTEGER[]; -- the appends whose conditions have to be looked at closely
BEGIN
    -- So many events at once may need more partitions than there are, if the log has partitions. Later none can be made: see
    -- resources/postgres/0065_events_partitions_versions.sql.
    IF cardinality(ids) >= 100 AND divided THEN
        PERFORM :"events_extend" (cardinality(ids));
    END IF;

    -- The locks. All calls take them in the order of level and key, so that no two calls wait for each other in a circle.
    --
    -- A condition and the events that it forbids exclude each other: an append shares each tag of its events, and has the
    -- first tag of each item of its condition for itself. Whatever matches an item has that tag; the first one alone is
    -- enough, so that a second tag that all events of a tenant have does not make the tenant's appends wait for each other.
    -- What matches an item without tags is in the log, which every append shares: such a condition takes the coarse lock.
    FOR lock IN
        SELECT 0 AS level, hashtextextended('', seed) AS key, coarse AS exclusive, NULL AS aggregate_id, NULL AS id,
            NULL AS tag
        UNION ALL
        SELECT 0, hashtextextended('', seed + 1), named > max_locks, NULL, NULL, NULL WHERE named > 0
        UNION ALL
        SELECT 1, hashtextextended(aggregate_id, seed), bool_or(expectation <> 'any'), aggregate_id, NULL, NULL
        FROM unnest(aggregate_ids, expected) AS new (aggregate_id, expectation) WHERE NOT coarse GROUP BY aggregate_id
        UNION ALL
        SELECT 1, hashtextextended(id, seed + 1), true, NULL, id, NULL
        FROM unnest(ids, given) AS new (id, given) WHERE new.given AND named <= max_locks
        UNION ALL
        SELECT 1, hashtextextended(tag, tag_seed), bool_or(own), NULL, NULL, tag
        FROM (SELECT tag, false AS own FROM unnest(tags) AS tag UNION ALL SELECT tag, true FROM unnest(decided) AS tag) AS new
        WHERE (has_tags OR conditions IS NOT NULL) AND NOT coarse GROUP BY tag
        ORDER BY 1, 2, 3 DESC
    LOOP
        CONTINUE WHEN CASE WHEN lock.exclusive THEN pg_try_advisory_xact_lock(lock.key)
            ELSE pg_try_advisory_xact_lock_shared(lock.key) END;
        IF NOT patient THEN
            failed := failed || ARRAY(
                SELECT new.request FROM unnest(requests, ids, aggregate_ids) AS new (request, id, aggregate_id)
                WHERE lock.level = 0 OR new.aggregate_id = lock.aggregate_id OR new.id = lock.id
                    OR lock.tag IS NOT NULL AND (
                        (new.id, lock.tag) IN (SELECT * FROM unnest(tagged, tags))
                        OR (new.request, lock.tag) IN (SELECT * FROM unnest(deciding, decided))
                    )
            );
            CONTINUE;
        END IF;
        -- Any role that may connect can take such a lock, and keep it. So the wait has a limit, and the error says who it is.
        BEGIN
            IF before = '0' THEN
                PERFORM set_config('lock_timeout', '1min', true);
            END IF;
            IF lock.exclusive THEN
                PERFORM pg_advisory_xact_lock(lock.key);
            ELSE
                PERFORM pg_advisory_xact_lock_shared(lock.key);
            END IF;
            PERFORM set_config('lock_timeout', before, true);
        EXCEPTION WHEN lock_not_available THEN
            RAISE EXCEPTION 'waiting for %', coalesce((
                SELECT string_agg(DISTINCT CASE WHEN held.pid IS NULL
                    THEN format('the prepared transaction %L, role %s', gid, owner)
                    ELSE format('pid %s, role %s, application %L', held.pid, usename, application_name)
                END, '; ')
                FROM pg_locks AS held LEFT JOIN pg_stat_activity AS activity ON activity.pid = held.pid
                LEFT JOIN pg_locks AS own ON held.pid IS NULL AND own.virtualtransaction = held.virtualtransaction
                    AND own.locktype = 'transactionid' AND own.mode = 'ExclusiveLock'
                LEFT JOIN pg_prepared_xacts AS prepared ON prepared.transaction = own.transactionid
                WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 1
                    AND held.pid IS DISTINCT FROM pg_backend_pid()
                    AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                    AND held.classid = (lock.key >> 32 & 4294967295)::oid AND held.objid = (lock.key & 4294967295)::oid
            ), 'a transaction that has just ended') USING ERRCODE = 'lock_not_available';
        END;
    END LOOP;
    IF cardinality(failed) > 0 THEN
        RETURN QUERY
        SELECT DISTINCT 'blocked', blocked, NULL, NULL::bigint, NULL::timestamptz FROM unnest(failed) AS blocked;
    END IF;

    -- Nothing is left to append, so the table is not locked: readers would wait for this transaction.
    IF requests <@ failed THEN
        RETURN;
    END IF;

    -- The lock of the INSERT, before the first look into the table. A look takes a weaker lock, and the INSERT would exchange
    -- it for this one: a transaction that creates an index and then a trigger, as go-sync-kit does at each start, comes in
    -- between, and the two wait for each other (94 of 128 starts failed beside 8 writers). After the advisory locks, since
    -- readers wait for each transaction that has this lock: an append that waits for its turn must not have it.
    --
    -- An INSERT of nothing takes that lock, too. LOCK TABLE would ask for the right to insert all columns, the version included.
    -- A log with partitions has triggers that run for an INSERT of nothing, and none that run for a MERGE that does nothing.
    IF divided THEN
        MERGE INTO ONLY :"events" USING (SELECT) AS nothing ON false WHEN NOT MATCHED THEN DO NOTHING;
    ELSE
        INSERT INTO :"events" (id, aggregate_id, event_type) SELECT NULL, '', '' WHERE false;
        -- It may have been divided until this transaction had the lock.
        divided := to_regclass(:'events_ids') IS NOT NULL;
    END IF;

    -- A transaction that reads its first snapshot again cannot see what others have appended since.
    IF current_setting('transaction_isolation') NOT LIKE 'read %' THEN
        wrong := ARRAY(
            SELECT new.request FROM unnest(requests, expected) AS new (request, expectation) WHERE expectation <> 'any'
            UNION
            SELECT unnest(deciding)
        );
        RETURN QUERY
        SELECT DISTINCT 'isolation', unsure, NULL, NULL::bigint, NULL::timestamptz FROM unnest(wrong) AS unsure;
        failed := failed || wrong;
    END IF;

    -- The ids that the log has already: fine where the append ignores duplicates and the stored event is the same. OFFSET 0
    -- makes the planner look up each id: a plan made while the table was small would else read all of it. A log that has
    -- partitions keeps its ids in a table beside them.
    IF named > 0 AND NOT divided THEN
        SELECT array_agg(new.id), array_agg(old.version) INTO known, places
        FROM unnest(requests, ids, given) AS new (request, id, given)
        CROSS JOIN LATERAL (
            SELECT event.version FROM :"events" AS event WHERE event.id = CAST(new.id AS :"events.id") OFFSET 0
        ) AS old
        WHERE new.given AND new.request <> ALL (failed);
    ELSIF named > 0 THEN
        SELECT array_agg(new.id), array_agg(old.version) INTO known, places
        FROM unnest(requests, ids, given) AS new (request, id, given)
        CROSS JOIN LATERAL (
            SELECT event.version FROM :"events_ids" AS event WHERE event.id = CAST(new.id AS :"events.id") OFFSET 0
        ) AS old
        WHERE new.given AND new.request <> ALL (failed);
    END IF;
    IF cardinality(known) > 0 THEN
        SELECT coalesce(array_agg(new.id), '{}'),
               coalesce(array_agg(new.request ORDER BY new.place) FILTER (WHERE NOT (new.ignoring AND event.same)), '{}'),
               coalesce(array_agg(new.id ORDER BY new.place) FILTER (WHERE NOT (new.ignoring AND event.same)), '{}')
        INTO stored, wrong, names
        FROM unnest(requests, ids, aggregate_ids, event_types, datas, metadatas, given, ignoring)
            WITH ORDINALITY AS new (request, id, aggregate_id, event_type, data, metadata, given, ignoring, place)
        JOIN unnest(known, places) AS old (id, version) ON old.id = new.id
        LEFT JOIN LATERAL (
            SELECT event.aggregate_id = new.aggregate_id AND event.event_type = new.event_type
                AND coalesce(event.data, 'null') = new.data::jsonb
                -- Where an event comes from is no content: an append that is tried again has another trace.
                AND (SELECT count(DISTINCT coalesce(nullif(CASE jsonb_typeof(metadata) WHEN 'object'
                        THEN metadata - '{traceparent,correlationId,causationId}'::text[] ELSE metadata END, '{}'), 'null')) = 1
                    FROM (VALUES (event.metadata), (new.metadata::jsonb)) AS one (metadata)) AS same
            FROM :"events" AS event WHERE event.version = old.version OFFSET 0
        ) AS event ON true
        WHERE new.given AND new.request <> ALL (failed);
        IF cardinality(names) > 0 THEN
            RETURN QUERY
            SELECT 'duplicate', repeated.request, repeated.id, NULL::bigint, NULL::timestamptz
            FROM unnest(wrong, names) AS repeated (request, id);
            failed := failed || wrong;
        END IF;
        -- What is archived is compared by the caller, who reads the files.
        IF divided THEN
            SELECT array_agg(new.request), array_agg(new.id), array_agg(old.version) INTO wrong, names, actual
            FROM unnest(requests, ids, given) AS new (request, id, given)
            JOIN unnest(known, places) AS old (id, version) ON old.id = new.id
            WHERE new.given AND new.request <> ALL (failed)
                AND NOT EXISTS (SELECT FROM :"events" AS event WHERE event.version = old.version OFFSET 0);
            IF wrong IS NOT NULL THEN
                RETURN QUERY
                SELECT 'archived', repeated.request, repeated.id, repeated.version, NULL::timestamptz
                FROM unnest(wrong, names, actual) AS repeated (request, id, version);
                failed := failed || wrong;
            END IF;
        END IF;
    END IF;

    -- The last version of an aggregate without events in the table may be archived.
    IF NOT expected <@ '{any}' AND divided THEN
        SELECT array_agg(archived.aggregate_id), array_agg(archived.version) INTO gone, ends
        FROM (SELECT DISTINCT unnest(aggregate_ids)) AS new (aggregate_id)
        CROSS JOIN LATERAL (
            SELECT archived.aggregate_id, archived.version FROM :"events_archived" AS archived
            WHERE archived.aggregate_id = new.aggregate_id OFFSET 0
        ) AS archived;
    END IF;

    -- The expectations, compared with the last version of each aggregate.
    SELECT array_agg(expectation.request), array_agg(expectation.aggregate_id), array_agg(last.version)
    INTO wrong, names, actual
    FROM (
        SELECT DISTINCT new.request, new.aggregate_id, new.expected
        FROM unnest(requests, ids, aggregate_ids, expected) AS new (request, id, aggregate_id, expected)
        WHERE new.expected <> 'any' AND new.id <> ALL (stored) AND new.request <> ALL (failed)
    ) AS expectation
    CROSS JOIN LATERAL (
        -- Where the log is compact, the index of aggregates has blocks of 64 versions, and only that index has this order.
        SELECT coalesce(CASE WHEN :'events.id' = 'uuid' THEN (
            SELECT max(of_block.version) FROM (
                SELECT event.version FROM :"events" AS event
                WHERE (event.aggregate_id, event.version >> 6) >= (expectation.aggregate_id, 0)
                    AND (event.aggregate_id, event.version >> 6) <= (expectation.aggregate_id, 9223372036854775807)
                ORDER BY event.aggregate_id DESC, event.version >> 6 DESC FETCH FIRST (SELECT 1) ROW WITH TIES
            ) AS of_block
        ) ELSE (
            SELECT max(event.version) FROM :"events" AS event WHERE event.aggregate_id = expectation.aggregate_id
        ) END, (
            SELECT old.version FROM unnest(gone, ends) AS old (aggregate_id, version)
            WHERE old.aggregate_id = expectation.aggregate_id
        )) AS version OFFSET 0
    ) AS last
    WHERE CASE expectation.expected
            WHEN 'none' THEN last.version IS NOT NULL
            WHEN 'some' THEN last.version IS NULL
            ELSE last.version IS DISTINCT FROM expectation.expected::bigint
        END;
    IF wrong IS NOT NULL THEN
        RETURN QUERY
        SELECT 'conflict', conflict.request, conflict.aggregate_id, conflict.version, NULL::timestamptz
        FROM unnest(wrong, names, actual) AS conflict (request, aggregate_id, version);
        failed := failed || wrong;
    END IF;

    -- The conditions of appends that have something to write. This is a later statement than the locks, so it sees what
    -- others have committed until these were free; they are kept to the end of the transaction, so nothing comes after it.
    -- A version does not tell what a decision has seen: an event can have drawn its version before the decision read, and be
    -- committed after that. So whatever matches above the mark, and is not among the versions seen there, is in the way.
    IF conditions IS NOT NULL THEN
        -- Whatever matches has the first tag of an item, if each of them has tags. So one look at these tags and types, above the
        -- marks, is nearly always enough: for 16 conditions, a third of the time of looking closely at each.
        suspects := ARRAY(
            SELECT DISTINCT item.request
            FROM (
                SELECT request, tag, mark, nullif(kind, '') AS kind, coalesce(seen, '{}')::bigint[] AS seen
                FROM unnest(deciding, decided, marks, kinds, known_above) AS given (request, tag, mark, kind, seen) OFFSET 0
            ) AS item
            WHERE item.mark < 0 OR EXISTS (
                SELECT FROM :"events_tags" AS tagged
                WHERE tagged.tag = item.tag AND tagged.version > item.mark AND tagged.version <> ALL (item.seen)
                    AND (tagged.event_type = item.kind) IS NOT FALSE
                OFFSET 0
            ) OR item.seen <> '{}' AND EXISTS (
                SELECT FROM unnest(item.seen) AS seen (version)
                WHERE NOT EXISTS (SELECT FROM :"events" AS event WHERE event.version = seen.version OFFSET 0)
            )
        );
        -- The log is another one, or events were tagged afterwards.
        IF server <> extract(epoch FROM pg_postmaster_start_time())::text || ' '
            || coalesce(pg_relation_filenode(pg_get_serial_sequence(:'events', 'version')::regclass)::text, '') || ' '
            || current_database()::text
            OR epoch <> coalesce(
            (SELECT max(tagged.version) FROM :"events_tags" AS tagged WHERE tagged.tag = ''), 0
        ) THEN
            suspects := deciding;
        END IF;
    END IF;
    IF cardinality(suspects) > 0 THEN
        SELECT array_agg(given.request), array_agg(found.outcome), array_agg(found.key), array_agg(found.version)
        INTO wrong, outcomes, names, actual
        FROM (
            SELECT (element.condition ->> 'request')::integer AS request, element.condition
            FROM jsonb_array_elements(conditions) AS element (condition)
        ) AS given
        CROSS JOIN LATERAL :"events_missed" (given.condition) AS found
        WHERE given.request = ANY (suspects) AND given.request <> ALL (failed) AND EXISTS (
            SELECT FROM unnest(requests, ids) AS new (request, id)
            WHERE new.request = given.request AND new.id <> ALL (stored)
        );
        IF wrong IS NOT NULL THEN
            RETURN QUERY
            SELECT failure.outcome, failure.request, failure.key, failure.version, NULL::timestamptz
            FROM unnest(outcomes, wrong, names, actual) AS failure (outcome, request, key, version);
            failed := failed || wrong;
        END IF;
    END IF;

    -- The events. INSERT locks the table before it draws a version, and draws versions after the sort: in the call's order.
    IF NOT has_tags THEN
        RETURN QUERY
        INSERT INTO :"events" AS event (id, aggregate_id, event_type, data, metadata)
        SELECT CAST(new.id AS :"events.id"), new.aggregate_id, new.event_type, new.data::jsonb,
            nullif(new.metadata, nothing)::jsonb
        FROM unnest(requests, ids, aggregate_ids, event_types, datas, metadatas)
            WITH ORDINALITY AS new (request, id, aggregate_id, event_type, data, metadata, place)
        WHERE new.id <> ALL (stored) AND new.request <> ALL (failed)
        ORDER BY new.place
        RETURNING 'stored', NULL::integer, event.id::text, event.version, event.created_at;
    ELSE
        RETURN QUERY
        WITH added AS (
            INSERT INTO :"events" AS event (id, aggregate_id, event_type, data, metadata)
            SELECT CAST(new.id AS :"events.id"), new.aggregate_id, new.event_type, new.data::jsonb,
                nullif(new.metadata, nothing)::jsonb
            FROM unnest(requests, ids, aggregate_ids, event_types, datas, metadatas)
                WITH ORDINALITY AS new (request, id, aggregate_id, event_type, data, metadata, place)
            WHERE new.id <> ALL (stored) AND new.request <> ALL (failed)
            ORDER BY new.place
            RETURNING event.id::text AS id, event.version, event.event_type, event.created_at
        ), tagging AS (
            INSERT INTO :"events_tags" (tag, version, event_type)
            SELECT new.tag, added.version, added.event_type
            FROM unnest(tagged, tags) AS new (id, tag) JOIN added ON added.id = new.id
        )
        SELECT 'stored', NULL::integer, added.id, added.version, added.created_at FROM added;
    END IF;

    IF cardinality(stored) > 0 THEN
        RETURN QUERY
        SELECT 'known', NULL::integer, event.id::text, event.version, event.created_at
        FROM :"events" AS event WHERE event.version = ANY (places) AND event.id::text = ANY (stored);
    END IF;
END
$body$;

-- next
\ir complete_function.sql
