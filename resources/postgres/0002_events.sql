-- The log of events. go-sync-kit's Postgres store reads and writes the same table; one that it has created is adopted with
-- its rows, and keeps its sequence, its indexes and its triggers.
--
-- By hand: psql -f 0002_events.sql, with -c 'SET search_path TO app' before it for a schema, and -v events=NAME for another
-- table name.
\if :{?events}
\else
\set events events
\endif

-- The identity is ALWAYS generated, so that no client draws a version by itself: one drawn before the table is locked is
-- invisible to readers that ask who may still be about to commit.
CREATE TABLE IF NOT EXISTS :"events"
(
    version      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    aggregate_id TEXT NOT NULL,
    event_type   TEXT NOT NULL,
    data         JSONB,
    metadata     JSONB,
    created_at   TIMESTAMPTZ DEFAULT now(),
    stream_name  TEXT GENERATED ALWAYS AS ('stream_' || aggregate_id) STORED
);

-- next
-- psql replaces nothing inside a quoted body. A setting carries the name into the block below.
SET strata.events TO :"events";

-- next
DO $do$
DECLARE
    events  CONSTANT REGCLASS := quote_ident(current_setting('strata.events'))::regclass;
    missing TEXT;
    keys    SMALLINT[];
BEGIN
    SELECT string_agg(needed.name, ', ') INTO missing
    FROM unnest(ARRAY['version', 'id', 'aggregate_id', 'event_type', 'data', 'metadata', 'created_at', 'stream_name'])
        AS needed (name)
    WHERE NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = events AND attname = needed.name AND attnum > 0 AND NOT attisdropped
    );
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'the table % is there already and is no log of events: it has no column %', events, missing
            USING ERRCODE = 'wrong_object_type';
    END IF;

    -- For the history of an aggregate, in order, and for its last version, which appends compare: from the index alone. By
    -- what it indexes, not by a name, which another table's may have. The primary key serves readers of the whole log, the
    -- unique id look-ups of one event. GIN indexes on data or metadata are for those to add who query by them: they
    -- double the cost of an append.
    SELECT array_agg(attnum ORDER BY attname) INTO keys
    FROM pg_attribute WHERE attrelid = events AND attname IN ('aggregate_id', 'version');
    IF NOT EXISTS (
        SELECT FROM pg_index
        WHERE indrelid = events AND indisvalid AND indpred IS NULL AND indkey[0] = keys[1] AND indkey[1] = keys[2]
    ) THEN
        EXECUTE format('CREATE INDEX ON %s (aggregate_id, version)', events);
    END IF;

    -- For the appends that expect something or bring ids, several at a time, which have no id and no aggregate of which
    -- something is expected in common. One function, so that they are one round trip, and each of its statements sees what
    -- was committed while the one before waited for a lock. It names the table with its schema: the caller's search path
    -- does not matter. Its plans are made once: for arrays the planner would make new ones at each call (16 at once: 3.3k
    -- appends/s, not 5.1k). Those that only take shared locks need no function: see `src/postgres/events/Appending.ts`.
    EXECUTE (
        SELECT replace($sql$
CREATE OR REPLACE FUNCTION <append> (
    requests      INTEGER[], -- for each event: the append that it belongs to
    ids           TEXT[],
    aggregate_ids TEXT[],
    event_types   TEXT[],
    datas         TEXT[],
    metadatas     TEXT[],
    given         BOOLEAN[], -- whether the caller chose the id
    ignoring      BOOLEAN[], -- whether it is fine if the event is stored already
    expected      TEXT[],    -- of the aggregate: any, none, some, or a version
    patient       BOOLEAN    -- whether to wait for others; if not, appends that would have to are blocked
) RETURNS TABLE (outcome TEXT, request INTEGER, key TEXT, version BIGINT, created_at TIMESTAMPTZ)
LANGUAGE plpgsql SET plan_cache_mode = 'force_generic_plan' AS
        $sql$, '<append>', format('%I.%I', nspname, relname || '_append')) || quote_literal(replace(replace($body$
#variable_conflict use_column
DECLARE
    seed   CONSTANT BIGINT  := 2 * <name>::regclass::oid::bigint;
    -- Locks live in shared memory, room for some 6,400 by default. A larger batch takes one for everything.
    many   CONSTANT INTEGER := 250;
    coarse CONSTANT BOOLEAN := (SELECT count(DISTINCT name) FROM unnest(aggregate_ids) AS name) > many;
    named  CONSTANT INTEGER := (SELECT count(*) FROM unnest(given) AS it WHERE it);
    lock   RECORD;
    failed INTEGER[] := '{}'; -- the appends that write nothing
    stored TEXT[]    := '{}'; -- the ids that are in the log already
    wrong  INTEGER[];
    names  TEXT[];
    actual BIGINT[];
BEGIN
    -- In one order for everybody, so that two appends cannot block each other in a circle.
    FOR lock IN
        SELECT 0 AS level, hashtextextended('', seed) AS key, coarse AS exclusive, NULL AS aggregate_id, NULL AS id
        UNION ALL
        SELECT 0, hashtextextended('', seed + 1), named > many, NULL, NULL WHERE named > 0
        UNION ALL
        SELECT 1, hashtextextended(aggregate_id, seed), bool_or(expectation <> 'any'), aggregate_id, NULL
        FROM unnest(aggregate_ids, expected) AS new (aggregate_id, expectation) WHERE NOT coarse GROUP BY aggregate_id
        UNION ALL
        SELECT 1, hashtextextended(id, seed + 1), true, NULL, id
        FROM unnest(ids, given) AS new (id, given) WHERE new.given AND named <= many
        ORDER BY 1, 2, 3 DESC
    LOOP
        IF patient THEN
            IF lock.exclusive THEN
                PERFORM pg_advisory_xact_lock(lock.key);
            ELSE
                PERFORM pg_advisory_xact_lock_shared(lock.key);
            END IF;
        ELSIF lock.exclusive AND NOT pg_try_advisory_xact_lock(lock.key)
            OR NOT lock.exclusive AND NOT pg_try_advisory_xact_lock_shared(lock.key)
        THEN
            failed := failed || ARRAY(
                SELECT new.request FROM unnest(requests, ids, aggregate_ids) AS new (request, id, aggregate_id)
                WHERE lock.level = 0 OR new.aggregate_id = lock.aggregate_id OR new.id = lock.id
            );
        END IF;
    END LOOP;
    IF cardinality(failed) > 0 THEN
        RETURN QUERY
        SELECT DISTINCT 'blocked', blocked, NULL, NULL::bigint, NULL::timestamptz FROM unnest(failed) AS blocked;
    END IF;

    IF current_setting('transaction_isolation') NOT LIKE 'read %' THEN
        wrong := ARRAY(
            SELECT new.request FROM unnest(requests, expected) AS new (request, expectation) WHERE expectation <> 'any'
        );
        RETURN QUERY
        SELECT DISTINCT 'isolation', unsure, NULL, NULL::bigint, NULL::timestamptz FROM unnest(wrong) AS unsure;
        failed := failed || wrong;
    END IF;

    IF named > 0 THEN
        -- OFFSET 0 keeps it a look-up for each id: a plan made while the table was small would else read all of it.
        SELECT coalesce(array_agg(new.id), '{}'),
               coalesce(array_agg(new.request ORDER BY new.place) FILTER (WHERE NOT (new.ignoring AND old.same)), '{}'),
               coalesce(array_agg(new.id ORDER BY new.place) FILTER (WHERE NOT (new.ignoring AND old.same)), '{}')
        INTO stored, wrong, names
        FROM unnest(requests, ids, aggregate_ids, event_types, datas, metadatas, given, ignoring)
            WITH ORDINALITY AS new (request, id, aggregate_id, event_type, data, metadata, given, ignoring, place)
        CROSS JOIN LATERAL (
            SELECT event.aggregate_id = new.aggregate_id AND event.event_type = new.event_type
                AND coalesce(event.data, 'null') = new.data::jsonb
                AND coalesce(event.metadata, 'null') = new.metadata::jsonb AS same
            FROM <events> AS event WHERE event.id = new.id OFFSET 0
        ) AS old
        WHERE new.given AND new.request <> ALL (failed);
        IF cardinality(names) > 0 THEN
            RETURN QUERY
            SELECT 'duplicate', repeated.request, repeated.id, NULL::bigint, NULL::timestamptz
            FROM unnest(wrong, names) AS repeated (request, id);
            failed := failed || wrong;
        END IF;
    END IF;

    SELECT array_agg(expectation.request), array_agg(expectation.aggregate_id), array_agg(last.version)
    INTO wrong, names, actual
    FROM (
        SELECT DISTINCT new.request, new.aggregate_id, new.expected
        FROM unnest(requests, ids, aggregate_ids, expected) AS new (request, id, aggregate_id, expected)
        WHERE new.expected <> 'any' AND new.id <> ALL (stored) AND new.request <> ALL (failed)
    ) AS expectation
    CROSS JOIN LATERAL (
        SELECT max(event.version) AS version FROM <events> AS event
        WHERE event.aggregate_id = expectation.aggregate_id
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

    -- Versions are drawn after the sort, so in the order of the batch, and after INSERT has locked the table.
    RETURN QUERY
    INSERT INTO <events> AS event (id, aggregate_id, event_type, data, metadata)
    SELECT new.id, new.aggregate_id, new.event_type, new.data::jsonb, new.metadata::jsonb
    FROM unnest(requests, ids, aggregate_ids, event_types, datas, metadatas)
        WITH ORDINALITY AS new (request, id, aggregate_id, event_type, data, metadata, place)
    WHERE new.id <> ALL (stored) AND new.request <> ALL (failed)
    ORDER BY new.place
    RETURNING 'stored', NULL::integer, event.id, event.version, event.created_at;

    IF cardinality(stored) > 0 THEN
        RETURN QUERY
        SELECT 'known', NULL::integer, event.id, event.version, event.created_at
        FROM <events> AS event WHERE event.id = ANY (stored);
    END IF;
END
            $body$,
            '<name>', quote_literal(format('%I.%I', nspname, relname))), '<events>', format('%I.%I', nspname, relname)))
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = events
    );
END
$do$;

-- next
RESET strata.events;
