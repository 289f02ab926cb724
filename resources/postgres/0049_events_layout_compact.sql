-- Optional, by layout: "compact": the table of events takes less room. Its ids are UUIDs of 16 bytes instead of texts of 36
-- characters, and it has no stream_name, which is only "stream_" and the aggregate's id.
--
-- It is for a log without events that no Go service shares: go-sync-kit needs the column, and takes any text for an id. A table
-- that is compact stays so, whether or not the option is given again.
\if :{?events}
\else
\set events events
\endif

SET strata.events TO :"events";

-- next
-- Each block below leaves a search path in which only what is built in is found.
SELECT pg_catalog.set_config('strata.path'::text, pg_catalog.current_setting('search_path'::text), false);

-- next
DO $do$
DECLARE
    events CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.current_setting('strata.events'))::regclass;
    ids    TEXT;    -- where a log that has partitions keeps its ids
    kind   TEXT;    -- of ids
    is_own BOOLEAN; -- only the sequence gives versions, as in no table that go-sync-kit has made
    reader NAME;    -- a trigger that reads what will be gone
    is_old BOOLEAN;
BEGIN
    -- Only built-in functions and operators are found from here on, whatever the schemas of the search path have.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    SELECT format('%I.%I', nspname, relname || '_ids'), format_type(id.atttypid, NULL), version.attidentity <> '' OR EXISTS (
        SELECT FROM pg_trigger WHERE tgrelid = events AND tgname = relname || '_added'
    )
    INTO STRICT ids, kind, is_own
    FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    JOIN pg_attribute AS id ON id.attrelid = pg_class.oid AND id.attname = 'id'
    JOIN pg_attribute AS version ON version.attrelid = pg_class.oid AND version.attname = 'version'
    WHERE pg_class.oid = events;
    IF kind = 'uuid' THEN
        RETURN;
    END IF;
    IF NOT is_own THEN
        RAISE EXCEPTION 'the table % is one of go-sync-kit, which needs its column stream_name: the compact layout is for a log that no Go service shares', events
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    SELECT tgname INTO reader FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
    WHERE tgrelid = events AND NOT tgisinternal AND prosrc ~* '\mNEW\.stream_name\M' LIMIT 1;
    IF reader IS NOT NULL THEN
        RAISE EXCEPTION 'the trigger % of the table % reads stream_name, which a compact log has not: drop the trigger first', reader, events
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', events);
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', events) INTO is_old;
    IF NOT is_old AND to_regclass(ids) IS NOT NULL THEN
        -- Those of events that are archived.
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', ids) INTO is_old;
    END IF;
    IF is_old THEN
        RAISE EXCEPTION 'the table % has events: the compact layout is an option for a log without any; import an export of these into a new log', events
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;

    EXECUTE format('ALTER TABLE %s DROP COLUMN stream_name, ALTER COLUMN id TYPE UUID USING id::uuid', events);
    IF to_regclass(ids) IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s ALTER COLUMN id TYPE UUID USING id::uuid', ids);
    END IF;
    EXECUTE format('COMMENT ON TABLE %s IS %L', events,
        'The log of events, to which rows are only added, in the compact layout: ids are UUIDs, and there is no stream_name');
END
$do$;

-- next
SELECT pg_catalog.set_config('search_path'::text, pg_catalog.current_setting('strata.path'::text), true);

-- next
-- The functions that know the type of ids.
\ir 0066_events_append.sql

-- next
SELECT pg_catalog.set_config('search_path'::text, pg_catalog.current_setting('strata.path'::text), true);

-- next
\ir 0059_events_missed.sql

-- next
SELECT pg_catalog.set_config('search_path'::text, pg_catalog.current_setting('strata.path'::text), true);

-- next
RESET strata.path;

-- next
RESET strata.events;
