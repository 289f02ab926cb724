-- Prepares a table that has had events for partitions: from now on a trigger gathers the ids of new events in a table that will be
-- that of ids. src/postgres/migrations/Converting.ts then gathers those of the events that are there, part by part, and
-- resources/postgres/0065_events_partitions_versions.sql gives the table its name.
--
-- No id is there twice, as the plain table has a unique index. The id of an event that is deleted meanwhile stays, with a version
-- below zero: the process that gathers the ids of older events may have read that event before.
\if :{?events}
\else
\set events events
\endif
\set events_gather :events _gather

SET strata.events TO :"events";

-- next
-- Each block below leaves a search path in which only what is built in is found.
SELECT pg_catalog.set_config('strata.path'::text, pg_catalog.current_setting('search_path'::text), false);

-- next
DO $do$
DECLARE
    events CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.current_setting('strata.events'))::regclass;
    found  RECORD;
    ids    TEXT;
    kind   TEXT; -- of ids
BEGIN
    -- Only built-in functions and operators are found from here on, whatever the schemas of the search path have.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT nspname AS space, relname AS name, pg_get_userbyid(relowner) AS owner INTO STRICT found
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = events;
    -- With the ids of events, it has the name of the table, the endings of functions, and those of partitions.
    IF octet_length(found.name) > 43 THEN
        RAISE EXCEPTION 'the name of the table % has more than 43 bytes: a partition has the name and a version', events
            USING ERRCODE = 'name_too_long';
    END IF;
    ids := format('%I.%I', found.space, found.name || '_gathered');
    IF to_regclass(ids) IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT CASE atttypid WHEN 'uuid'::regtype THEN 'UUID' ELSE 'TEXT COLLATE "C"' END INTO STRICT kind
    FROM pg_attribute WHERE attrelid = events AND attname = 'id';
    EXECUTE format('CREATE TABLE %s (id %s PRIMARY KEY, version BIGINT NOT NULL)', ids, kind);
    EXECUTE format('CREATE INDEX %I ON %s (version) WHERE version < 0', found.name || '_gathered_deleted', ids);
    EXECUTE format('COMMENT ON TABLE %s IS %L', ids, 'The ids of events, while the log is prepared for partitions');
    EXECUTE format('COMMENT ON COLUMN %s.id IS %L', ids, 'The id of the event');
    EXECUTE format('COMMENT ON COLUMN %s.version IS %L', ids, 'The version of the event, or less than zero if it was deleted');
    EXECUTE format('ALTER TABLE %s OWNER TO %I', ids, found.owner);
END
$do$;

-- next
SELECT pg_catalog.set_config('search_path'::text, pg_catalog.current_setting('strata.path'::text), true);

-- next
SET strata.function TO :"events_gather";

-- next
SET check_function_bodies TO off;

-- next
CREATE OR REPLACE FUNCTION :"events_gather" ()
RETURNS TRIGGER
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO :"events_gathered" AS known (id, version) SELECT id, version FROM added
        ON CONFLICT (id) DO UPDATE SET version = excluded.version;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO :"events_gathered" AS known (id, version) SELECT id, -1 - version FROM removed
        ON CONFLICT (id) DO UPDATE SET version = excluded.version;
    ELSE
        TRUNCATE :"events_gathered";
    END IF;
    RETURN NULL;
END
$body$;

-- next
\ir complete_function.sql

-- next
SELECT pg_catalog.set_config('search_path'::text, pg_catalog.current_setting('strata.path'::text), true);

-- next
DO $do$
DECLARE
    events CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.current_setting('strata.events'))::regclass;
    found  RECORD;
    gather TEXT;
    made   RECORD;
BEGIN
    -- Only built-in functions and operators are found from here on, whatever the schemas of the search path have.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT nspname AS space, relname AS name, pg_get_userbyid(relowner) AS owner INTO STRICT found
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = events;
    gather := format('%I.%I', found.space, found.name || '_gather');
    EXECUTE format('REVOKE ALL ON FUNCTION %s() FROM PUBLIC', gather);
    EXECUTE format('ALTER FUNCTION %s() OWNER TO %I', gather, found.owner);
    FOR made IN
        SELECT format(definition, found.name || '_gather_' || name, events, gather) AS statement
        FROM (VALUES
            ('added', 'CREATE OR REPLACE TRIGGER %1$I AFTER INSERT ON %2$s REFERENCING NEW TABLE AS added
                FOR EACH STATEMENT EXECUTE FUNCTION %3$s()'),
            ('removed', 'CREATE OR REPLACE TRIGGER %1$I AFTER DELETE ON %2$s REFERENCING OLD TABLE AS removed
                FOR EACH STATEMENT EXECUTE FUNCTION %3$s()'),
            ('emptied', 'CREATE OR REPLACE TRIGGER %1$I AFTER TRUNCATE ON %2$s FOR EACH STATEMENT EXECUTE FUNCTION %3$s()')
        ) AS needed (name, definition)
    LOOP
        EXECUTE made.statement;
    END LOOP;
END
$do$;

-- next
SELECT pg_catalog.set_config('search_path'::text, pg_catalog.current_setting('strata.path'::text), true);

-- next
RESET strata.path;

-- next
RESET strata.events;
