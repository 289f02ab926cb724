-- Messages of queues that wait to be delivered. An id belongs to its queue. RetrySpool does not know this table: messages in
-- no queue, and RetrySpool's own ones, are in the table of 0004.
\if :{?messages}
\else
\set messages strata_messages
\endif
\if :{?spool}
\else
\set spool retryspool_messages
\endif
\set messages_ready :messages _ready
\set messages_due :messages _due
\set messages_state :messages _state
\set messages_known :messages _known

SET strata.messages TO :"messages";

-- next
SET strata.spool TO :"spool";

-- next
DO $do$
BEGIN
    -- The statements after this block need the search path, so it stays, and what is called here is named.
    IF pg_catalog.to_regclass(pg_catalog.quote_ident(current_setting('strata.messages'))) IS NOT NULL THEN
        RETURN;
    END IF;

    -- Beside RetrySpool's table, wherever that is on the search path.
    --
    -- Every row changes several times, and most rows are deleted soon. So each page keeps room for the changes of its rows,
    -- and a vacuum comes after a few thousand of them.
    EXECUTE pg_catalog.format($sql$
        CREATE TABLE %I.%I
        (
            queue             TEXT         NOT NULL,
            id                VARCHAR(255) NOT NULL,
            state             INTEGER      NOT NULL,  -- 0 incoming, 1 active, 2 deferred, 3 hold, 4 bounce, 5 archived; 6 only the id
            attempts          INTEGER      NOT NULL DEFAULT 0,
            max_attempts      INTEGER      NOT NULL,
            next_retry        TIMESTAMPTZ  NOT NULL,
            created           TIMESTAMPTZ  NOT NULL DEFAULT now(),
            updated           TIMESTAMPTZ  NOT NULL DEFAULT now(),
            last_error        TEXT         NOT NULL DEFAULT '',
            size              BIGINT       NOT NULL DEFAULT 0,
            priority          INTEGER      NOT NULL DEFAULT 5,
            headers           JSONB        NOT NULL DEFAULT '{}',
            retry_policy_name TEXT         NOT NULL DEFAULT '',
            lease_owner       TEXT,
            lease_until       TIMESTAMPTZ,
            payload           JSONB,
            remember          INTERVAL,               -- for how long the id stays taken after the delivery; NULL not at all
            remembered_until  TIMESTAMPTZ,            -- in state 6: when the id is free again
            digest            BYTEA,                  -- in state 6: the digest of the payload
            PRIMARY KEY (queue, id)
        ) WITH (
            fillfactor = 70,
            autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000,
            autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 2000,
            autovacuum_vacuum_cost_delay = 0
        )
        $sql$, (
            SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
            WHERE pg_class.oid = pg_catalog.quote_ident(current_setting('strata.spool'))::regclass::oid
        ), current_setting('strata.messages'));
END
$do$;

-- next
RESET strata.messages;

-- next
RESET strata.spool;

-- next
-- The first two hold what can be claimed, by queue, in the order of claims: a claim passes no archived message, and within a
-- priority no message that is not due. The third one serves lists, and finds active messages. No index has the lease, which is
-- all that a renewal changes, so a renewal writes to no index.
CREATE INDEX IF NOT EXISTS :"messages_ready" ON :"messages" (queue, priority, created, id COLLATE "C") WHERE state = 0;

-- next
CREATE INDEX IF NOT EXISTS :"messages_due" ON :"messages" (queue, priority, next_retry, id COLLATE "C") WHERE state = 2;

-- next
CREATE INDEX IF NOT EXISTS :"messages_state" ON :"messages" (state, created, id COLLATE "C") WHERE state < 6;

-- next
-- The ids that are remembered, by the end of their time.
CREATE INDEX IF NOT EXISTS :"messages_known" ON :"messages" (remembered_until) WHERE state = 6;
