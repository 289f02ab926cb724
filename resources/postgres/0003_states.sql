-- The latest state of each entity. eGo's durable state stores read and write the same table. A table that eGo has created
-- stays as it is, and gets the index if it has none.
\if :{?states}
\else
\set states states_store
\endif

CREATE TABLE IF NOT EXISTS :"states"
(
    persistence_id VARCHAR(255) PRIMARY KEY,
    version_number BIGINT       NOT NULL,
    state_payload  BYTEA        NOT NULL,
    state_manifest VARCHAR(255) NOT NULL,
    timestamp      BIGINT       NOT NULL,
    shard_number   BIGINT       NOT NULL
);

-- next
SET strata.states TO :"states";

-- next
DO $do$
DECLARE
    states CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.current_setting('strata.states'))::regclass;
    home   TEXT;
    name   TEXT;
BEGIN
    -- Only built-in functions and operators are found from here on, whatever the schemas of the search path have.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    -- The index is looked for by its column, since an index of another table may have any name. It gets the name that eGo
    -- gives it, so that eGo does not add it once more, unless that name is too long or is taken.
    IF NOT EXISTS (
        SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
        WHERE indrelid = states AND indisvalid AND indpred IS NULL AND attname = 'version_number'
    ) THEN
        SELECT nspname, 'idx_' || relname || '_version_number' INTO home, name
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = states;
        EXECUTE format(
            'CREATE INDEX %s ON %s (version_number)',
            CASE
                WHEN octet_length(name) <= 63 AND to_regclass(format('%I.%I', home, name)) IS NULL THEN quote_ident(name)
            END,
            states
        );
    END IF;
END
$do$;

-- next
RESET strata.states;
