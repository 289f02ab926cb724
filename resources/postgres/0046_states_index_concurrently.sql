-- The index that a table of eGo's may lack. A large table gets it while others go on to write to it: run this file outside of a
-- transaction.
\if :{?states}
\else
\set states states_store
\endif

-- What a build that was ended has left is built anew.
SELECT pg_catalog.format('DROP INDEX CONCURRENTLY %I.%I', nspname, relname)
FROM pg_catalog.pg_index
JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
WHERE indrelid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'states'))::oid AND NOT indisvalid AND indpred IS NULL
    AND relkind = 'i'::"char" AND attname = 'version_number'::name
\gexec

-- next
-- The index is looked for by its column, since an index of another table may have any name. It gets the name that eGo gives it,
-- so that eGo does not add it once more, unless that name is too long or is taken.
SELECT pg_catalog.format('CREATE INDEX %s%sON %I.%I (version_number)', CASE
        WHEN relkind = 'r'::"char" AND pg_catalog.pg_relation_size(pg_class.oid::regclass) >= 8388608::bigint
        THEN 'CONCURRENTLY '::text ELSE ''::text
    END, CASE
        WHEN pg_catalog.octet_length(named.name) <= 63::int4
            AND pg_catalog.to_regclass(pg_catalog.format('%I.%I', nspname, named.name)) IS NULL
        THEN pg_catalog.format('%I ', named.name) ELSE ''::text
    END, nspname, relname)
FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
CROSS JOIN LATERAL (SELECT pg_catalog.format('idx_%s_version_number', relname) AS name) AS named
WHERE pg_class.oid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'states'))::oid AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_index JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
    WHERE indrelid = pg_class.oid AND indisvalid AND indpred IS NULL AND attname = 'version_number'::name
)
\gexec
