-- Writes several states, each of another entity. Returns a row for each state that it did not write: with the stored state,
-- or with the entity's id alone where another transaction has locked the row.
--
-- It never waits for a row that is there. But nobody can see whether another transaction is about to insert an entity: the
-- parameter inserting says whether to try, and lock_timeout how long to wait then. All calls insert in the order of the
-- ids, as two calls would else wait for each other until that time is over.
--
-- The plan is made once, since making it takes 300 us, three times as long as running it. Without sequential scans it looks
-- up each row, whatever the statistics say. The result names columns instead of the table's type, as in 0020.
\if :{?states}
\else
\set states states_store
\endif
\set states_write :states _write

SET strata.function TO :"states_write";

-- next
SET check_function_bodies TO off;

-- next
CREATE OR REPLACE FUNCTION :"states_write" (
    ids        TEXT[],
    versions   BIGINT[],
    payloads   BYTEA[],
    manifests  TEXT[],
    timestamps BIGINT[],
    shards     BIGINT[],
    newer      BOOLEAN, -- whether the stored state has to be older
    inserting  BOOLEAN  -- whether to insert entities that have no state yet
)
RETURNS TABLE (
    "persistenceId" VARCHAR, "versionNumber" BIGINT, payload BYTEA, manifest VARCHAR, "timestamp" BIGINT, shard BIGINT
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET lock_timeout = '20ms'
AS $body$
BEGIN
    RETURN QUERY
    WITH new (id, version, payload, manifest, time, shard) AS MATERIALIZED (
        SELECT * FROM unnest(ids, versions, payloads, manifests, timestamps, shards)
    ), held AS MATERIALIZED (
        SELECT held.* FROM new CROSS JOIN LATERAL (
            SELECT * FROM :"states" WHERE persistence_id = new.id FOR UPDATE SKIP LOCKED
        ) AS held
    ), written AS (
        INSERT INTO :"states" AS states
            (persistence_id, version_number, state_payload, state_manifest, timestamp, shard_number)
        SELECT new.* FROM new LEFT JOIN held ON held.persistence_id = new.id
        WHERE held.persistence_id IS NOT NULL
            OR inserting AND NOT EXISTS (SELECT FROM :"states" WHERE persistence_id = new.id OFFSET 0)
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
$body$;

-- next
\ir complete_function.sql
