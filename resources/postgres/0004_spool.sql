-- Messages that wait to be delivered. RetrySpool's Postgres store reads and writes the same table. A table that RetrySpool
-- has created is adopted with its rows, and keeps its indexes. The file of the indexes adds those that claims need.
\if :{?spool}
\else
\set spool retryspool_messages
\endif

CREATE TABLE IF NOT EXISTS :"spool"
(
    id                VARCHAR(255) PRIMARY KEY,
    state             INTEGER     NOT NULL,  -- 0 incoming, 1 active, 2 deferred, 3 hold, 4 bounce, 5 archived
    attempts          INTEGER     NOT NULL DEFAULT 0,
    max_attempts      INTEGER     NOT NULL,
    next_retry        TIMESTAMPTZ NOT NULL,
    created           TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated           TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_error        TEXT,
    size              BIGINT      NOT NULL DEFAULT 0,
    priority          INTEGER     NOT NULL DEFAULT 5,
    headers           JSONB,
    retry_policy_name TEXT                 DEFAULT ''
);

-- next
SET strata.spool TO :"spool";

-- next
DO $do$
DECLARE
    spool   CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.current_setting('strata.spool'))::regclass;
    missing TEXT;
BEGIN
    -- Only built-in functions and operators are found from here on, whatever the schemas of the search path have.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT string_agg(needed.name, ', ') INTO missing
    FROM unnest(ARRAY['id', 'state', 'attempts', 'max_attempts', 'next_retry', 'created', 'updated', 'last_error', 'size',
        'priority', 'headers']) AS needed (name)
    WHERE NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = spool AND attname = needed.name AND attnum > 0 AND NOT attisdropped
    );
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'the table % is there already and is no spool of messages: it has no column %', spool, missing
            USING ERRCODE = 'wrong_object_type';
    END IF;

    -- No row of a table without this column is of a queue: then 0018, which runs in the same transaction, need not look at them.
    PERFORM set_config('strata.spool_had_queues', (EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = spool AND attname = 'queue' AND NOT attisdropped
    ))::text, true);

    -- All of these can be NULL: RetrySpool names the columns that it writes, and knows none of these.
    EXECUTE format($sql$
        ALTER TABLE %s
            ADD COLUMN IF NOT EXISTS retry_policy_name TEXT DEFAULT '',
            ADD COLUMN IF NOT EXISTS queue TEXT,
            ADD COLUMN IF NOT EXISTS lease_owner TEXT,
            ADD COLUMN IF NOT EXISTS lease_until TIMESTAMPTZ,
            ADD COLUMN IF NOT EXISTS payload JSONB
        $sql$, spool);

    -- Every row changes several times, and most rows are deleted soon. So each page keeps room for the changes of its rows,
    -- and a vacuum comes after a few thousand of them. Settings that somebody has made stay.
    IF (SELECT reloptions IS NULL FROM pg_class WHERE oid = spool) THEN
        EXECUTE format($sql$
            ALTER TABLE %s SET (
                fillfactor = 70,
                autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000,
                autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 2000,
                autovacuum_vacuum_cost_delay = 0
            )$sql$, spool);
    END IF;
END
$do$;

-- next
RESET strata.spool;
