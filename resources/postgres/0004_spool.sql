-- Messages that wait to be delivered. RetrySpool's Postgres store reads and writes the same table; one that it has created is
-- adopted with its rows, and keeps its indexes.
--
-- By hand: psql -f 0004_spool.sql, with -c 'SET search_path TO app' before it for a schema, and -v spool=NAME for another
-- table name.
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
-- psql replaces nothing inside a quoted body. A setting carries the name into the block below.
SET strata.spool TO :"spool";

-- next
DO $do$
DECLARE
    spool   CONSTANT REGCLASS := quote_ident(current_setting('strata.spool'))::regclass;
    missing TEXT;
    wanted  RECORD;
BEGIN
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

    -- All nullable: RetrySpool names its columns when it writes, and knows none of these.
    EXECUTE format($sql$
        ALTER TABLE %s
            ADD COLUMN IF NOT EXISTS retry_policy_name TEXT DEFAULT '',
            ADD COLUMN IF NOT EXISTS queue TEXT,
            ADD COLUMN IF NOT EXISTS lease_owner TEXT,
            ADD COLUMN IF NOT EXISTS lease_until TIMESTAMPTZ,
            ADD COLUMN IF NOT EXISTS payload JSONB
        $sql$, spool);

    -- Every row changes several times, and most are deleted soon: room for the changes on the same page, and a vacuum that
    -- comes after a few thousand of them. Somebody's own settings stay.
    IF (SELECT reloptions IS NULL FROM pg_class WHERE oid = spool) THEN
        EXECUTE format($sql$
            ALTER TABLE %s SET (
                fillfactor = 70,
                autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000,
                autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 2000,
                autovacuum_vacuum_cost_delay = 0
            )$sql$, spool);
    END IF;

    -- What is claimed, in its order, by queue: as many archived and future messages as there may be beside it, they are not
    -- in the way. The last one is for lists, and for what is active. No index has the lease: heartbeats change nothing else,
    -- and so never touch an index.
    FOR wanted IN
        SELECT * FROM (VALUES
            ('_ready', $sql$(coalesce(queue, ''), priority, created, id COLLATE "C") WHERE state = 0$sql$),
            ('_due', $sql$(coalesce(queue, ''), priority, next_retry, id COLLATE "C") WHERE state = 2$sql$),
            ('_state', $sql$(state, created, id COLLATE "C")$sql$)
        ) AS wanted (ending, definition)
    LOOP
        EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON %s %s',
            (SELECT relname || wanted.ending FROM pg_class WHERE oid = spool), spool, wanted.definition);
    END LOOP;

    -- One function, so that a claim is one round trip. Its statements are look-ups in those indexes whatever the statistics
    -- say: with none, the planner would sort the whole backlog (83 ms for 200,000 messages, at each claim).
    EXECUTE (
        SELECT replace(replace($sql$
CREATE OR REPLACE FUNCTION <claim> (
    of_queue  TEXT,
    wanted    INTEGER,
    reserved  INTEGER,  -- how many of them are for incoming messages first, if there are so many
    new_owner TEXT,
    lease     DOUBLE PRECISION, -- in milliseconds
    -- Where the incoming messages that wait probably begin: what has gone before them is not looked at, as it may have to stay
    -- in the index for as long as anybody's snapshot lasts. Unless there is not enough from there on.
    low_priority INTEGER,
    low_created  TIMESTAMPTZ
) RETURNS SETOF <spool> LANGUAGE plpgsql
SET plan_cache_mode = 'force_generic_plan'
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS
        $sql$, '<claim>', format('%I.%I', nspname, relname || '_claim')), '<spool>', format('%I.%I', nspname, relname))
        || quote_literal(replace($body$
DECLARE
    at       CONSTANT TIMESTAMPTZ := clock_timestamp();
    level    INTEGER := -2147483648;
    due      TEXT[] := '{}';
    incoming TEXT[];
    waiting  INTEGER := 0;
BEGIN
    IF reserved > 0 THEN
        SELECT count(*) INTO waiting
        FROM (
            SELECT FROM <spool> WHERE state = 0 AND coalesce(queue, '') = of_queue
                AND priority = low_priority AND created >= low_created
            ORDER BY created, id COLLATE "C" LIMIT reserved
        ) AS waiting;
    END IF;
    IF waiting < reserved THEN
        SELECT count(*) INTO reserved
        FROM (
            SELECT FROM <spool> WHERE state = 0 AND coalesce(queue, '') = of_queue
            ORDER BY priority, created, id COLLATE "C" LIMIT reserved
        ) AS waiting;
    END IF;

    -- From one priority that there is to the next.
    WHILE cardinality(due) < wanted - reserved LOOP
        SELECT priority INTO level FROM <spool>
        WHERE state = 2 AND coalesce(queue, '') = of_queue AND priority > level ORDER BY priority LIMIT 1;
        EXIT WHEN NOT FOUND;
        due := due || ARRAY(
            SELECT id FROM <spool>
            WHERE state = 2 AND coalesce(queue, '') = of_queue AND priority = level AND next_retry <= at
            ORDER BY next_retry, id COLLATE "C" LIMIT wanted - reserved - cardinality(due) FOR UPDATE SKIP LOCKED
        );
    END LOOP;

    wanted := wanted - cardinality(due);
    incoming := ARRAY(
        SELECT id FROM <spool> WHERE state = 0 AND coalesce(queue, '') = of_queue AND priority < low_priority
        ORDER BY priority, created, id COLLATE "C" LIMIT wanted FOR UPDATE SKIP LOCKED
    );
    incoming := incoming || ARRAY(
        SELECT id FROM <spool> WHERE state = 0 AND coalesce(queue, '') = of_queue
            AND priority = low_priority AND created >= low_created
        ORDER BY created, id COLLATE "C" LIMIT wanted - cardinality(incoming) FOR UPDATE SKIP LOCKED
    );
    -- Those that are locked already are among them.
    IF cardinality(incoming) < wanted THEN
        incoming := ARRAY(
            SELECT id FROM <spool> WHERE state = 0 AND coalesce(queue, '') = of_queue
            ORDER BY priority, created, id COLLATE "C" LIMIT wanted FOR UPDATE SKIP LOCKED
        );
    END IF;

    RETURN QUERY
    UPDATE <spool> SET
        state = 1, attempts = attempts + 1, updated = greatest(at, updated + interval '1 millisecond'),
        lease_owner = new_owner, lease_until = at + lease * interval '1 millisecond'
    WHERE id = ANY (due || incoming) RETURNING *;
END
            $body$, '<spool>', format('%I.%I', nspname, relname)))
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = spool
    );
END
$do$;

-- next
RESET strata.spool;
