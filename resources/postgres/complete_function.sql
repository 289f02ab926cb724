-- Ends each file of a function: puts the name of the table into the function's body, where psql replaces nothing.
--
-- The file has just created the function that the setting strata.function names, in the first schema of the search path. In
-- its body, :"events" (or :"spool" ..) stands for the table and :'events' for the table's name as a text. This statement
-- makes the function once more, beside its table, with the table's name and schema in these places.
DO $do$
DECLARE
    name       CONSTANT NAME := current_setting('strata.function');
    -- The name of the table, in its schema. The function has the same name with an ending.
    events     TEXT;
    complete   TEXT;
    draft      RECORD;
    definition TEXT;
    variable   TEXT;
    head       TEXT;
    tail       TEXT;
BEGIN
    SELECT format('%I.%I', nspname, relname), format('%I.%I', nspname, name) INTO STRICT events, complete
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid = quote_ident(regexp_replace(name, '_[a-z]+$', ''))::regclass;

    -- Another function of the same name, with other parameters, has been completed already.
    SELECT pg_proc.oid, prosrc AS body, format('%I.%I', nspname, proname) AS name INTO STRICT draft
    FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE nspname = current_schema() AND proname = name AND prosrc ~ ':"[a-z]+"';

    -- CREATE OR REPLACE FUNCTION app.events_append(..) .. AS $function$..$function$, and the end of a line.
    definition := pg_get_functiondef(draft.oid);
    variable := substring(draft.body FROM ':"([a-z]+)"');
    head := 'CREATE OR REPLACE FUNCTION ' || draft.name;
    tail := 'AS $function$' || draft.body || E'$function$\n';
    IF NOT starts_with(definition, head) OR right(definition, length(tail)) <> tail THEN
        RAISE EXCEPTION 'this server writes the definition of a function in a way that is not known: %', definition;
    END IF;

    -- The file has switched this off, as the body of the draft is no SQL.
    PERFORM set_config('check_function_bodies', 'on', true);
    EXECUTE 'CREATE OR REPLACE FUNCTION ' || complete
        || substr(definition, length(head) + 1, length(definition) - length(head) - length(tail)) || 'AS '
        || quote_literal(replace(
            -- In this order: a quoted name never contains :"events".
            replace(draft.body, format(':''%s''', variable), quote_literal(events)),
            format(':"%s"', variable), events
        ));
    IF complete <> draft.name THEN
        EXECUTE format('DROP FUNCTION %s', draft.oid::regprocedure);
    END IF;
END
$do$;

-- next
RESET strata.function;

-- next
RESET check_function_bodies;
