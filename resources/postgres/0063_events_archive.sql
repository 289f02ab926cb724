-- What is archived of the log, beside the table of events: the parts that were written to files and detached, and which
-- aggregates have events in them. src/postgres/events/Archiving.ts fills both in the transaction that detaches a part.
--
-- Every log has both tables, as a log may get partitions later. Only one that has partitions is archived. The parts are always the
-- oldest versions, without one that is left out: what is archived is all below the greatest end_version.
\if :{?events}
\else
\set events events
\endif

SET strata.events TO :"events";

-- next
DO $do$
DECLARE
    events   CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.current_setting('strata.events'))::regclass;
    found    RECORD;
    reader   RECORD;
    archives TEXT;
    archived TEXT;
BEGIN
    -- Only built-in functions and operators are found from here on, whatever the schemas of the search path have.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    -- In the schema of the events, wherever that is on the search path.
    SELECT nspname AS space, relname AS name INTO STRICT found
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = events;
    -- A table with a longer name gets no partitions, and the server would cut off the names of these two.
    IF octet_length(found.name || '_archives') > 63 THEN
        RETURN;
    END IF;
    archives := format('%I.%I', found.space, found.name || '_archives');
    archived := format('%I.%I', found.space, found.name || '_archived');
    IF to_regclass(archives) IS NULL THEN
        EXECUTE format(
            'CREATE TABLE %s (
                first_version    BIGINT PRIMARY KEY,
                end_version      BIGINT NOT NULL,
                name             TEXT NOT NULL,
                events           BIGINT NOT NULL,
                bytes            BIGINT NOT NULL,
                sha256           TEXT NOT NULL,
                last_version     BIGINT,
                last_id          TEXT,
                first_created_at TIMESTAMPTZ,
                last_created_at  TIMESTAMPTZ,
                archived_at      TIMESTAMPTZ NOT NULL DEFAULT now()
            )', archives);
    END IF;
    IF to_regclass(archived) IS NULL THEN
        -- Aggregates are only compared for equality, which is fastest byte by byte.
        EXECUTE format(
            'CREATE TABLE %s (
                aggregate_id  TEXT COLLATE "C" PRIMARY KEY,
                first_version BIGINT NOT NULL,
                version       BIGINT NOT NULL
            )', archived);
    END IF;
    -- Who may read a log with partitions asks what is archived. 0065 grants it where a log gets partitions later.
    FOR reader IN
        SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS role
        FROM pg_class, aclexplode(relacl)
        WHERE pg_class.oid = events AND relkind = 'p' AND privilege_type = 'SELECT' AND grantee <> relowner
    LOOP
        EXECUTE format('GRANT SELECT ON %s, %s TO %s', archives, archived, reader.role);
    END LOOP;
END
$do$;

-- next
RESET strata.events;
