-- Moves the messages of queues from RetrySpool's table to the table of queues, and keeps RetrySpool's table free of them. It
-- does not run where queues: "shared" has the messages of queues stay in RetrySpool's table.
--
-- Processes of earlier versions may be running. Their senders fail from now on, with an error that says what to do. Their
-- workers get no message any more, and settle those that they have claimed: these stay where they are until they are given
-- back, deferred, held, bounced or archived, or until their lease is given up, and then a trigger moves them. Meanwhile the
-- table of queues has their ids, so that nobody stores one of these messages again.
\if :{?spool}
\else
\set spool retryspool_messages
\endif
\if :{?messages}
\else
\set messages strata_messages
\endif

SET strata.spool TO :"spool";

-- next
SET strata.messages TO :"messages";

-- next
DO $do$
DECLARE
    spool    CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.current_setting('strata.spool'))::regclass;
    messages CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.current_setting('strata.messages'))::regclass;
    source   TEXT; -- both tables with their schemas
    target   TEXT;
    moves    TEXT; -- the function, beside RetrySpool's table
    named    TEXT; -- the beginning of the triggers' names
    granted  RECORD;
    -- A row of RetrySpool's table as one of the table of queues. Ids that were given by senders are remembered from now on.
    -- Those that are UUIDv7 were generated.
    columns  CONSTANT TEXT := 'queue, id, state, attempts, max_attempts, next_retry, created, updated, last_error, size, '
        'priority, headers, retry_policy_name, lease_owner, lease_until, payload, remember';
    parts    CONSTANT TEXT := $sql$
        message.queue, message.id, message.state, message.attempts, message.max_attempts, message.next_retry,
        message.created, message.updated, coalesce(message.last_error, ''), message.size, message.priority,
        coalesce(message.headers, '{}'), coalesce(message.retry_policy_name, ''), message.lease_owner,
        message.lease_until, message.payload,
        CASE WHEN message.id !~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$'
            THEN interval '24 hours' END
        $sql$;
BEGIN
    -- Only built-in functions and operators are found from here on, whatever the schemas of the search path have.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    SELECT format('%I.%I', nspname, relname), format('%I.%I', nspname, relname || '_queue'), relname
    INTO STRICT source, moves, named
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = spool;
    SELECT format('%I.%I', nspname, relname) INTO STRICT target
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = messages;

    -- Waits until nobody is writing, and keeps writers waiting until this has committed: the triggers see whatever comes next.
    -- Nothing later takes a stronger lock: a worker that has read the table and waits to write would stand in its way.
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', source);

    IF current_setting('strata.spool_had_queues', true) IS DISTINCT FROM 'false' THEN
        EXECUTE format($sql$
            WITH moved AS (
                INSERT INTO %2$s (%3$s) SELECT %4$s FROM %1$s AS message WHERE queue <> '' AND state <> 1
                ON CONFLICT (queue, id) DO NOTHING RETURNING queue, id
            )
            DELETE FROM %1$s AS message USING moved WHERE message.id = moved.id AND message.queue = moved.queue
            $sql$, source, target, columns, parts);

        -- The ids of the messages that are claimed: how long they stay taken is known once the workers are done with them.
        EXECUTE format($sql$
            INSERT INTO %2$s (queue, id, state, max_attempts, next_retry, remembered_until, digest)
            SELECT queue, id, 6, 0, now(), 'infinity', sha256(convert_to(coalesce(payload::text, ''), 'UTF8'))
            FROM %1$s WHERE queue <> '' AND state = 1
            ON CONFLICT (queue, id) DO NOTHING
            $sql$, source, target);
    END IF;

    EXECUTE format($sql$
        CREATE OR REPLACE FUNCTION %s() RETURNS TRIGGER
        LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp
        AS %L
        $sql$, moves, format($body$
        DECLARE
            message CONSTANT %1$s := CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
        BEGIN
            IF TG_OP = 'INSERT' THEN
                RAISE EXCEPTION 'a message of the queue "%%" cannot be stored in the table %%: messages of queues are in the '
                    'table %% since migration 18 of effect-strata; upgrade this process, or give all processes the same '
                    'option queues', message.queue, %5$L, %6$L USING ERRCODE = 'object_not_in_prerequisite_state';
            ELSIF TG_OP = 'UPDATE' THEN
                INSERT INTO %2$s AS stored (%3$s) SELECT %4$s
                ON CONFLICT (queue, id) DO UPDATE SET
                    state = excluded.state, attempts = excluded.attempts, max_attempts = excluded.max_attempts,
                    next_retry = excluded.next_retry, created = excluded.created, updated = excluded.updated,
                    last_error = excluded.last_error, size = excluded.size, priority = excluded.priority,
                    headers = excluded.headers, retry_policy_name = excluded.retry_policy_name,
                    lease_owner = excluded.lease_owner, lease_until = excluded.lease_until, payload = excluded.payload,
                    remember = excluded.remember, remembered_until = NULL, digest = NULL
                WHERE stored.state = 6;
                IF FOUND THEN
                    DELETE FROM %1$s WHERE id = message.id;
                END IF;
            ELSE
                UPDATE %2$s SET remembered_until = clock_timestamp() + interval '24 hours'
                WHERE queue = message.queue AND id = message.id AND state = 6 AND remembered_until = 'infinity';
            END IF;
            RETURN NULL;
        END
        $body$, source, target, columns, parts, source, target));

    -- Who might read and change the messages of queues where they were may do so where they are. So processes go on without new
    -- grants, and the function needs no other rights than those of the worker that it runs for.
    FOR granted IN
        SELECT privilege_type AS privilege,
            CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS role
        FROM pg_class, aclexplode(relacl)
        WHERE pg_class.oid = spool AND grantee <> relowner
            AND privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    LOOP
        EXECUTE format('GRANT %s ON %s TO %s', granted.privilege, target, granted.role);
    END LOOP;

    EXECUTE format($sql$
        CREATE OR REPLACE TRIGGER %I BEFORE INSERT ON %s
            FOR EACH ROW WHEN (NEW.queue <> '') EXECUTE FUNCTION %s()
        $sql$, named || '_queue', source, moves);
    EXECUTE format($sql$
        CREATE OR REPLACE TRIGGER %I AFTER UPDATE ON %s
            FOR EACH ROW WHEN (NEW.queue <> '' AND NEW.state <> 1) EXECUTE FUNCTION %s()
        $sql$, named || '_moves', source, moves);
    EXECUTE format($sql$
        CREATE OR REPLACE TRIGGER %I AFTER DELETE ON %s
            FOR EACH ROW WHEN (OLD.queue <> '') EXECUTE FUNCTION %s()
        $sql$, named || '_ended', source, moves);
END
$do$;

-- next
RESET strata.spool;

-- next
RESET strata.messages;
