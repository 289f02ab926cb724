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

    -- One function, so that an append is one round trip, and each of its statements sees what was committed while the one
    -- before waited for a lock. It names the table with its schema: the caller's search path does not matter. Its plans
    -- are made once: for arrays the planner would make new ones at each call (16 at once: 3.3k appends/s, not 5.1k).
    EXECUTE (
        SELECT replace($sql$
CREATE OR REPLACE FUNCTION <append> (
    ids           TEXT[],
    aggregate_ids TEXT[],
    event_types   TEXT[],
    datas         TEXT[],
    metadatas     TEXT[],
    given         TEXT[],  -- those of the ids that the caller chose
    anyhow        TEXT[],  -- the aggregates of which nothing is expected
    expecting     TEXT[],  -- the other ones
    expected      TEXT[],  -- what: none, some, or a version
    ignoring      BOOLEAN  -- whether an event that is stored already is fine
) RETURNS TABLE (outcome TEXT, event_id TEXT, event_version BIGINT, event_created_at TIMESTAMPTZ, event_stream TEXT)
LANGUAGE plpgsql SET plan_cache_mode = 'force_generic_plan' AS
        $sql$, '<append>', format('%I.%I', nspname, relname || '_append')) || quote_literal(replace(replace($body$
DECLARE
    seed   CONSTANT BIGINT  := 2 * <name>::regclass::oid::bigint;
    -- Locks live in shared memory, room for some 6,400 by default. A larger batch takes one for everything.
    many   CONSTANT INTEGER := 250;
    coarse CONSTANT BOOLEAN := cardinality(anyhow) + cardinality(expecting) > many;
    lock   RECORD;
    stored TEXT[];
    wrong  TEXT;
    actual BIGINT;
BEGIN
    IF cardinality(expecting) > 0 AND current_setting('transaction_isolation') NOT LIKE 'read %' THEN
        RETURN QUERY SELECT 'isolation', NULL::text, NULL::bigint, NULL::timestamptz, NULL::text;
        RETURN;
    END IF;

    -- In one order for everybody, so that two appends cannot block each other in a circle.
    FOR lock IN
        SELECT 0 AS level, hashtextextended('', seed) AS key, coarse AS exclusive
        UNION ALL
        SELECT 0, hashtextextended('', seed + 1), cardinality(given) > many WHERE cardinality(given) > 0
        UNION ALL
        SELECT 1, hashtextextended(name, seed), true FROM unnest(expecting) AS name WHERE NOT coarse
        UNION ALL
        SELECT 1, hashtextextended(name, seed), false FROM unnest(anyhow) AS name WHERE NOT coarse
        UNION ALL
        SELECT 1, hashtextextended(name, seed + 1), true FROM unnest(given) AS name WHERE cardinality(given) <= many
        ORDER BY 1, 2, 3 DESC
    LOOP
        IF lock.exclusive THEN
            PERFORM pg_advisory_xact_lock(lock.key);
        ELSE
            PERFORM pg_advisory_xact_lock_shared(lock.key);
        END IF;
    END LOOP;

    IF cardinality(given) > 0 THEN
        -- OFFSET 0 keeps it a look-up for each id: a plan made while the table was small would else read all of it.
        SELECT array_agg(event.id),
               (array_agg(event.id ORDER BY event.place) FILTER (WHERE NOT (ignoring AND event.same)))[1]
        INTO stored, wrong
        FROM (
            SELECT new.id, new.place, old.same
            FROM unnest(ids, aggregate_ids, event_types, datas, metadatas)
                WITH ORDINALITY AS new (id, aggregate_id, event_type, data, metadata, place)
            CROSS JOIN LATERAL (
                SELECT event.aggregate_id = new.aggregate_id AND event.event_type = new.event_type
                    AND coalesce(event.data, 'null') = new.data::jsonb
                    AND coalesce(event.metadata, 'null') = new.metadata::jsonb AS same
                FROM <events> AS event WHERE event.id = new.id OFFSET 0
            ) AS old
            WHERE new.id = ANY (given)
        ) AS event;
        IF wrong IS NOT NULL THEN
            RETURN QUERY SELECT 'duplicate', wrong, NULL::bigint, NULL::timestamptz, NULL::text;
            RETURN;
        END IF;
    END IF;
    stored := coalesce(stored, '{}');

    IF cardinality(expecting) > 0 THEN
        SELECT expectation.aggregate_id, last.version INTO wrong, actual
        FROM unnest(expecting, expected) WITH ORDINALITY AS expectation (aggregate_id, expected, place)
        CROSS JOIN LATERAL (
            SELECT max(event.version) AS version FROM <events> AS event
            WHERE event.aggregate_id = expectation.aggregate_id
        ) AS last
        WHERE CASE expectation.expected
                WHEN 'none' THEN last.version IS NOT NULL
                WHEN 'some' THEN last.version IS NULL
                ELSE last.version IS DISTINCT FROM expectation.expected::bigint
            END
            AND EXISTS (
                SELECT FROM unnest(ids, aggregate_ids) AS new (id, aggregate_id)
                WHERE new.aggregate_id = expectation.aggregate_id AND new.id <> ALL (stored)
            )
        ORDER BY expectation.place LIMIT 1;
        IF wrong IS NOT NULL THEN
            RETURN QUERY SELECT 'conflict', wrong, actual, NULL::timestamptz, NULL::text;
            RETURN;
        END IF;
    END IF;

    -- Versions are drawn after the sort, so in the order of the batch, and after INSERT has locked the table.
    RETURN QUERY
    INSERT INTO <events> AS event (id, aggregate_id, event_type, data, metadata)
    SELECT new.id, new.aggregate_id, new.event_type, new.data::jsonb, new.metadata::jsonb
    FROM unnest(ids, aggregate_ids, event_types, datas, metadatas)
        WITH ORDINALITY AS new (id, aggregate_id, event_type, data, metadata, place)
    WHERE new.id <> ALL (stored)
    ORDER BY new.place
    RETURNING 'stored', event.id, event.version, event.created_at, event.stream_name;

    IF cardinality(stored) > 0 THEN
        RETURN QUERY
        SELECT 'stored', event.id, event.version, event.created_at, event.stream_name
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
