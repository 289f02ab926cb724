-- Ends each file of a function: puts the name of the table into the function's body, where psql replaces nothing.
--
-- The file has just created the function that the setting strata.function names, in the first schema of the search path.
-- In its body, :"events" (or :"spool", :"states") stands for the table, :'events' for the table's name as a text,
-- :"events_tags" and :'events_tags' for what is called so beside the table, and :"events.id" and :'events.id' for the type of
-- the table's column id. This statement makes the function once more, in the schema of the table, with these names and the
-- schema in these places.
DO $do$
DECLARE
    name       CONSTANT NAME := pg_catalog.current_setting('strata.function');
    first      CONSTANT NAME := pg_catalog.current_schema();
    relation   CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.regexp_replace(name, '_[a-z]+$', ''))::regclass;
    events     TEXT; -- the table: "My schema"."My events"
    endings    TEXT[]; -- of the names that stand for what is beside the table: _tags
    names      TEXT[]; -- the table and these: "My schema"."My events_tags"
    complete   TEXT; -- the function beside it: "My schema"."My events_append"
    draft      RECORD;
    definition TEXT;
    opening    TEXT;
    closing    TEXT;
    id_type    TEXT; -- of the column id of the table, if it has one
    variable   TEXT;
    template   TEXT; -- the body, for format()
BEGIN
    -- Only built-in functions and operators are found from here on, whatever the schemas of the search path have.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT format('%I.%I', nspname, relname), format('%I.%I', nspname, name) INTO STRICT events, complete
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid = relation;

    -- A function of the same name with other parameters has no such variable left, as it has been completed before.
    SELECT pg_proc.oid, format('%I.%I', nspname, proname) AS name, prosrc AS body INTO STRICT draft
    FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE nspname = first AND proname = name AND prosrc ~ ':"[a-z]+(_[a-z]+)?"';

    definition := pg_get_functiondef(draft.oid);
    opening := 'CREATE OR REPLACE FUNCTION ' || draft.name;
    closing := 'AS $function$' || draft.body || E'$function$\n';
    IF NOT starts_with(definition, opening) OR right(definition, length(closing)) <> closing THEN
        RAISE EXCEPTION 'this server writes definitions of functions in an unknown way: %', definition;
    END IF;

    -- The file has switched the check off, as the body of a draft is no SQL. The body that it gets now has to be.
    PERFORM set_config('check_function_bodies', 'on', true);
    variable := substring(draft.body FROM ':"([a-z]+)[_"]');
    -- The places are marked in our own text, and the names come in last and at once: nothing looks at a name again.
    template := replace(draft.body, '%', '%%');
    template := replace(template, format(':"%s"', variable), '%1$s');
    template := replace(template, format(':''%s''', variable), '%1$L');
    SELECT coalesce(max(format_type(atttypid, NULL)), '') INTO id_type
    FROM pg_attribute WHERE attrelid = relation AND attname = 'id' AND NOT attisdropped;
    template := replace(template, format(':"%s.id"', variable), id_type);
    template := replace(template, format(':''%s.id''', variable), quote_literal(id_type));
    endings := ARRAY(
        SELECT DISTINCT found.match[1]
        FROM regexp_matches(template, format(':["'']%s(_[a-z]+)["'']', variable), 'g') AS found (match)
    );
    FOR place IN 1 .. cardinality(endings) LOOP
        template := replace(template, format(':"%s%s"', variable, endings[place]), format('%%%s$s', place + 1));
        template := replace(template, format(':''%s%s''', variable, endings[place]), format('%%%s$L', place + 1));
    END LOOP;
    SELECT events || ARRAY(SELECT format('%I.%I', nspname, relname || ending) FROM unnest(endings) AS ending) INTO names
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = relation;
    EXECUTE 'CREATE OR REPLACE FUNCTION ' || complete
        || substr(definition, length(opening) + 1, length(definition) - length(opening) - length(closing))
        || 'AS ' || quote_literal(format(template, VARIADIC names));
    IF complete <> draft.name THEN
        EXECUTE format('DROP FUNCTION %s', draft.oid::regprocedure);
    END IF;
END
$do$;

-- next
RESET strata.function;

-- next
RESET check_function_bodies;
