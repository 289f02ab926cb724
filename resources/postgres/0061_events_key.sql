-- The number of which the keys of the append's locks are made. It is the oid that the table had when this was run, and stays: the
-- table of a log that is divided into partitions later has another oid, and appends before and after that exclude each other.
--
-- The planner calls the function, once for a plan: it is immutable, and so its result stands in the plan.
\if :{?events}
\else
\set events events
\endif

SET strata.events TO :"events";

-- next
DO $do$
DECLARE
    events CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.current_setting('strata.events'))::regclass;
    found  RECORD;
    number BIGINT;
BEGIN
    -- Only built-in functions and operators are found from here on, whatever the schemas of the search path have.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT nspname AS space, relname || '_key' AS name INTO STRICT found
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = events;
    SELECT substring(prosrc FROM '[0-9]+')::bigint INTO number
    FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE nspname = found.space AND proname = found.name AND pronargs = 0;
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION %I.%I() RETURNS BIGINT LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
            SET search_path = pg_catalog, pg_temp AS %L',
        found.space, found.name, format('BEGIN RETURN %s; END', coalesce(number, events::oid::bigint))
    );
    -- It tells nobody anything, and every append needs it.
    EXECUTE format('GRANT EXECUTE ON FUNCTION %I.%I() TO PUBLIC', found.space, found.name);
END
$do$;

-- next
RESET strata.events;
