-- The index that finds the messages of one queue which are not about to be delivered, in the order of their creation, beside a
-- million of another queue. A large table gets it while others go on to write to it: run this file outside of a transaction.
\if :{?messages}
\else
\set messages strata_messages
\endif

-- What a build that was ended has left is built anew.
SELECT pg_catalog.format('DROP INDEX CONCURRENTLY %I.%I', nspname, relname)
FROM pg_catalog.pg_index
JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE indrelid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'messages'))::oid AND NOT indisvalid
    AND relkind = 'i'::"char" AND relname::text = :'messages'::text || '_listed'::text
\gexec

-- next
-- It has neither what is incoming nor what is active: a message is stored, claimed and deleted without a write to this index.
SELECT pg_catalog.format('CREATE INDEX %s%I ON %I.%I (state, queue, created, id COLLATE "C") WHERE state >= 2 AND state <= 5', CASE
        WHEN pg_catalog.pg_relation_size(pg_class.oid::regclass) >= 8388608::bigint
        THEN 'CONCURRENTLY '::text ELSE ''::text
    END, pg_catalog.format('%s_listed', relname), nspname, relname)
FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE pg_class.oid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'messages'))::oid AND pg_catalog.to_regclass(
    pg_catalog.format('%I.%I', nspname, pg_catalog.format('%s_listed', relname))
) IS NULL
\gexec
