-- The indexes that a table of a Go original lacks: of the tables of events, of states, and of RetrySpool's messages. A large
-- table gets them while others go on to write to it, as the ending of the file's name says: run it outside of a transaction.
-- An index whose building was ended is invalid, and is built anew.
\if :{?events}
\else
\set events events
\endif
\if :{?states}
\else
\set states states_store
\endif
\if :{?spool}
\else
\set spool retryspool_messages
\endif

SELECT pg_catalog.format('DROP INDEX CONCURRENTLY %I.%I', nspname, relname)
FROM pg_catalog.pg_index
JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
LEFT JOIN pg_catalog.pg_attribute AS first ON first.attrelid = indrelid AND first.attnum = indkey[0]
LEFT JOIN pg_catalog.pg_attribute AS second ON second.attrelid = indrelid AND second.attnum = indkey[1]
WHERE NOT indisvalid AND relkind = 'i'::"char" AND (
    indrelid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'events'))::oid AND indpred IS NULL
        AND first.attname = 'aggregate_id'::name AND second.attname = 'version'::name
    OR indrelid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'states'))::oid AND indpred IS NULL
        AND first.attname = 'version_number'::name
    OR indrelid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'spool'))::oid AND relname::text IN (
        :'spool'::text || '_ready'::text, :'spool'::text || '_due'::text, :'spool'::text || '_state'::text
    )
)
\gexec

-- next
-- An index of a small table is built in no time, and may be so in the transaction that has made the table.
--
-- That of events serves the history of an aggregate, in order, and its last version, which appends compare with what they
-- expect: the index alone answers that. It is looked for by the columns, as is that of states, since an index of another table
-- may have any name. The primary key of events serves readers of the whole log, the unique id look-ups of one event.
--
-- That of states gets the name that eGo gives it, so that eGo does not add it once more, unless that name is too long or is
-- taken.
--
-- The first two of messages hold what can be claimed, by queue, in the order of claims: a claim passes no archived message, and
-- within a priority no message that is not due. The third one serves lists, and finds active messages. No index has the lease,
-- which is all that a renewal changes, so a renewal writes to no index.
WITH tables AS (
    SELECT pg_class.oid, nspname, relname, CASE
            WHEN relkind = 'r'::"char" AND pg_catalog.pg_relation_size(pg_class.oid::regclass) >= 8388608::bigint
            THEN 'CONCURRENTLY '::text ELSE ''::text
        END AS how
    FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid IN (
        pg_catalog.to_regclass(pg_catalog.quote_ident(:'events'))::oid,
        pg_catalog.to_regclass(pg_catalog.quote_ident(:'states'))::oid,
        pg_catalog.to_regclass(pg_catalog.quote_ident(:'spool'))::oid
    )
)
SELECT pg_catalog.format('CREATE INDEX %sON %I.%I (aggregate_id, version)', how, nspname, relname)
FROM tables
WHERE oid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'events'))::oid AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_index
    JOIN pg_catalog.pg_attribute AS first ON first.attrelid = indrelid AND first.attnum = indkey[0]
    JOIN pg_catalog.pg_attribute AS second ON second.attrelid = indrelid AND second.attnum = indkey[1]
    WHERE indrelid = tables.oid AND indisvalid AND indpred IS NULL
        AND first.attname = 'aggregate_id'::name AND second.attname = 'version'::name
)
UNION ALL
SELECT pg_catalog.format('CREATE INDEX %s%sON %I.%I (version_number)', how, CASE
        WHEN pg_catalog.octet_length(named.name) <= 63::int4
            AND pg_catalog.to_regclass(pg_catalog.format('%I.%I', nspname, named.name)) IS NULL
        THEN pg_catalog.quote_ident(named.name) || ' '::text ELSE ''::text
    END, nspname, relname)
FROM tables CROSS JOIN LATERAL (SELECT pg_catalog.format('idx_%s_version_number', relname) AS name) AS named
WHERE oid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'states'))::oid AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_index JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
    WHERE indrelid = tables.oid AND indisvalid AND indpred IS NULL AND attname = 'version_number'::name
)
UNION ALL
SELECT pg_catalog.format('CREATE INDEX %s%I ON %I.%I %s', how, pg_catalog.format('%s%s', relname, ending), nspname, relname,
    definition)
FROM tables CROSS JOIN (VALUES
    ('_ready'::text, $sql$(coalesce(queue, ''), priority, created, id COLLATE "C") WHERE state = 0$sql$::text),
    ('_due'::text, $sql$(coalesce(queue, ''), priority, next_retry, id COLLATE "C") WHERE state = 2$sql$::text),
    ('_state'::text, $sql$(state, created, id COLLATE "C")$sql$::text)
) AS wanted (ending, definition)
WHERE oid = pg_catalog.to_regclass(pg_catalog.quote_ident(:'spool'))::oid
    AND pg_catalog.to_regclass(pg_catalog.format('%I.%I', nspname, pg_catalog.format('%s%s', relname, ending))) IS NULL
\gexec
