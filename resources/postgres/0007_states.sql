-- How a state is written unless what is stored is newer, or of the same version. Nobody else has to know of it: whoever
-- shares the table writes as before.
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
BEGIN
    -- One function, so that it is one round trip that writes, or says what is stored. That costs a write some 6 us, and as one
    -- statement 13. The row that is in the way is locked by the first statement, so the second one sees what others had
    -- committed until then. It names the table with its schema: the caller's search path does not matter. It names the
    -- columns of its own result, not the table's type, so that the table can be renamed or dropped.
    EXECUTE (
        SELECT format($sql$
CREATE OR REPLACE FUNCTION %I.%I (VARCHAR, BIGINT, BYTEA, VARCHAR, BIGINT, BIGINT)
RETURNS TABLE (
    "persistenceId" VARCHAR, "versionNumber" BIGINT, payload BYTEA, manifest VARCHAR, "timestamp" BIGINT, shard BIGINT
) LANGUAGE plpgsql ROWS 1 AS %L
            $sql$, nspname, relname || '_write', format($body$
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
            $body$, nspname, relname))
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = states
    );
END
$do$;

-- next
RESET strata.states;
