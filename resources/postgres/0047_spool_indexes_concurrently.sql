-- The indexes that a table of RetrySpool's lacks. A large table gets them while others go on to write to it: run this file
-- outside of a transaction.
\if :{?spool}
\else
\set spool retryspool_messages
\endif

-- What a build that was ended has left is built anew.
SELECT pg_catalog.format('DROP INDEX CONCURRENTLY %I.%I', nspname, relname)
FROM pg_catalog.pg_index
JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE indrelid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'spool'))::oid AND NOT indisvalid AND relkind = 'i'::"char"
    AND relname::text IN (:'spool'::text || '_ready'::text, :'spool'::text || '_due'::text, :'spool'::text || '_state'::text)
\gexec

-- next
-- The first two hold what can be claimed, by queue, in the order of claims: a claim passes no archived message, and within a
-- priority no message that is not due. The last one serves lists, and finds active messages. No index has the lease, which is
-- all that a renewal changes, so a renewal writes to no index.
SELECT pg_catalog.format('CREATE INDEX %s%I ON %I.%I %s', CASE
        WHEN relkind = 'r'::"char" AND pg_catalog.pg_relation_size(pg_class.oid::regclass) >= 8388608::bigint
        THEN 'CONCURRENTLY '::text ELSE ''::text
    END, pg_catalog.format('%s%s', relname, ending), nspname, relname, definition)
FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
CROSS JOIN (VALUES
    ('_ready'::text, $sql$(coalesce(queue, ''), priority, created, id COLLATE "C") WHERE state = 0$sql$::text),
    ('_due'::text, $sql$(coalesce(queue, ''), priority, next_retry, id COLLATE "C") WHERE state = 2$sql$::text),
    ('_state'::text, $sql$(state, created, id COLLATE "C")$sql$::text)
) AS wanted (ending, definition)
WHERE pg_class.oid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'spool'))::oid AND pg_catalog.to_regclass(
    pg_catalog.format('%I.%I', nspname, pg_catalog.format('%s%s', relname, ending))
) IS NULL
\gexec
