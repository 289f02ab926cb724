-- Optional, by partitions: the table of events has partitions of so many versions each. The table that is there becomes the first
-- one. Where it has had events, prepare_partitions.sql comes first, and src/postgres/migrations/Converting.ts runs what follows it.
--
-- What a plain table does by itself, triggers do here, as no partitioned table has an identity column before Postgres 17, or a
-- unique key without the version:
--
-- 1. Versions are a default that clients could override. A version that was drawn before its transaction had locked the table
--    has no holder that readers could find, so a trigger keeps what the sequence had drawn when the transaction had got the
--    lock, and another one refuses versions up to that, and those that the sequence has not drawn.
-- 2. Ids are in a table of their own, which keeps them unique. The second trigger fills it.
-- 3. Partitions are made ahead. Sixteen times in a partition, the transaction that has inserted a certain version makes those
--    that are missing, at its end: while a statement inserts, its own session can attach nothing.
\if :{?events}
\else
\set events events
\endif
\if :{?partitions}
\else
\set partitions 1000000
\endif
\set events_extend :events _extend
\set events_guard :events _guard
\set events_draw :events _draw

SET strata.events TO :"events";

-- next
SET strata.partitions TO :'partitions';

-- next
-- Each block below leaves a search path in which only what is built in is found.
SELECT pg_catalog.set_config('strata.path'::text, pg_catalog.current_setting('search_path'::text), false);

-- next
DO $do$
DECLARE
    events CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.current_setting('strata.events'))::regclass;
    size   CONSTANT BIGINT   := pg_catalog.current_setting('strata.partitions');
    ending BIGINT            := size; -- the first partition has the versions below this one
    found  RECORD;
    log    TEXT; -- the table with partitions
    part   TEXT; -- its first partition, which is the table that was there
    ids    TEXT;
    kind   TEXT; -- of ids
    draws  TEXT; -- the sequence of the versions
    drawn  BIGINT;
    later  TEXT[]; -- what makes for the table with partitions what the plain one has
    is_old BOOLEAN;
    action TEXT;
BEGIN
    -- Only built-in functions and operators are found from here on, whatever the schemas of the search path have.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    SELECT nspname AS space, relname AS name, relkind AS kind, pg_get_userbyid(relowner) AS owner,
        obj_description(events::oid, 'pg_class') AS text INTO STRICT found
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = events;
    ids := format('%I.%I', found.space, found.name || '_ids');
    IF found.kind = 'p' AND to_regclass(ids) IS NOT NULL THEN
        RETURN;
    END IF;
    IF found.kind <> 'r' THEN
        RAISE EXCEPTION 'the table % has partitions that effect-strata has not made', events USING ERRCODE = 'wrong_object_type';
    END IF;
    -- The name of a partition has that of the table, and the first version of the partition.
    IF octet_length(found.name) > 43 THEN
        RAISE EXCEPTION 'the name of the table % has more than 43 bytes: a partition has the name and a version', events
            USING ERRCODE = 'name_too_long';
    END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', events);
    draws := pg_get_serial_sequence(events::text, 'version');
    IF draws IS NULL THEN
        RAISE EXCEPTION 'the table % owns no sequence of versions: ALTER SEQUENCE .. OWNED BY %.version', events, events
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    -- While this transaction has the lock, only a call of nextval draws a version.
    drawn := pg_sequence_last_value(draws::regclass);
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', events) INTO is_old;
    is_old := is_old OR drawn IS NOT NULL;
    IF is_old THEN
        -- The check lets the table be attached without a look at its rows. It is made once the ids of all events are there.
        SELECT substring(pg_get_constraintdef(oid) FROM '< ''?([0-9]+)')::bigint INTO ending
        FROM pg_constraint WHERE conrelid = events AND conname = found.name || '_first' AND convalidated;
        IF ending IS NULL OR ending <= coalesce(drawn, 0) THEN
            RAISE EXCEPTION 'the table % has had events: strata migrate --partitions prepares it first', events
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
    END IF;

    log := format('%I.%I', found.space, found.name);
    part := format('%I.%I', found.space, found.name || '_0');
    later := ARRAY(
        SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = events AND NOT indisunique AND indisvalid
        UNION ALL
        SELECT pg_get_triggerdef(oid) FROM pg_trigger
        WHERE tgrelid = events AND NOT tgisinternal AND NOT starts_with(tgname, found.name || '_gather_')
        UNION ALL
        SELECT format('ALTER TABLE %s %s TRIGGER %I', log,
            CASE tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE REPLICA' END, tgname)
        FROM pg_trigger WHERE tgrelid = events AND NOT tgisinternal AND tgenabled <> 'O'
        UNION ALL
        SELECT format('COMMENT ON TABLE %s IS %L', log, found.text) WHERE found.text IS NOT NULL
        UNION ALL
        SELECT unnest(ARRAY[
            format('GRANT %s ON %s TO %s', granted.privilege, log, granted.role)
                || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END,
            format('REVOKE %s ON %s FROM %s CASCADE', granted.privilege, part, granted.role)
        ])
        FROM pg_class CROSS JOIN LATERAL (
            SELECT privilege_type, grantee, is_grantable FROM aclexplode(relacl)
            UNION ALL
            SELECT format('%s (%I)', privilege_type, attname), grantee, is_grantable
            FROM pg_attribute, aclexplode(attacl) WHERE attrelid = events AND attnum > 0 AND NOT attisdropped
        ) AS explained (privilege, grantee, is_grantable)
        CROSS JOIN LATERAL (
            SELECT privilege, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END
        ) AS granted (privilege, role)
        WHERE pg_class.oid = events AND grantee <> relowner
    );

    -- The names are those of the log from now on.
    FOR action IN
        SELECT format('DROP TRIGGER %I ON %s', tgname, log) FROM pg_trigger WHERE tgrelid = events AND NOT tgisinternal
        UNION ALL
        -- A new log keeps its ids in the table beside it alone.
        SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', log, conname) FROM pg_constraint
        WHERE conrelid = events AND contype = 'u' AND NOT is_old
        UNION ALL
        SELECT format('ALTER TABLE %s RENAME TO %I', log, found.name || '_0')
    LOOP
        EXECUTE action;
    END LOOP;
    FOR action IN
        SELECT format('ALTER INDEX %I.%I RENAME TO %I', found.space, relname, left(format('%s_0_%s', found.name,
            CASE WHEN starts_with(relname, found.name || '_') THEN substr(relname, length(found.name) + 2) ELSE relname END), 63))
        FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = events
    LOOP
        EXECUTE action;
    END LOOP;
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = events AND attname = 'version' AND attidentity <> '') THEN
        -- Its sequence goes with it.
        EXECUTE format('ALTER TABLE %s ALTER version DROP IDENTITY', part);
        draws := format('%I.%I', found.space, found.name || '_version_seq');
        EXECUTE format('CREATE SEQUENCE %s', draws);
        EXECUTE format('ALTER SEQUENCE %s OWNER TO %I', draws, found.owner);
        IF drawn IS NOT NULL THEN
            PERFORM setval(draws::regclass, drawn);
        END IF;
    END IF;
    EXECUTE format('CREATE TABLE %s (
        LIKE %s INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING COMMENTS INCLUDING CONSTRAINTS
            INCLUDING STORAGE INCLUDING COMPRESSION
    ) PARTITION BY RANGE (version)', log, part);
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I', log, found.name || '_first');
    EXECUTE format('ALTER TABLE %s OWNER TO %I', log, found.owner);
    EXECUTE format('ALTER SEQUENCE %s OWNED BY %s.version', draws, log);
    EXECUTE format('ALTER TABLE %s ALTER version SET DEFAULT nextval(%L::regclass), ADD PRIMARY KEY (version)', log, draws);
    EXECUTE format('ALTER TABLE %s ALTER version DROP DEFAULT', part);
    FOREACH action IN ARRAY later LOOP
        EXECUTE action;
    END LOOP;

    IF is_old THEN
        EXECUTE format('ALTER TABLE %I.%I RENAME TO %I', found.space, found.name || '_gathered', found.name || '_ids');
        EXECUTE format('ALTER INDEX %I.%I RENAME TO %I', found.space, found.name || '_gathered_pkey', found.name || '_ids_pkey');
        -- What was deleted meanwhile, which this index finds.
        EXECUTE format('DELETE FROM %s WHERE version < 0', ids);
        EXECUTE format('DROP INDEX %I.%I', found.space, found.name || '_gathered_deleted');
        EXECUTE format('DROP FUNCTION %I.%I()', found.space, found.name || '_gather');
    ELSE
        -- Ids are only compared for equality, which is fastest byte by byte.
        SELECT CASE atttypid WHEN 'uuid'::regtype THEN 'UUID' ELSE 'TEXT COLLATE "C"' END INTO STRICT kind
        FROM pg_attribute WHERE attrelid = log::regclass AND attname = 'id';
        EXECUTE format('CREATE TABLE %s (id %s PRIMARY KEY, version BIGINT NOT NULL)', ids, kind);
        EXECUTE format('ALTER TABLE %s OWNER TO %I', ids, found.owner);
    END IF;
    EXECUTE format('COMMENT ON TABLE %s IS %L', ids, 'The ids of all events of a log that has partitions');
    EXECUTE format('COMMENT ON COLUMN %s.id IS %L', ids, 'The id of the event, of which there is one in the log');
    EXECUTE format('COMMENT ON COLUMN %s.version IS %L', ids, 'The version of the event');

    -- An index of the table that fits one of the log becomes a part of it, and none is built.
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (0) TO (%s)', log, part, ending);
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I', part, found.name || '_first');
    -- Those that follow are as large as the last one, and that may be larger.
    part := format('%I.%I', found.space, found.name || '_' || ending);
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL)', part, log);
    EXECUTE format('ALTER TABLE %s OWNER TO %I', part, found.owner);
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%s) TO (%s)', log, part, ending, ending + size);
END
$do$;

-- next
SELECT pg_catalog.set_config('search_path'::text, pg_catalog.current_setting('strata.path'::text), true);

-- next
SET strata.function TO :"events_extend";

-- next
SET check_function_bodies TO off;

-- next
-- Makes the partitions that are missing: so many that the caller can draw some versions more, and three are left. They are as
-- large as the last one.
CREATE OR REPLACE FUNCTION :"events_extend" (
    more    BIGINT DEFAULT 0,    -- how many versions the caller is about to draw
    patient BOOLEAN DEFAULT true -- whether to wait for who else makes partitions; if not, lock_not_available is raised
)
RETURNS BIGINT -- the versions below this one have partitions
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1min'
AS $body$
DECLARE
    events CONSTANT REGCLASS := :'events'::regclass;
    ahead  CONSTANT BIGINT   := 3;
    -- Nobody may make more than this number at once, whatever is asked for.
    most   CONSTANT BIGINT   := 100;
    size   BIGINT;
    ending BIGINT;
    needed BIGINT;
    part   TEXT;
BEGIN
    FOR look IN 1 .. 2 LOOP
        SELECT (bounds[2])::bigint - (bounds[1])::bigint, (bounds[2])::bigint INTO size, ending
        FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        CROSS JOIN LATERAL
            regexp_match(pg_get_expr(relpartbound, inhrelid), 'FROM [(]''?([0-9]+)''?[)] TO [(]''?([0-9]+)''?[)]') AS bounds
        WHERE inhparent = events ORDER BY 2 DESC NULLS LAST LIMIT 1;
        needed := coalesce(pg_sequence_last_value(pg_get_serial_sequence(:'events', 'version')::regclass), 0)
            + least(greatest(more, 0), most * size) + ahead * size;
        IF ending >= needed THEN
            RETURN ending;
        END IF;
        -- Appends and reads go on beside this lock, and others that make partitions wait for it.
        IF look = 2 THEN
            EXIT;
        ELSIF patient THEN
            LOCK TABLE ONLY :"events" IN SHARE UPDATE EXCLUSIVE MODE;
        ELSE
            LOCK TABLE ONLY :"events" IN SHARE UPDATE EXCLUSIVE MODE NOWAIT;
        END IF;
    END LOOP;
    WHILE ending < needed LOOP
        SELECT format('%I.%I', nspname, relname || '_' || ending) INTO STRICT part
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = events;
        -- A transaction that reads its first snapshot again does not see above what others have made since.
        IF pg_partition_root(to_regclass(part)) IS DISTINCT FROM events THEN
            -- PARTITION OF would lock the whole table, and wait for all who read or append.
            EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL)', part, events);
            EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%s) TO (%s)', events, part, ending, ending + size);
        END IF;
        ending := ending + size;
    END LOOP;
    RETURN ending;
END
$body$;

-- next
\ir complete_function.sql

-- next
SELECT pg_catalog.set_config('search_path'::text, pg_catalog.current_setting('strata.path'::text), true);

-- next
SET strata.function TO :"events_guard";

-- next
SET check_function_bodies TO off;

-- next
CREATE OR REPLACE FUNCTION :"events_guard" ()
RETURNS TRIGGER
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    -- What the other trigger has kept.
    before  CONSTANT BIGINT := nullif(current_setting('strata.drawn_' || TG_RELID::text, true), '');
    drawn   :"events".version%TYPE;
    lowest  :"events".version%TYPE;
    highest :"events".version%TYPE;
BEGIN
    IF TG_LEVEL = 'ROW' THEN
        -- What is made ahead may fail: others try again, and there are partitions left. The doctor says if there are few.
        BEGIN
            PERFORM :"events_extend" (0, false);
        EXCEPTION
            WHEN lock_not_available THEN NULL;
            WHEN OTHERS THEN RAISE WARNING 'no partition can be made for the next versions of %: %', :'events', SQLERRM;
        END;
    ELSIF TG_OP = 'INSERT' THEN
        WITH kept AS (
            INSERT INTO :"events_ids" (id, version) SELECT id, version FROM added RETURNING version
        )
        SELECT min(version), max(version) INTO lowest, highest FROM kept;
        drawn := pg_sequence_last_value(TG_ARGV[0]::regclass);
        IF lowest <= coalesce(before, lowest) OR highest > coalesce(drawn, 0) THEN
            RAISE EXCEPTION 'the version of an event is drawn while its transaction has locked the table %: leave the column version out',
                :'events' USING ERRCODE = 'generated_always';
        END IF;
    ELSIF TG_OP = 'DELETE' THEN
        DELETE FROM :"events_ids" AS known USING removed WHERE known.id = removed.id AND known.version = removed.version;
    ELSE
        TRUNCATE :"events_ids";
    END IF;
    RETURN NULL;
END
$body$;

-- next
\ir complete_function.sql

-- next
SELECT pg_catalog.set_config('search_path'::text, pg_catalog.current_setting('strata.path'::text), true);

-- next
SET strata.function TO :"events_draw";

-- next
SET check_function_bodies TO off;

-- next
-- Keeps what the sequence had drawn when this transaction had locked the table first. Whatever it draws later has a holder.
--
-- Each statement that inserts calls it. So it runs as the caller, and sets no search path, which would take longer than what it
-- does. Each function, operator and type in it is named with its schema.
CREATE OR REPLACE FUNCTION :"events_draw" ()
RETURNS TRIGGER
LANGUAGE plpgsql
AS $body$
DECLARE
    setting CONSTANT pg_catalog.text := pg_catalog.concat('strata.drawn_', TG_RELID);
    before  CONSTANT pg_catalog.text := pg_catalog.current_setting(setting, true);
    drawn   :"events".version%TYPE;
BEGIN
    IF before IS NULL OR before OPERATOR(pg_catalog.=) '' THEN
        drawn := pg_catalog.pg_sequence_last_value(TG_ARGV[0]::pg_catalog.regclass);
        -- Servers from version 17 on say nothing to a role that may not use the sequence.
        IF drawn IS NULL AND NOT pg_catalog.has_sequence_privilege(TG_ARGV[0], 'USAGE, SELECT') THEN
            RAISE EXCEPTION 'permission denied for sequence %', TG_ARGV[0] USING ERRCODE = 'insufficient_privilege';
        END IF;
        PERFORM pg_catalog.set_config(setting, COALESCE(drawn, 0)::pg_catalog.text, true);
    END IF;
    RETURN NULL;
END
$body$;

-- next
\ir complete_function.sql

-- next
SELECT pg_catalog.set_config('search_path'::text, pg_catalog.current_setting('strata.path'::text), true);

-- next
DO $do$
DECLARE
    events CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.current_setting('strata.events'))::regclass;
    found  RECORD;
    extend TEXT;
    draw   TEXT;
    guard  TEXT;
    step   BIGINT;
    made   RECORD;
    action TEXT;
BEGIN
    -- Only built-in functions and operators are found from here on, whatever the schemas of the search path have.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT nspname AS space, relname AS name, pg_get_userbyid(relowner) AS owner INTO STRICT found
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = events;
    extend := format('%I.%I', found.space, found.name || '_extend');
    guard := format('%I.%I', found.space, found.name || '_guard');
    draw := format('%I.%I', found.space, found.name || '_draw');
    -- They run as their owner, so nobody else may call the one, or make triggers of his own of the other.
    EXECUTE format('REVOKE ALL ON FUNCTION %s(BIGINT, BOOLEAN), %s(), %s() FROM PUBLIC', extend, guard, draw);
    EXECUTE format('ALTER FUNCTION %s(BIGINT, BOOLEAN) OWNER TO %I', extend, found.owner);
    EXECUTE format('ALTER FUNCTION %s() OWNER TO %I', guard, found.owner);
    EXECUTE format('ALTER FUNCTION %s() OWNER TO %I', draw, found.owner);
    -- A role that may insert events draws their versions, and looks for ids. An identity column needs no right of its own. A role
    -- that may read them asks what is archived.
    FOR action IN
        SELECT DISTINCT format(needed.giving, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
        FROM pg_class CROSS JOIN LATERAL (
            SELECT privilege_type, grantee FROM aclexplode(relacl)
            UNION ALL
            SELECT privilege_type, grantee FROM pg_attribute, aclexplode(attacl)
            WHERE attrelid = events AND attnum > 0 AND NOT attisdropped
        ) AS granted (privilege, grantee)
        JOIN (
            SELECT 'INSERT', format('GRANT USAGE ON SEQUENCE %s TO %%s', pg_get_serial_sequence(events::text, 'version'))
            UNION ALL
            SELECT 'INSERT', format('GRANT EXECUTE ON FUNCTION %s(BIGINT, BOOLEAN) TO %%s', extend)
            UNION ALL
            SELECT held, format('GRANT SELECT ON %s TO %%s', beside.name)
            FROM unnest(ARRAY['SELECT', 'INSERT']) AS held, unnest(ARRAY['_ids', '_archives', '_archived']) AS ending
            CROSS JOIN LATERAL (SELECT format('%I.%I', found.space, found.name || ending)) AS beside (name)
            WHERE to_regclass(beside.name) IS NOT NULL
        ) AS needed (held, giving) ON needed.held = privilege
        WHERE pg_class.oid = events AND grantee <> relowner
    LOOP
        EXECUTE action;
    END LOOP;

    -- If the transaction of one step is rolled back, the next step comes in time: there are some 48 of them.
    SELECT greatest(1, min((bounds[2])::bigint - (bounds[1])::bigint) / 16) INTO STRICT step
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    CROSS JOIN LATERAL
        regexp_match(pg_get_expr(relpartbound, inhrelid), 'FROM [(]''?([0-9]+)''?[)] TO [(]''?([0-9]+)''?[)]') AS bounds
    WHERE inhparent = events;
    FOR made IN
        SELECT name, format(definition, found.name || '_' || name, events, guard, step,
            pg_get_serial_sequence(events::text, 'version'), draw) AS statement
        FROM (VALUES
            ('drawing', 'CREATE OR REPLACE TRIGGER %1$I BEFORE INSERT ON %2$s FOR EACH STATEMENT EXECUTE FUNCTION %6$s(%5$L)'),
            ('added', 'CREATE TRIGGER %1$I AFTER INSERT ON %2$s REFERENCING NEW TABLE AS added
                FOR EACH STATEMENT EXECUTE FUNCTION %3$s(%5$L)'),
            ('removed', 'CREATE TRIGGER %1$I AFTER DELETE ON %2$s REFERENCING OLD TABLE AS removed
                FOR EACH STATEMENT EXECUTE FUNCTION %3$s()'),
            ('emptied', 'CREATE TRIGGER %1$I AFTER TRUNCATE ON %2$s FOR EACH STATEMENT EXECUTE FUNCTION %3$s()'),
            ('ahead', 'CREATE CONSTRAINT TRIGGER %1$I AFTER INSERT ON %2$s DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW WHEN (NEW.version %% %4$s = 0) EXECUTE FUNCTION %3$s()')
        ) AS needed (name, definition)
        WHERE NOT EXISTS (
            SELECT FROM pg_trigger
            WHERE tgrelid = events AND tgname = found.name || '_' || needed.name
                -- Another function was called before statements once.
                AND (needed.name <> 'drawing' OR tgfoid = to_regprocedure(draw || '()'))
        )
    LOOP
        EXECUTE made.statement;
    END LOOP;
    EXECUTE format('SELECT %s()', extend);
END
$do$;

-- next
RESET strata.path;

-- next
RESET strata.partitions;

-- next
RESET strata.events;
