-- Optional, by index: "containment": indexes for queries by what events contain. With them an append costs about twice as
-- much. A large table gets them while others go on to write to it: run this file outside of a transaction.
\if :{?events}
\else
\set events events
\endif

-- What a build that was ended has left is built anew.
SELECT pg_catalog.format('DROP INDEX CONCURRENTLY %I.%I', nspname, relname)
FROM pg_catalog.pg_index
JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid
JOIN pg_catalog.pg_am ON pg_am.oid = relam
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE indrelid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'events'))::oid AND NOT indisvalid
    AND amname = 'gin'::name AND relkind = 'i'::"char" AND attname IN ('data'::name, 'metadata'::name)
\gexec

-- next
-- GIN indexes that go-sync-kit has made will do. Those made here are smaller, and answer containment only, which is all that
-- queries ask for.
SELECT pg_catalog.format('CREATE INDEX %sON %I.%I USING GIN (%I jsonb_path_ops)', CASE
        WHEN relkind = 'r'::"char" AND pg_catalog.pg_relation_size(pg_class.oid::regclass) >= 8388608::bigint
        THEN 'CONCURRENTLY '::text ELSE ''::text
    END, nspname, relname, attname)
FROM pg_catalog.pg_class
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
JOIN pg_catalog.pg_attribute ON attrelid = pg_class.oid
WHERE pg_class.oid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'events'))::oid
    AND attname IN ('data'::name, 'metadata'::name) AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_index
        JOIN pg_catalog.pg_class AS made ON made.oid = indexrelid JOIN pg_catalog.pg_am ON pg_am.oid = made.relam
        WHERE indrelid = pg_class.oid AND indisvalid AND amname = 'gin'::name AND indkey[0] = attnum
    )
\gexec
