-- How states are written: one, or several at a time. Nobody else has to know of it: whoever shares the table writes as
-- before.
--
-- By hand: psql -f 0007_states.sql, with -c 'SET search_path TO app' before it for a schema, and -v states=NAME for
-- another table name.
\if :{?states}
\else
\set states states_store
\endif

-- psql replaces nothing inside a quoted body. A setting carries the name into the block below.
SET strata.states TO :"states";

-- next
DO $do$
DECLARE
    states CONSTANT REGCLASS := quote_ident(current_setting('strata.states'))::regclass;
    result CONSTANT TEXT := $sql$
RETURNS TABLE (
    "persistenceId" VARCHAR, "versionNumber" BIGINT, payload BYTEA, manifest VARCHAR, "timestamp" BIGINT, shard BIGINT
) LANGUAGE plpgsql
    $sql$; -- The columns, not the table's type: the table can be renamed or dropped.
    home NAME;
    name NAME;
BEGIN
    SELECT nspname, relname INTO home, name
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = states;

    -- One state, unless what is stored is newer, or of the same version: then it says what. As a function it is one round
    -- trip, whatever comes of it. That costs a write some 6 us, and as one statement 13. The row that is in the way is
    -- locked by the first statement, so the second one sees what others had committed until then. The table is named with
    -- its schema: the caller's search path does not matter.
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION %I.%I (VARCHAR, BIGINT, BYTEA, VARCHAR, BIGINT, BIGINT) %s ROWS 1 AS %L',
        home, name || '_write', result, format($body$
BEGIN
    INSERT INTO %1$I.%2$I AS states
        (persistence_id, version_number, state_payload, state_manifest, timestamp, shard_number)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (persistence_id) DO UPDATE SET
        version_number = excluded.version_number, state_payload = excluded.state_payload,
        state_manifest = excluded.state_manifest, timestamp = excluded.timestamp, shard_number = excluded.shard_number
    WHERE states.version_number < excluded.version_number;
    IF NOT FOUND THEN
        RETURN QUERY
        SELECT persistence_id, version_number, state_payload, state_manifest, states.timestamp, shard_number
        FROM %1$I.%2$I AS states WHERE persistence_id = $1;
    END IF;
END
        $body$, home, name)
    );

    -- Several, of as many entities: those that are not written are returned, with what is stored, or without where somebody
    -- else has the row. Whether somebody else is about to insert one cannot be known: `inserting` says whether to try, and
    -- not for long. In one order for everybody: two of these would else wait for each other until that time is over. The plan
    -- is made once, and looks up each row, whatever the statistics say: to make it takes 300 us, three times as long as to
    -- run it.
    EXECUTE format($sql$
CREATE OR REPLACE FUNCTION %I.%I (
    ids        TEXT[],
    versions   BIGINT[],
    payloads   BYTEA[],
    manifests  TEXT[],
    timestamps BIGINT[],
    shards     BIGINT[],
    newer      BOOLEAN, -- whether what is stored has to be older
    inserting  BOOLEAN
) %s SET plan_cache_mode = 'force_generic_plan' SET enable_seqscan = off SET lock_timeout = '20ms' AS %L
        $sql$, home, name || '_write', result, format($body$
BEGIN
    RETURN QUERY
    WITH new (id, version, payload, manifest, time, shard) AS MATERIALIZED (
        SELECT * FROM unnest(ids, versions, payloads, manifests, timestamps, shards)
    ), held AS MATERIALIZED (
        SELECT held.* FROM new CROSS JOIN LATERAL (
            SELECT * FROM %1$I.%2$I WHERE persistence_id = new.id FOR UPDATE SKIP LOCKED
        ) AS held
    ), written AS (
        INSERT INTO %1$I.%2$I AS states
            (persistence_id, version_number, state_payload, state_manifest, timestamp, shard_number)
        SELECT new.* FROM new LEFT JOIN held ON held.persistence_id = new.id
        WHERE held.persistence_id IS NOT NULL
            OR inserting AND NOT EXISTS (SELECT FROM %1$I.%2$I WHERE persistence_id = new.id OFFSET 0)
        ORDER BY new.id
        ON CONFLICT (persistence_id) DO UPDATE SET
            version_number = excluded.version_number, state_payload = excluded.state_payload,
            state_manifest = excluded.state_manifest, timestamp = excluded.timestamp, shard_number = excluded.shard_number
        WHERE NOT newer OR states.version_number < excluded.version_number
        RETURNING states.persistence_id
    )
    SELECT rest.id::varchar, held.version_number, held.state_payload, held.state_manifest, held.timestamp, held.shard_number
    FROM (SELECT new.id FROM new EXCEPT SELECT written.persistence_id FROM written) AS rest
    LEFT JOIN held ON held.persistence_id = rest.id;
END
        $body$, home, name)
    );
END
$do$;

-- next
RESET strata.states;
