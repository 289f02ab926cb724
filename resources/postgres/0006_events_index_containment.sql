-- Optional: indexes for queries by what events contain. Runs with the option index: "containment" only, as each append
-- then costs about twice as much.
--
-- By hand: psql -f 0006_events_index_containment.sql, with -c 'SET search_path TO app' before it for a schema, and
-- -v events=NAME for another table name. On a large table: CREATE INDEX CONCURRENTLY, with the rest of the two lines.
\if :{?events}
\else
\set events events
\endif

-- Smaller and faster than the default operators, and containment is all that the store asks for.
CREATE INDEX ON :"events" USING GIN (data jsonb_path_ops);

-- next
CREATE INDEX ON :"events" USING GIN (metadata jsonb_path_ops);
