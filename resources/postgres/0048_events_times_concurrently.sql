-- The index by which readers find the events that were created after a time: for each 4,096 versions that follow each other,
-- their times in order. Times do not rise with versions, so a reader in the order of versions passes by it those thousands in
-- which nothing is young enough. A large table gets it while others go on to write to it, as the ending of the file's name says:
-- run it outside of a transaction. What the server makes of an expression is compared without quotes, which
-- `quote_all_identifiers` adds.
\if :{?events}
\else
\set events events
\endif

-- What a build that was ended has left is built anew.
SELECT pg_catalog.format('DROP INDEX CONCURRENTLY %I.%I', nspname, relname)
FROM pg_catalog.pg_index
JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = indkey[1]
WHERE indrelid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'events'))::oid AND NOT indisvalid AND indpred IS NULL
    AND relkind = 'i'::"char" AND attname = 'created_at'::name
    AND pg_catalog.replace(pg_catalog.pg_get_expr(indexprs, indrelid), '"'::text, ''::text) = '(version >> 12)'::text
\gexec

-- next
SELECT pg_catalog.format('CREATE INDEX %sON %I.%I ((version >> 12), created_at)', CASE
        WHEN relkind = 'r'::"char" AND pg_catalog.pg_relation_size(pg_class.oid::regclass) >= 8388608::bigint
        THEN 'CONCURRENTLY '::text ELSE ''::text
    END, nspname, relname)
FROM pg_catalog.pg_class
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE pg_class.oid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'events'))::oid AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_index JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = indkey[1]
    WHERE indrelid = pg_class.oid AND indisvalid AND indpred IS NULL AND attname = 'created_at'::name
        AND pg_catalog.replace(pg_catalog.pg_get_expr(indexprs, indrelid), '"'::text, ''::text) = '(version >> 12)'::text
)
\gexec
