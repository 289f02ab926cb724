-- Optional: notifications of go-sync-kit, for programs that listen to its channels. Each inserted row is told of twice, on
-- "stream_" and its aggregate's id and on "events_global". Runs with the option notify: "rows" only.
--
-- It costs: a transaction that notifies takes a lock of the whole instance for its commit (23k commits/s became 6.4k), and
-- an aggregate id of more than 56 bytes makes the INSERT fail, as no channel can have its name.
--
-- By hand: psql -f 0005_events_notify_rows.sql, with -c 'SET search_path TO app' before it for a schema, and
-- -v events=NAME for another table name. To undo it: DROP TRIGGER events_notify_trigger ON events.
\if :{?events}
\else
\set events events
\endif

-- Function and trigger have the names that go-sync-kit gives them: whoever comes second replaces them, and nobody is told
-- twice. Its listeners parse the payload: what json_build_object makes of these keys in this order, byte for byte.
CREATE OR REPLACE FUNCTION notify_event_inserted() RETURNS TRIGGER LANGUAGE plpgsql AS
$body$
BEGIN
    PERFORM
        pg_notify(NEW.stream_name, json_build_object('version', NEW.version, 'id', NEW.id,
            'aggregate_id', NEW.aggregate_id, 'event_type', NEW.event_type, 'created_at', NEW.created_at)::text),
        pg_notify('events_global', json_build_object('version', NEW.version, 'id', NEW.id,
            'aggregate_id', NEW.aggregate_id, 'event_type', NEW.event_type, 'stream_name', NEW.stream_name,
            'created_at', NEW.created_at)::text);
    RETURN NULL;
END
$body$;

-- next
CREATE OR REPLACE TRIGGER events_notify_trigger AFTER INSERT ON :"events"
    FOR EACH ROW EXECUTE FUNCTION notify_event_inserted();
