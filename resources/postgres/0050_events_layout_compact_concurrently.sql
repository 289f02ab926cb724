-- Optional, by layout: "compact": smaller indexes of a compact log. They have blocks of versions instead of versions, and
-- minutes instead of times, so that the entries of many events are equal: the server keeps equal ones as one, with 6 bytes for
-- each event. A read in the order of versions sorts the events of one block. A large table gets them while others go on to
-- write to it, as the ending of the file's name says: run it outside of a transaction.
--
-- Blocks have 64 versions for aggregates, whose last version each append with an expectation looks for, 256 for types, and
-- 4,096 for times: `src/postgres/events/CompactLog.ts` has the same numbers. Definitions are compared without the quotes that
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
WHERE indrelid IN (
        SELECT pg_catalog.to_regclass(pg_catalog.quote_ident(:'events'))::oid
        UNION SELECT inhrelid FROM pg_catalog.pg_inherits
        WHERE inhparent = pg_catalog.to_regclass(pg_catalog.quote_ident(:'events'))::oid
    ) AND NOT indisvalid AND relkind = 'i'::"char"
    AND pg_catalog.replace(pg_catalog.pg_get_indexdef(indexrelid), '"'::text, ''::text)
        ~ ' USING btree [(].*[(][(]?version >> [0-9]+[)]'::text
\gexec

-- next
-- The partitions come before the log that they are of: what they have already becomes a part of its index, and none is built.
SELECT pg_catalog.format('CREATE INDEX %sON %I.%I %s', CASE
        WHEN relkind = 'r'::"char" AND bytes >= 8388608::bigint THEN 'CONCURRENTLY '::text ELSE ''::text
    END, nspname, relname, form)
FROM (VALUES
    ('(aggregate_id, ((version >> 6)))'::text),
    ('(event_type, ((version >> 8)))'::text),
    ('(((version >> 12)), date_trunc(''minute''::text, (created_at AT TIME ZONE ''UTC''::text)))'::text)
) AS wanted (form)
CROSS JOIN (
    SELECT oid, relname, relnamespace, relkind, pg_catalog.pg_relation_size(oid::regclass) AS bytes FROM pg_catalog.pg_class
    WHERE oid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'events'))::oid OR oid IN (
        SELECT inhrelid FROM pg_catalog.pg_inherits
        WHERE inhparent = pg_catalog.to_regclass(pg_catalog.quote_ident(:'events'))::oid
    )
) AS part
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE (part.oid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'events'))::oid OR bytes >= 8388608::bigint)
    AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_index
        WHERE indrelid = part.oid AND indisvalid
            AND pg_catalog.replace(pg_catalog.pg_get_indexdef(indexrelid), '"'::text, ''::text)
                LIKE '% USING btree '::text || form
    )
ORDER BY relkind = 'p'::"char", form
\gexec

-- next
-- Those that they replace.
SELECT pg_catalog.format('DROP INDEX %s%I.%I', CASE
        WHEN relkind = 'i'::"char" AND pg_catalog.pg_relation_size(indrelid::regclass) >= 8388608::bigint
        THEN 'CONCURRENTLY '::text ELSE ''::text
    END, nspname, relname)
FROM pg_catalog.pg_index
JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE indrelid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'events'))::oid AND NOT indisunique
    AND pg_catalog.replace(pg_catalog.pg_get_indexdef(indexrelid), '"'::text, ''::text)
        ~ ' USING btree [(](aggregate_id, version|event_type, version|[(][(]version >> 12[)][)], created_at)[)]$'::text
\gexec
