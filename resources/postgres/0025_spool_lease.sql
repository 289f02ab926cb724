-- Takes the lease of a message away when a statement changes its state and leaves the lease as it is.
--
-- Every statement of effect-strata that changes a state changes the lease, too. RetrySpool's statements know no lease: its
-- recovery moves a message that a worker of ours has claimed to incoming, and then to active. Without this trigger the
-- message would have our worker's lease again, and our worker would settle what RetrySpool handles. The condition is part of
-- the trigger, and the function runs only where it holds.
\if :{?spool}
\else
\set spool retryspool_messages
\endif

SET strata.spool TO :"spool";

-- next
DO $do$
DECLARE
    spool CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.current_setting('strata.spool'))::regclass;
    lease TEXT; -- the function, beside the table
    named TEXT; -- the trigger
BEGIN
    -- Only built-in functions and operators are found from here on, whatever the schemas of the search path have.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT format('%I.%I', nspname, relname || '_lease'), format('%I', relname || '_lease') INTO STRICT lease, named
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = spool;

    EXECUTE format($sql$
        CREATE OR REPLACE FUNCTION %s() RETURNS TRIGGER
        LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp
        AS $body$
        BEGIN
            NEW.lease_owner := NULL;
            NEW.lease_until := NULL;
            RETURN NEW;
        END
        $body$
        $sql$, lease);
    EXECUTE format($sql$
        CREATE OR REPLACE TRIGGER %s BEFORE UPDATE OF state ON %s
            FOR EACH ROW
            WHEN (OLD.lease_owner IS NOT NULL AND NEW.state <> OLD.state
                AND NEW.lease_owner = OLD.lease_owner AND NEW.lease_until IS NOT DISTINCT FROM OLD.lease_until)
            EXECUTE FUNCTION %s()
        $sql$, named, spool, lease);
END
$do$;

-- next
RESET strata.spool;
