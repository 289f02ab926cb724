-- The indexes that a table of go-sync-kit's lacks. A large table gets them while others go on to write to it, as the ending of the
-- file's name says: run it outside of a transaction.
\if :{?events}
\else
\set events events
\endif

-- What a build that was ended has left is built anew.
SELECT pg_catalog.format('DROP INDEX CONCURRENTLY %I.%I', nspname, relname)
FROM pg_catalog.pg_index
JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
JOIN pg_catalog.pg_attribute AS first ON first.attrelid = indrelid AND first.attnum = indkey[0]
JOIN pg_catalog.pg_attribute AS second ON second.attrelid = indrelid AND second.attnum = indkey[1]
WHERE indrelid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'events'))::oid AND NOT indisvalid AND indpred IS NULL
    AND relkind = 'i'::"char" AND first.attname IN ('aggregate_id'::name, 'event_type'::name)
    AND second.attname = 'version'::name
\gexec

-- next
-- That of aggregates serves the history of an aggregate, in order, and its last version, which appends compare with what they
-- expect: the index alone answers that. That of types serves readers of some types, in order: go-sync-kit's own, without the
-- version, knows no order, so each page of a reader would collect all events of its types. They are looked for by the columns,
-- since an index of another table may have any name. The primary key serves readers of the whole log, the unique id look-ups
-- of one event.
SELECT pg_catalog.format('CREATE INDEX %sON %I.%I (%I, version)', CASE
        WHEN relkind = 'r'::"char" AND pg_catalog.pg_relation_size(pg_class.oid::regclass) >= 8388608::bigint
        THEN 'CONCURRENTLY '::text ELSE ''::text
    END, nspname, relname, pg_attribute.attname)
FROM pg_catalog.pg_class
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
JOIN pg_catalog.pg_attribute ON pg_attribute.attrelid = pg_class.oid AND pg_attribute.attname IN ('aggregate_id'::name, 'event_type'::name)
WHERE pg_class.oid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'events'))::oid AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_index
    JOIN pg_catalog.pg_attribute AS second ON second.attrelid = indrelid AND second.attnum = indkey[1]
    WHERE indrelid = pg_class.oid AND indisvalid AND indpred IS NULL
        AND indkey[0] = pg_attribute.attnum AND second.attname = 'version'::name
)
ORDER BY pg_attribute.attnum
\gexec
