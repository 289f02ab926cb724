-- Writes one state if the stored one is older, or if there is none. Otherwise writes nothing and returns the stored one.
--
-- As a function a write is one round trip, whatever comes of it. The function costs a write some 6 us; one statement that
-- does the same would cost it 13. The first statement locks the row that is in the way, so the second statement sees what
-- others had committed until then. The result names columns instead of the table's type, since the table can be dropped and
-- made again.
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
    new_id        VARCHAR,
    new_version   BIGINT,
    new_payload   BYTEA,
    new_manifest  VARCHAR,
    new_timestamp BIGINT,
    new_shard     BIGINT
)
RETURNS TABLE (
    "persistenceId" VARCHAR, "versionNumber" BIGINT, payload BYTEA, manifest VARCHAR, "timestamp" BIGINT, shard BIGINT
)
LANGUAGE plpgsql
ROWS 1
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    INSERT INTO :"states" AS states
        (persistence_id, version_number, state_payload, state_manifest, timestamp, shard_number)
    VALUES (new_id, new_version, new_payload, new_manifest, new_timestamp, new_shard)
    ON CONFLICT (persistence_id) DO UPDATE SET
        version_number = excluded.version_number, state_payload = excluded.state_payload,
        state_manifest = excluded.state_manifest, timestamp = excluded.timestamp, shard_number = excluded.shard_number
    WHERE states.version_number < excluded.version_number;
    IF NOT FOUND THEN
        RETURN QUERY
        SELECT persistence_id, version_number, state_payload, state_manifest, states.timestamp, shard_number
        FROM :"states" AS states WHERE persistence_id = new_id;
    END IF;
END
$body$;

-- next
\ir complete_function.sql
